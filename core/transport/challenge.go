package transport

import (
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// The limits on the list that offeredSchemes returns.
const (
	maxSchemes = 8
	maxScheme  = 32 // bytes of a scheme's name
)

// offeredSchemes returns the authentication schemes of the Proxy-Authenticate fields in their order, each once (RFC
// 9110 section 11.7.1). It returns nil if there is no such field, and an empty slice if the fields name no scheme.
func offeredSchemes(fields []http1.Field) []string {
	var schemes []string
	for i := range fields {
		if fields[i].Kind != http1.ProxyAuthenticate {
			continue
		}
		if schemes == nil {
			schemes = []string{}
		}
		for _, challenge := range splitChallenges(string(fields[i].Value)) {
			word := challenge[:tokenLen(challenge, false)]
			if len(word) <= maxScheme && len(schemes) < maxSchemes &&
				!slices.ContainsFunc(schemes, func(s string) bool { return strings.EqualFold(s, word) }) {
				schemes = append(schemes, word)
			}
		}
	}
	return schemes
}

// identifyChallenge returns a hash of the schemes and realms of the Proxy-Authenticate fields; 0 without such a field.
// Other parameters, such as the nonce of a Digest challenge, differ between two responses of one server.
func identifyChallenge(fields []http1.Field) (id uint64) {
	for i := range fields {
		if fields[i].Kind != http1.ProxyAuthenticate {
			continue
		}
		id |= 1
		for _, challenge := range splitChallenges(string(fields[i].Value)) {
			n := tokenLen(challenge, false)
			id = id*31 + uint64(core.Hash53(strings.ToLower(challenge[:n])+" "+realm(challenge[n:])))
		}
	}
	return id
}

// realm returns the value of the parameter realm, with its quotes; "" if there is none.
func realm(parameters string) string {
	for v := strings.TrimLeft(parameters, " \t,"); v != ""; v = strings.TrimLeft(v, " \t,") {
		rest := afterComma(v)
		name, value, _ := strings.Cut(strings.TrimRight(v[:len(v)-len(rest)], " \t,"), "=")
		if strings.EqualFold(strings.TrimRight(name, " \t"), "realm") {
			return strings.TrimLeft(value, " \t")
		}
		v = rest
	}
	return ""
}

// splitChallenges splits one field, which is a list of challenges. Each challenge begins with its scheme and may
// contain a list of parameters (RFC 9110 section 11.6.1). A token is the scheme of a new challenge unless "=" follows
// it.
func splitChallenges(field string) (list []string) {
	begin := -1
	v := field
	for v = strings.TrimLeft(v, " \t,"); v != ""; v = strings.TrimLeft(v, " \t,") {
		n := tokenLen(v, false)
		if n == 0 {
			v = afterComma(v)
			continue
		}
		at := len(field) - len(v)
		v = strings.TrimLeft(v[n:], " \t")
		if strings.HasPrefix(v, "=") { // a parameter
			v = afterComma(v)
			continue
		}
		if begin >= 0 {
			list = append(list, strings.TrimRight(field[begin:at], " \t,"))
		}
		begin = at
		// A token68 may follow instead of parameters.
		if n := tokenLen(v, true); n > 0 {
			rest := strings.TrimLeft(v[n:], "=")
			if rest = strings.TrimLeft(rest, " \t"); rest == "" || rest[0] == ',' {
				v = rest
			}
		}
	}
	if begin >= 0 {
		list = append(list, strings.TrimRight(field[begin:], " \t,"))
	}
	return list
}

// tokenLen returns the length of the token at the beginning of s (RFC 9110 section 5.6.2). If is68 is set, it returns
// the length of the token68 at the beginning of s, without the padding (section 11.2).
func tokenLen(s string, is68 bool) int {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case is68 && strings.IndexByte("-._~+/", c) >= 0:
		case !is68 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return i
		}
	}
	return len(s)
}

// afterComma returns the part of s after the next comma outside of quotes.
func afterComma(s string) string {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[i+1:]
		}
	}
	return ""
}

// unsupportedSchemes joins the schemes that a proxy asks for: "NTLM or Negotiate". It returns "" if there are no
// schemes, or if the gateway can use one of them: Digest, or Basic unless the proxy must not get Basic credentials
// (upstream.AuthDigest).
func unsupportedSchemes(schemes []string, digestOnly bool) string {
	offers := func(scheme string) bool {
		return slices.ContainsFunc(schemes, func(s string) bool { return strings.EqualFold(s, scheme) })
	}
	switch {
	case offers("digest"), offers("basic") && !digestOnly:
		return ""
	case offers("basic"):
		return strings.Join(schemes, " or ") + ` (auth = "digest" excludes Basic)`
	}
	return strings.Join(schemes, " or ")
}
