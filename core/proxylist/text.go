package proxylist

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// addressPattern matches an IPv4 address and a port, with or without a scheme, among other text. The address and the
// port are separated by a colon, or by white space, commas, semicolons or bars, with or without the word "port". There
// may be a word such as "IP:" before the address.
var addressPattern = regexp.MustCompile(
	`(?i)(?:^|[^\w.:@/%-]|\b(?:ip|host|addr|address|server|proxy)[ \t]*:[ \t]*)((?:(?:https?|socks4a?|socks5h?)://)?)` +
		`(\d{1,3}(?:\.\d{1,3}){3})(?::|[ \t,;|]+(?:port[ \t]*[:=][ \t]*)?)(\d{1,5})(?:$|[^\w.:@%-])`)

// htmlTag matches a tag of HTML.
var htmlTag = regexp.MustCompile(`</?[A-Za-z][^<>]*>`)

func withoutTags(line string) string {
	if strings.Contains(line, "<") {
		return htmlTag.ReplaceAllString(line, " ")
	}
	return line
}

// parseText searches a line for an address among other text, as in free lists. It is for lines that neither
// parseAddress nor parseWords can parse. The line must have exactly one address, which may be repeated. It must have no
// '@', because a line with '@' may contain credentials.
func parseText(line, scheme string) (spec upstream.Spec, ok bool) {
	if strings.ContainsRune(line, '@') {
		return spec, false
	}
	line = strings.ReplaceAll(withoutTags(line), `"`, " ")
	var schemeText, ip, port string
	for rest := line; ; {
		at := addressPattern.FindStringSubmatchIndex(rest)
		if at == nil {
			break
		}
		nextIP, nextPort := rest[at[4]:at[5]], rest[at[6]:at[7]]
		if ip != "" && (nextIP != ip || nextPort != port) {
			return spec, false
		}
		if ip, port = nextIP, nextPort; at[3] > at[2] {
			schemeText = strings.TrimSuffix(rest[at[2]:at[3]], "://")
		}
		rest = rest[at[7]:]
	}
	if ip == "" {
		return spec, false
	}
	if schemeText != "" {
		scheme = strings.ToLower(schemeText)
	} else if word := schemeInText(line); word != "" {
		scheme = word
	}
	host, err := upstream.HostPort(ip+":"+port, "")
	if _, notIP := netip.ParseAddr(ip); err != nil || notIP != nil {
		return spec, false
	}
	spec.Address = upstream.Address{Scheme: scheme, Host: host}
	return spec, true
}

// isSentence reports whether a line in which parseText has found an address has a word that does not describe a proxy.
func isSentence(line string) bool {
	words := strings.FieldsFunc(addressPattern.ReplaceAllString(withoutTags(line), " "),
		func(r rune) bool { return strings.ContainsRune(" \t,;|()[]/\"", r) })
	return slices.ContainsFunc(words, func(word string) bool { return descriptionOfWord(word) == noDescription })
}

// schemeInText returns the scheme of the first protocol among the words of a line; "" for none. A protocol may be in
// brackets, before a colon, or an option of curl, such as --socks5-hostname. schemeInText ignores the scheme of a link,
// and a protocol that the line denies, as in "SOCKS4: no", "SOCKS4=no", "[SOCKS4] [no]" and "(no socks4)".
func schemeInText(line string) string {
	line = strings.NewReplacer("://", "\x00", "=", ": ", "] [", ": ").Replace(strings.ToLower(line))
	isSeparator := func(r rune) bool { return strings.ContainsRune(" \t,;|/()[]", r) }
	words := strings.FieldsFunc(line, isSeparator)
	for i, word := range words {
		denied := strings.HasSuffix(word, ":") && i+1 < len(words) && words[i+1] == "no"
		word = strings.TrimSuffix(strings.Trim(word, "-:"), "-hostname")
		if denied || strings.Contains(line, "(no "+word) {
			continue
		}
		if strings.HasPrefix(word, "socks") || word == "http" || word == "https" {
			if schemes := parseProtocols(word); len(schemes) > 0 {
				return schemes[0]
			}
		}
	}
	return ""
}
