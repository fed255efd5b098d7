package transport

import (
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// The limits on the schemes that are kept from Proxy-Authenticate fields.
const (
	maxSchemes = 8
	maxScheme  = 32 // bytes of a scheme's name
)

// challenges returns the authentication schemes of the Proxy-Authenticate fields in their order,
// each once (RFC 9110 section 11.7.1). It returns nil if there is no such field, and an empty slice
// if the fields name no scheme.
func challenges(fields []http1.Field) []string {
	var schemes []string
	for i := range fields {
		if fields[i].Kind != http1.ProxyAuthenticate {
			continue
		}
		if schemes == nil {
			schemes = []string{}
		}
		schemes = appendSchemes(schemes, string(fields[i].Value))
	}
	return schemes
}

// appendSchemes parses one field: a list of challenges, each of which may contain a list of
// parameters (RFC 9110 section 11.6.1). A token is a scheme unless "=" follows it.
func appendSchemes(schemes []string, v string) []string {
	for v = strings.TrimLeft(v, " \t,"); v != ""; v = strings.TrimLeft(v, " \t,") {
		n := tokenLen(v, false)
		if n == 0 {
			v = afterComma(v)
			continue
		}
		word := v[:n]
		v = strings.TrimLeft(v[n:], " \t")
		if strings.HasPrefix(v, "=") { // a parameter
			v = afterComma(v)
			continue
		}
		if n <= maxScheme && len(schemes) < maxSchemes &&
			!slices.ContainsFunc(schemes, func(s string) bool { return strings.EqualFold(s, word) }) {
			schemes = append(schemes, word)
		}
		// A token68 may follow instead of parameters.
		if n := tokenLen(v, true); n > 0 {
			rest := strings.TrimLeft(v[n:], "=")
			if rest = strings.TrimLeft(rest, " \t"); rest == "" || rest[0] == ',' {
				v = rest
			}
		}
	}
	return schemes
}

// tokenLen returns the length of the token at the beginning of s (RFC 9110 section 5.6.2), or, if
// is68 is set, of the token68 without its padding (section 11.2).
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

// unsupportedSchemes joins the schemes that a proxy asks for: "Digest or NTLM". It returns "" if
// there are no schemes, or if one of them is Basic, the only scheme that the gateway supports.
func unsupportedSchemes(schemes []string) string {
	if slices.ContainsFunc(schemes, func(s string) bool { return strings.EqualFold(s, "basic") }) {
		return ""
	}
	return strings.Join(schemes, " or ")
}
