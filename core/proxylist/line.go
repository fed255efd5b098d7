package proxylist

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// ParseLine parses one line. Its errors contain no part of the line that may be a credential.
func ParseLine(line string) (upstream.Spec, error) {
	spec, _, err := parse(stripComment(line), upstream.HTTP)
	return spec, err
}

// Line returns a proxy as a line: a URL with its credentials and options. Parse can read it.
func Line(s *upstream.Spec) string {
	line := s.Address.Scheme + "://"
	if s.Address.Username != "" || s.Address.Password != "" {
		line += url.UserPassword(s.Address.Username, s.Address.Password.Reveal()).String() + "@"
	}
	line += s.Address.Host
	options := url.Values{}
	set := func(name, value string) {
		if value != "" {
			options.Set(name, value)
		}
	}
	number := func(name string, f float64) {
		if f != 0 {
			options.Set(name, strconv.FormatFloat(f, 'g', -1, 64))
		}
	}
	for name, value := range s.Metadata {
		set(name, value)
	}
	set("id", s.ID)
	set("region", s.Region)
	number("weight", s.Weight)
	number("cost", s.Cost)
	number("max_in_flight", float64(s.MaxInFlight))
	if s.NoReuse {
		options.Set("reuse", "false")
	}
	if s.TLS != nil {
		set("ca_file", s.TLS.CAFile)
		set("cert", s.TLS.Cert)
		set("key", s.TLS.Key)
		if s.TLS.Insecure {
			options.Set("insecure", "true")
		}
	}
	if len(options) > 0 {
		line += "#" + options.Encode()
	}
	return line
}

var errForm = errors.New("the line has none of the forms host:port, host:port:user:pass, user:pass@host:port or " +
	"scheme://user:pass@host:port")

var errIPv6 = errors.New("an IPv6 address needs brackets, as in [2001:db8::1]:8080")

