package proxylist

import (
	"cmp"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// ParseLine parses one line. Its errors contain no part of the line that may be a credential.
func ParseLine(line string) (upstream.Spec, error) { return ParseLineAs(line, upstream.HTTP) }

// ParseLineAs is like ParseLine, but a line without a scheme gets the given one.
func ParseLineAs(line, scheme string) (upstream.Spec, error) {
	line = stripComment(line)
	if splitAddresses(line) != nil {
		return upstream.Spec{}, errors.New("the line has several addresses; write each proxy in a line of its own")
	}
	line, scheme, _ = cutColumns(line, scheme)
	spec, warning, err := parseAddress(line, scheme)
	if err == nil && warning == describedWarning {
		err = errors.New("the fields behind the port could be a login or a description; write user:pass@host:port, " +
			"or host:port alone")
	}
	if err != nil {
		m := textAfterLogin.FindStringSubmatch(line)
		if words, _, ok := parseWords(line, scheme); ok {
			spec, err = words, checkTemplates(&words.Address)
		} else if m != nil && descriptionOf(m[2]) >= possibleDescription {
			spec, _, err = parseAddress(m[1], cmp.Or(schemeInText(m[2]), scheme))
		}
	}
	if err == nil {
		err = checkCredentials(&spec.Address)
	}
	return spec, err
}

// checkCredentials returns an error if the credentials contain a character that cannot be sent, such as %0A in a URL.
func checkCredentials(a *upstream.Address) error {
	if strings.ContainsAny(a.Username, "\r\n\x00") || strings.ContainsAny(string(a.Password), "\r\n\x00") {
		return errors.New("the user name or password contains a line break or NUL")
	}
	return nil
}

var errForm = errors.New("the line has none of the forms host:port, host:port:user:pass, user:pass@host:port or " +
	"scheme://user:pass@host:port")

var errIPv6 = errors.New("an IPv6 address needs brackets, as in [2001:db8::1]:8080")

// describedWarning is the warning for a line whose last fields are taken as a description of the proxy, such as
// "Jordan" and "premium", although they could be a user and a password.
const describedWarning = "the fields behind the port are taken as a description of the proxy, not as user and " +
	"password; if they are a login, write user:pass@host:port"

// trailingWarning is the warning for a line with a description behind the password.
const trailingWarning = "the fields behind the password are taken as a description of the proxy; if they belong to " +
	"the password, write user:pass@host:port"

// guessedWarning is the warning for a line whose last words are taken as a login, although they could be other text.
const guessedWarning = "the words behind the address are taken as user and password; if they are not, remove them"

// bracketedIPv4 matches an IPv4 address in brackets at the beginning of a line.
var bracketedIPv4 = regexp.MustCompile(`^\[(\d{1,3}(?:\.\d{1,3}){3})\](:.*)$`)

// parseAddress parses a line without a comment. If the line has no scheme, the proxy gets the given one.
func parseAddress(line, scheme string) (spec upstream.Spec, warning string, err error) {
	if !isText(line) {
		return spec, "", errors.New("the line has a control character or is not UTF-8")
	}
	if scheme, rest, ok := strings.Cut(line, "://"); ok && !strings.ContainsAny(scheme, ":@, \t") {
		if link, ok := strings.CutPrefix(rest, "t.me/socks?"); ok {
			spec, err = parseTelegram(link)
		} else if link, ok := strings.CutPrefix(rest, "socks?"); ok && scheme == "tg" {
			spec, err = parseTelegram(link)
		} else {
			spec, err = parseURL(scheme, rest)
		}
		return spec, "", err
	}
	if address, options, ok := strings.Cut(line, "#"); ok && isHostPort(address) && figureName.MatchString(options) {
		spec, err = parseURL(scheme, line) // host:port#NAME=VALUE
		return spec, "", err
	}
	if strings.HasPrefix(line, "[") {
		line = bracketedIPv4.ReplaceAllString(line, "$1$2")
	}
	f := strings.Split(line, ":")
	if len(f) == 5 && isScheme(f[0]) && !isPort(f[1]) && isPort(f[4]) &&
		(!isPort(f[2]) || strings.Contains(f[3], ".") && !strings.Contains(f[1], ".")) { // scheme:user:pass:host:port
		return parseAddress(line[len(f[0])+1:], strings.ToLower(f[0]))
	}
	if len(f) >= 3 && isScheme(f[0]) && !isPort(f[1]) && isPort(f[2]) {
		spec, err = parseURL(f[0], line[len(f[0])+1:])
		return spec, "", err
	}
	if n := len(f); (n == 3 || n == 5) && isPort(f[1]) { // host:port:scheme, host:port:user:pass:scheme
		if schemes := parseProtocols(f[n-1]); len(schemes) > 0 {
			return parseAddress(line[:len(line)-len(f[n-1])-1], schemes[0])
		}
	}
	if len(f) == 3 && isPort(f[1]) && (descriptionOf(f[2]) >= possibleDescription || strings.Contains(f[2], " ")) {
		return parseAddress(f[0]+":"+f[1], scheme) // the line is host:port:country
	}
	if isBareIPv6(line) {
		return spec, "", errIPv6
	}
	if i := strings.LastIndexByte(line, ','); i > 0 { // address,protocol
		if schemes := parseProtocols(strings.TrimSpace(line[i+1:])); len(schemes) > 0 {
			return parseAddress(strings.TrimSpace(line[:i]), schemes[0])
		}
	}
	if len(f) >= 4 && isPort(f[1]) && !strings.Contains(line, "@") {
		if short, protocol, warning := withoutDescription(f); short != "" {
			spec, _, err = parseAddress(short, cmp.Or(protocol, scheme))
			return spec, warning, err
		}
	}
	if i := strings.LastIndexByte(line, '@'); i > 0 && isHostPort(line[:i]) { // host:port@scheme
		if schemes := parseProtocols(line[i+1:]); len(schemes) > 0 {
			return parseAddress(line[:i], schemes[0])
		}
	}
	host, user, password, warning, err := splitFields(line)
	if err != nil {
		return spec, "", err
	}
	if strings.ContainsAny(host, " \t") || strings.ContainsAny(user, " \t") {
		return spec, "", errForm
	}
	spec.Address = upstream.Address{Scheme: scheme, Username: user, Password: upstream.Secret(password)}
	if err := checkTemplates(&spec.Address); err != nil {
		return spec, "", err
	}
	spec.Address.Host, err = upstream.HostPort(host, "")
	return spec, warning, err
}

// withoutDescription returns a line without the fields that describe the proxy; "" if there are none. The caller passes
// the fields of the line: host, port, and at least two more. If one of these fields is a scheme, the second result is
// this scheme. If removed fields could be a login, the third result is a warning.
func withoutDescription(f []string) (line, scheme, warning string) {
	address, rest := f[0]+":"+f[1], f[2:]
	last := len(rest) - 1
	mayAllDescribe := func() bool {
		return !slices.ContainsFunc(rest[1:], func(s string) bool { return descriptionOf(s) < possibleDescription })
	}
	if last == 1 && isPlaceholder(rest[0]) && isPlaceholder(rest[1]) { // host:port:None:None
		return address, "", ""
	}
	if schemes := parseProtocols(rest[0]); len(schemes) > 0 {
		switch {
		case (last > 1 || descriptionOf(rest[1]) == certainDescription) && mayAllDescribe(): // host:port:scheme:country
			return address, schemes[0], ""
		case last == 2 && isLogin(rest[1], rest[2]): // host:port:scheme:user:pass
			return address + ":" + rest[1] + ":" + rest[2], schemes[0], ""
		}
		return "", "", ""
	}
	if descriptionOf(rest[0]) == certainDescription && (mayAllDescribe() || properName.MatchString(rest[1]) &&
		(last == 1 || descriptionOf(strings.Join(rest[2:], " ")) >= possibleDescription)) {
		return address, "", describedWarning // host:port:country:anonymity, host:port:country:city:anonymity
	}
	end, highest := last, noDescription
	for end > 1 && descriptionOf(rest[end]) >= possibleDescription { // host:port:user:pass:country:anonymity
		highest = max(highest, descriptionOf(rest[end]))
		end--
	}
	if highest < certainDescription {
		return "", "", ""
	}
	return strings.Join(f[:end+3], ":"), "", trailingWarning
}

// properName matches a text such as Berlin or "Frankfurt am Main".
var properName = regexp.MustCompile(`^[A-Z][a-z]+(?: [A-Za-z][a-z]*)*$`)

// checkTemplates returns an error if credentials that were not in a URL have a misspelt template.
func checkTemplates(a *upstream.Address) error {
	return upstream.CheckTemplates(a.Username + ":" + string(a.Password))
}

var errIPv4 = errors.New("the host looks like an IPv4 address, but is not valid")

// isBadIPv4 reports whether a host consists of digits, dots and hyphens, but is not an IPv4 address: 192.0.2.1-9 is a
// range of addresses. No domain name has this form, because no top-level domain is a number.
func isBadIPv4(hostPort string) bool {
	host, _, _ := strings.Cut(hostPort, ":")
	if host == "" || strings.Trim(host, "0123456789.-") != "" {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err != nil
}

// isBareIPv6 reports whether a line is an IPv6 address without brackets, with or without a port.
func isBareIPv6(line string) bool {
	if strings.Count(line, ":") < 2 {
		return false
	}
	if _, err := netip.ParseAddr(line); err == nil {
		return true
	}
	_, err := netip.ParseAddr(line[:strings.LastIndexByte(line, ':')])
	return err == nil
}

// isText reports whether a line is valid UTF-8 and contains neither NUL nor a line end.
func isText(line string) bool {
	return !strings.ContainsAny(line, "\x00\r\n") && !strings.ContainsRune(line, '\ufffd')
}

func isScheme(s string) bool { return upstream.IsProxyScheme(strings.ToLower(s)) }

// splitFields splits a line without a scheme into host:port, user and password.
func splitFields(line string) (host, user, password, warning string, err error) {
	if h, credentials, ok := strings.Cut(line, "##"); ok {
		user, password, _ = strings.Cut(credentials, ":")
		return h, user, password, "", nil
	}
	if i := strings.LastIndexByte(line, '@'); i >= 0 {
		left, right := line[:i], line[i+1:]
		switch {
		case isHostPort(right) || !isHostPort(textBefore(line, '@')) && !passwordHasAt(line):
			user, password, _ = strings.Cut(left, ":")
			return right, user, password, "", nil
		case isHostPort(textBefore(line, '@')):
			host, credentials, _ := strings.Cut(line, "@")
			user, password, _ = strings.Cut(credentials, ":")
			return host, user, password, "", nil
		}
	}
	if strings.Contains(line, ",") && !hasCommaInPassword(line) {
		f := splitCells(line, ',')
		switch {
		case len(f) == 2:
			return joinPort(f[0], f[1]), "", "", "", nil
		case len(f) == 4 && isPort(f[1]) && len(parseProtocols(f[2])) == 0 && (isLogin(f[2], f[3]) || f[2] == ""):
			if properName.MatchString(f[2]) && properName.MatchString(f[3]) { // such as Berlin,Hetzner
				warning = guessedWarning
			}
			return joinPort(f[0], f[1]), f[2], f[3], warning, nil
		}
		return "", "", "", "", errForm // a line with more fields is a row of columns, without user and password
	}
	if strings.HasPrefix(line, "[") { // IPv6
		end := strings.IndexByte(line, ']')
		if end < 0 || !strings.HasPrefix(line[end+1:], ":") {
			return "", "", "", "", errForm
		}
		port, credentials, has := strings.Cut(line[end+2:], ":")
		if has {
			user, password, _ = strings.Cut(credentials, ":")
		}
		return line[:end+1] + ":" + port, user, password, "", nil
	}
	return splitColons(line)
}

// passwordHasAt reports whether line is host:port:user:pass or host,port,user,pass. If so, every '@' in the line
// belongs to the password.
func passwordHasAt(line string) bool {
	for _, separator := range []string{":", ","} {
		f := strings.SplitN(line, separator, 4)
		if len(f) == 4 && isPort(strings.TrimSpace(f[1])) {
			return true
		}
	}
	return false
}

// splitColons splits host:port:user:pass and user:pass:host:port. It returns a warning if the line can be read in both
// forms.
func splitColons(line string) (host, user, password, warning string, err error) {
	f := strings.Split(line, ":")
	n := len(f)
	switch {
	case n == 2:
		return line, "", "", "", nil
	case n < 4:
		if n == 3 && isPort(f[1]) { // host:port:user
			return f[0] + ":" + f[1], f[2], "", "", nil
		}
		return "", "", "", "", errForm
	}
	hostFirst := func() (string, string, string, string, error) {
		return f[0] + ":" + f[1], f[2], strings.Join(f[3:], ":"), warning, nil
	}
	hostLast := func() (string, string, string, string, error) {
		return f[n-2] + ":" + f[n-1], f[0], strings.Join(f[1:n-2], ":"), "", nil
	}
	first, last := isPort(f[1]), isPort(f[n-1])
	switch {
	case first && !last:
		return hostFirst()
	case last && !first:
		return hostLast()
	case !first:
		return "", "", "", "", errForm
	}
	switch dotFirst, dotLast := strings.Contains(f[0], "."), strings.Contains(f[n-2], "."); {
	case dotLast && !dotFirst:
		return hostLast()
	case dotLast == dotFirst:
		warning = "the line can be read as host:port:user:pass or as user:pass:host:port and is taken as the first; " +
			"write it as a URL"
	}
	return hostFirst()
}

func textBefore(s string, c byte) string {
	head, _, _ := strings.Cut(s, string(c))
	return head
}

// textAfterLast returns the part of s behind the last c; "" if there is none.
func textAfterLast(s string, c byte) string {
	if i := strings.LastIndexByte(s, c); i >= 0 {
		return s[i+1:]
	}
	return ""
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func isHostPort(s string) bool {
	_, err := upstream.HostPort(s, "")
	return err == nil
}