// parse parses a line without a comment. scheme applies if the line has no scheme.
func parse(line, scheme string) (spec upstream.Spec, warning string, err error) {
	if strings.ContainsAny(line, "\x00\r\n") || strings.ContainsRune(line, '\ufffd') {
		return spec, "", errors.New("the line has a control character or is not UTF-8")
	}
	if scheme, rest, ok := strings.Cut(line, "://"); ok && !strings.ContainsAny(scheme, ":@, \t") {
		spec, err = parseURL(scheme, rest)
		return spec, "", err
	}
	if isBareIPv6(line) {
		return spec, "", errIPv6
	}
	if i := strings.LastIndexByte(line, ','); i > 0 { // address,protocol
		if schemes := protocols(strings.TrimSpace(line[i+1:])); len(schemes) > 0 {
			return parse(strings.TrimSpace(line[:i]), schemes[0])
		}
	}
	host, user, password, warning, err := splitFields(line)
	if err != nil {
		return spec, "", err
	}
	if strings.ContainsAny(host, " \t") {
		return spec, "", errForm
	}
	spec.Address = upstream.Address{Scheme: scheme, Username: user, Password: upstream.Secret(password)}
	spec.Address.Host, err = upstream.HostPort(host, "")
	return spec, warning, err
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

// addressInText matches an IPv4 address and a port, with or without a scheme, among other text. A colon or
// white space separates address and port.
var addressInText = regexp.MustCompile(`(?i)(?:^|[^\w.:@/%-])((?:(?:https?|socks4a?|socks5h?)://)?)` +
	`(\d{1,3}(?:\.\d{1,3}){3})(?::|[ \t,;|]+)(\d{1,5})(?:$|[^\w.:@%-])`)

// parseText searches for an address in a line that has none of the other forms. In free lists, other text,
// countries and flags may surround the address. The line must contain exactly one address. A line with an
// '@' may contain credentials, so parseText does not search it.
func parseText(line, scheme string) (spec upstream.Spec, ok bool) {
	if strings.ContainsRune(line, '@') {
		return spec, false
	}
	found := addressInText.FindAllStringSubmatch(line, 2)
	if len(found) != 1 {
		return spec, false
	}
	if given := strings.TrimSuffix(found[0][1], "://"); given != "" {
		scheme = strings.ToLower(given)
	}
	host, err := upstream.HostPort(found[0][2]+":"+found[0][3], "")
	if _, notIP := netip.ParseAddr(found[0][2]); err != nil || notIP != nil {
		return spec, false
	}
	spec.Address = upstream.Address{Scheme: scheme, Host: host}
	return spec, true
}

// parseWords parses a line of proxychains: scheme host port, and optionally user and password.
func parseWords(line string) (spec upstream.Spec, ok bool) {
	f := strings.Fields(line)
	if len(f) != 3 && len(f) != 5 || !isScheme(f[0]) {
		return spec, false
	}
	host, err := upstream.HostPort(f[1]+":"+f[2], "")
	if err != nil {
		return spec, false
	}
	spec.Address = upstream.Address{Scheme: strings.ToLower(f[0]), Host: host}
	if len(f) == 5 {
		spec.Address.Username, spec.Address.Password = f[3], upstream.Secret(f[4])
	}
	return spec, true
}

func isScheme(s string) bool { return upstream.IsProxyScheme(strings.ToLower(s)) }

// splitFields splits a line without a scheme.
func splitFields(line string) (host, user, password, warning string, err error) {
	if h, credentials, ok := strings.Cut(line, "##"); ok {
		user, password, _ = strings.Cut(credentials, ":")
		return h, user, password, "", nil
	}
	if i := strings.LastIndexByte(line, '@'); i >= 0 {
		left, right := line[:i], line[i+1:]
		switch {
		case isHostPort(right) || !isHostPort(before(line, '@')) && !passwordHasAt(line):
			user, password, _ = strings.Cut(left, ":")
			return right, user, password, "", nil
		case isHostPort(before(line, '@')):
			host, credentials, _ := strings.Cut(line, "@")
			user, password, _ = strings.Cut(credentials, ":")
			return host, user, password, "", nil
		}
	}
	if strings.Count(line, ",") >= 1 {
		f := strings.Split(line, ",")
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		switch {
		case len(f) == 2:
			return f[0] + ":" + f[1], "", "", "", nil
		case len(f) == 4 && isPort(f[1]) && len(protocols(f[2])) == 0:
			return f[0] + ":" + f[1], f[2], f[3], "", nil
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

// passwordHasAt reports whether line is host:port:user:pass or host,port,user,pass. In this case every '@'
// in it belongs to the password.
func passwordHasAt(line string) bool {
	for _, separator := range []string{":", ","} {
		f := strings.SplitN(line, separator, 4)
		if len(f) == 4 && isPort(strings.TrimSpace(f[1])) {
			return true
		}
	}
	return false
}

// splitColons splits host:port:user:pass and user:pass:host:port. warning is not empty if the line can have
// either form.
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

func before(s string, c byte) string {
	head, _, _ := strings.Cut(s, string(c))
	return head
}

// after returns the part of s after the last c, or "" if s has no c.
func after(s string, c byte) string {
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

// parseURL parses a URL and the options in its fragment.
func parseURL(scheme, rest string) (spec upstream.Spec, err error) {
	options := ""
	if i := strings.LastIndexByte(rest, '#'); i >= 0 && i > strings.LastIndexByte(rest, '@') {
		rest, options = rest[:i], rest[i+1:]
	}
	rest = strings.TrimSuffix(rest, "/")
	if f := strings.SplitN(rest, ":", 4); len(f) == 4 && isPort(f[1]) && !isHostPort(after(rest, '@')) {
		// host:port:user:pass after a scheme; user and password are not percent-decoded
		spec.Address = upstream.Address{
			Scheme: strings.ToLower(scheme), Username: f[2], Password: upstream.Secret(f[3]),
		}
		if !isScheme(scheme) {
			return spec, fmt.Errorf("the scheme %.20q is not supported; use "+upstream.ProxySchemes, scheme)
		}
		spec.Address.Host, err = upstream.HostPort(f[0]+":"+f[1], "")
	} else {
		spec.Address, err = upstream.ParseAddress(scheme + "://" + rest)
	}
	if err != nil {
		return spec, err
	}
	values, err := url.ParseQuery(options)
	if err != nil {
		return spec, errors.New("the options after '#' are not name=value&name=value")
	}
	for name, all := range values {
		value := all[len(all)-1]
		if err := setOption(&spec, name, value); err != nil {
			return spec, err
		}
	}
	return spec, nil
}

// setTLS sets an option for an https:// proxy. Parse does not read the files.
func setTLS(spec *upstream.Spec, name, value string) error {
	if spec.TLS == nil {
		spec.TLS = &upstream.TLS{}
	}
	switch name {
	case "ca_file":
		spec.TLS.CAFile = value
	case "cert":
		spec.TLS.Cert = value
	case "key":
		spec.TLS.Key = value
	default:
		spec.TLS.Insecure = value == "true"
		if value != "true" && value != "false" {
			return errors.New("the option insecure must be true or false")
		}
	}
	return nil
}

func setOption(spec *upstream.Spec, name, value string) error {
	number := func() (float64, error) {
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= 0 && f <= 1e6) {
			return 0, fmt.Errorf("the option %s is not a number from 0 to 1000000", name)
		}
		return f, nil
	}
	var f float64
	var err error
	switch name {
	case "id":
		spec.ID = value
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) ||
			len(value) > upstream.MaxIDLength {
			return errors.New("the option id has a control character or is too long")
		}
	case "region", "country":
		spec.Region = value
	case "weight":
		if spec.Weight, err = number(); err == nil && spec.Weight == 0 {
			err = errors.New("the option weight must be above 0")
		}
	case "cost":
		spec.Cost, err = number()
	case "max_in_flight":
		f, err = number()
		spec.MaxInFlight = int(f)
	case "reuse":
		spec.NoReuse = value == "false"
		if value != "true" && value != "false" {
			err = errors.New("the option reuse must be true or false")
		}
	case "ca_file", "insecure", "cert", "key":
		err = setTLS(spec, name, value)
	default:
		if spec.Metadata == nil {
			spec.Metadata = map[string]string{}
		}
		spec.Metadata[name] = value
	}
	return err
}
