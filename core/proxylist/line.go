package proxylist

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
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
	spec, warning, err := parse(line, scheme)
	if err == nil && warning == describedWarning {
		err = errors.New("the fields behind the port could be a login or a description; write user:pass@host:port, " +
			"or host:port alone")
	}
	if err != nil {
		if words, _, ok := parseWords(line, scheme); ok {
			spec, err = words, checkTemplates(&words.Address)
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

// Line returns a proxy as a line for Parse: a URL with its credentials and options.
func Line(s *upstream.Spec) string {
	line := s.Address.Scheme + "://"
	if s.Address.Username != "" || s.Address.Password != "" {
		line += url.UserPassword(s.Address.Username, s.Address.Password.Reveal()).String() + "@"
	}
	line += s.Address.Host
	if options := optionsOfSpec(s); len(options) > 0 {
		line += "#" + options.Encode()
	}
	return line
}

// optionsOfSpec returns the options of a proxy.
func optionsOfSpec(s *upstream.Spec) url.Values {
	options, e := url.Values{}, s.Extra()
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
	for name, value := range e.Metadata {
		set(name, value)
	}
	set("id", s.ID)
	set("region", s.Region)
	set("tags", strings.Join(s.Tags, ","))
	number("weight", s.Weight)
	number("cost", s.Cost)
	number("max_in_flight", float64(e.MaxInFlight))
	number("rate", e.Rate)
	if e.MinInterval != 0 {
		set("min_interval", e.MinInterval.String())
	}
	if e.BytesPerDay != 0 {
		set("bytes_per_day", strconv.FormatInt(e.BytesPerDay, 10))
	}
	number("tier", float64(s.Tier))
	set("vendor", e.Vendor)
	number("cost_per_request", e.Price.Request)
	number("cost_per_gb", e.Price.GB)
	set("auth", e.Auth)
	if e.NoReuse {
		options.Set("reuse", "false")
	}
	if e.TLS != nil {
		set("ca_file", e.TLS.CAFile)
		set("cert", e.TLS.Cert)
		set("key", e.TLS.Key)
		if e.TLS.Insecure {
			options.Set("insecure", "true")
		}
	}
	return options
}

// Column returns the content of a column for a proxy. The parameter name is one of Columns.
func Column(s *upstream.Spec, name string) string {
	if name != columnMetadata {
		bare := *s
		bare.ChangeExtras(func(e *upstream.Extras) { e.Metadata = nil })
		return optionsOfSpec(&bare).Get(name)
	}
	values := url.Values{}
	for name, value := range s.Extra().Metadata {
		values.Set(name, value)
	}
	return values.Encode()
}

var errForm = errors.New("the line has none of the forms host:port, host:port:user:pass, user:pass@host:port or " +
	"scheme://user:pass@host:port")

var errIPv6 = errors.New("an IPv6 address needs brackets, as in [2001:db8::1]:8080")

// describedWarning is the warning for a line whose last fields are taken as a description of the proxy, such as
// "Jordan" and "premium", although they could be a user and a password.
const describedWarning = "the fields behind the port are taken as a description of the proxy, not as user and " +
	"password; if they are a login, write user:pass@host:port"

// parse parses a line without a comment. If the line has no scheme, the proxy gets the given one.
func parse(line, scheme string) (spec upstream.Spec, warning string, err error) {
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
	f := strings.Split(line, ":")
	if len(f) >= 3 && isScheme(f[0]) && !isPort(f[1]) && isPort(f[2]) {
		spec, err = parseURL(f[0], line[len(f[0])+1:])
		return spec, "", err
	}
	if n := len(f); (n == 3 || n == 5) && isPort(f[1]) { // host:port:scheme, host:port:user:pass:scheme
		if schemes := protocols(f[n-1]); len(schemes) > 0 {
			return parse(line[:len(line)-len(f[n-1])-1], schemes[0])
		}
	}
	if len(f) == 3 && isPort(f[1]) && (descriptionOf(f[2]) == describes || strings.Contains(f[2], " ")) {
		return parse(f[0]+":"+f[1], scheme) // the line is host:port:country
	}
	if isBareIPv6(line) {
		return spec, "", errIPv6
	}
	if i := strings.LastIndexByte(line, ','); i > 0 { // address,protocol
		if schemes := protocols(strings.TrimSpace(line[i+1:])); len(schemes) > 0 {
			return parse(strings.TrimSpace(line[:i]), schemes[0])
		}
	}
	if n := len(f); n == 4 && isPort(f[1]) { // host:port:scheme:country, host:port:country:anonymity
		switch schemes := protocols(f[2]); {
		case len(schemes) > 0 && descriptionOf(f[3]) == describes:
			return parse(f[0]+":"+f[1], schemes[0])
		case len(schemes) == 0 && descriptionOf(f[2]) == describes && descriptionOf(f[3]) >= mayDescribe:
			spec, _, err = parse(f[0]+":"+f[1], scheme)
			return spec, describedWarning, err
		}
	}
	if i := strings.LastIndexByte(line, '@'); i > 0 && isHostPort(line[:i]) { // host:port@scheme
		if schemes := protocols(line[i+1:]); len(schemes) > 0 {
			return parse(line[:i], schemes[0])
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

// checkTemplates returns an error if credentials that were not in a URL have a misspelt template.
func checkTemplates(a *upstream.Address) error {
	return upstream.CheckTemplates(a.Username + ":" + string(a.Password))
}

var errIPv4 = errors.New("the host looks like an IPv4 address, but it is none")

// isBadIPv4 reports whether a host consists of digits, dots and hyphens, but is no IPv4 address: 192.0.2.1-9 is a range
// of addresses. No domain name has this form, because no top-level domain is a number.
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

// addressPattern matches an IPv4 address and a port, with or without a scheme, among other text. The address and the
// port are separated by a colon, or by white space, commas, semicolons or bars.
var addressPattern = regexp.MustCompile(`(?i)(?:^|[^\w.:@/%-])((?:(?:https?|socks4a?|socks5h?)://)?)` +
	`(\d{1,3}(?:\.\d{1,3}){3})(?::|[ \t,;|]+)(\d{1,5})(?:$|[^\w.:@%-])`)

// htmlTag matches a tag of HTML.
var htmlTag = regexp.MustCompile(`</?[A-Za-z][^<>]*>`)

func withoutTags(line string) string {
	if strings.Contains(line, "<") {
		return htmlTag.ReplaceAllString(line, " ")
	}
	return line
}

// parseText searches a line for an address among other text, as in free lists. It is for lines that have none of the
// forms of parse and parseWords. The line must have exactly one address, which may be repeated. It must have no '@',
// because a line with '@' may contain credentials.
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

// schemeInText returns the scheme of the first protocol among the words of a line; "" for none.
func schemeInText(line string) string {
	for _, word := range strings.FieldsFunc(strings.ToLower(line),
		func(r rune) bool { return strings.ContainsRune(" \t,;|/=", r) }) {
		if strings.HasPrefix(word, "socks") || word == "http" || word == "https" {
			if schemes := protocols(word); len(schemes) > 0 {
				return schemes[0]
			}
		}
	}
	return ""
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
	if strings.Contains(line, ",") {
		f := splitCells(line, ',')
		switch {
		case len(f) == 2:
			return joinPort(f[0], f[1]), "", "", "", nil
		case len(f) == 4 && isPort(f[1]) && len(protocols(f[2])) == 0 && (isLogin(f[2], f[3]) || f[2] == ""):
			return joinPort(f[0], f[1]), f[2], f[3], "", nil
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

// parseURL parses a URL and the options in its fragment.
func parseURL(scheme, rest string) (spec upstream.Spec, err error) {
	if strings.EqualFold(scheme, "socks") {
		scheme = upstream.SOCKS5
	}
	options := ""
	if i := strings.LastIndexByte(rest, '#'); i >= 0 && i > strings.LastIndexByte(rest, '@') {
		rest, options = rest[:i], rest[i+1:]
	}
	rest = strings.TrimSuffix(rest, "/")
	if f := strings.SplitN(rest, ":", 4); len(f) == 4 && isPort(f[1]) && !isHostPort(textAfterLast(rest, '@')) {
		// The form is host:port:user:pass after a scheme. User and password are not percent-decoded.
		spec.Address = upstream.Address{
			Scheme: strings.ToLower(scheme), Username: f[2], Password: upstream.Secret(f[3]),
		}
		if !isScheme(scheme) {
			return spec, &schemeError{scheme, "scheme"}
		}
		if err := checkTemplates(&spec.Address); err != nil {
			return spec, err
		}
		spec.Address.Host, err = upstream.HostPort(f[0]+":"+f[1], "")
	} else if spec.Address, err = upstream.ParseAddress(scheme + "://" + rest); err != nil {
		spec.Address, err = addressOfFields(scheme, rest, err)
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

// addressOfFields returns the address of scheme://user:pass:host:port, of scheme://host:port@user:pass and of
// scheme://[IPv6]:port:user:pass. For any other text, it returns the error that the caller has passed.
func addressOfFields(scheme, rest string, invalid error) (a upstream.Address, err error) {
	if address, login, found := strings.Cut(rest, "@"); found && isPlainAddress(address) &&
		!strings.Contains(login, "@") { // scheme://host:port@user:pass
		rest = address + ":" + login
	}
	host, user, password, warning, err := splitFields(rest)
	if err != nil || user == "" || warning != "" || !isScheme(scheme) || !isPlainAddress(host) ||
		strings.ContainsAny(rest, "@,") {
		return a, invalid
	}
	a = upstream.Address{Scheme: strings.ToLower(scheme), Username: user, Password: upstream.Secret(password)}
	if err := checkTemplates(&a); err != nil {
		return a, err
	}
	a.Host, err = upstream.HostPort(host, "")
	return a, err
}

// setTLS sets an option for an https:// proxy. It does not read files.
func setTLS(e *upstream.Extras, name, value string) error {
	if e.TLS == nil {
		e.TLS = &upstream.TLS{}
	}
	switch name {
	case "ca_file":
		e.TLS.CAFile = value
	case "cert":
		e.TLS.Cert = value
	case "key":
		e.TLS.Key = value
	default:
		e.TLS.Insecure = value == "true"
		if value != "true" && value != "false" {
			return errors.New("the option insecure must be true or false")
		}
	}
	return nil
}

func setOption(spec *upstream.Spec, name, value string) (err error) {
	switch name {
	case "id":
		spec.ID = value
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) ||
			len(value) > upstream.MaxIDLength {
			return errors.New("the option id has a control character or is too long")
		}
	case "region", "country":
		spec.Region = value
	case "tags":
		spec.Tags = strings.Split(value, ",")
		for _, tag := range spec.Tags {
			if err := core.CheckTag(tag); err != nil {
				return errors.New("the option tags must have words of letters, digits, '-', '_' and '.', with commas " +
					"between")
			}
		}
	case "weight":
		if spec.Weight, err = parseNumber(name, value); err == nil && spec.Weight == 0 {
			err = errors.New("the option weight must be above 0")
		}
	case "cost":
		spec.Cost, err = parseNumber(name, value)
	default:
		if name == "tier" {
			if n, err := strconv.Atoi(value); err == nil {
				spec.Tier = n
			}
		}
		spec.ChangeExtras(func(e *upstream.Extras) { err = setExtra(e, name, value) })
	}
	return err
}

// parseNumber parses the value of the option with the given name.
func parseNumber(name, value string) (float64, error) {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || !(f >= 0 && f <= 1e6) {
		return 0, fmt.Errorf("the option %s is not a number from 0 to 1000000", name)
	}
	return f, nil
}

// setExtra sets one of the Extras. An unknown option becomes metadata of the proxy.
func setExtra(e *upstream.Extras, name, value string) (err error) {
	switch name {
	case "max_in_flight":
		var f float64
		f, err = parseNumber(name, value)
		e.MaxInFlight = int(f)
	case "rate":
		e.Rate, err = parseNumber(name, value)
	case "min_interval":
		if e.MinInterval, err = time.ParseDuration(value); err != nil {
			err = errors.New("the option min_interval is not a duration such as 500ms")
		}
	case "bytes_per_day":
		if e.BytesPerDay, err = strconv.ParseInt(value, 10, 64); err != nil {
			err = errors.New("the option bytes_per_day is not a number of bytes")
		}
	case "cost_per_request":
		e.Price.Request, err = parseNumber(name, value)
	case "cost_per_gb":
		e.Price.GB, err = parseNumber(name, value)
	case "auth":
		if e.Auth = value; value != upstream.AuthDigest {
			err = errors.New("the option auth must be digest")
		}
	case "reuse":
		e.NoReuse = value == "false"
		if value != "true" && value != "false" {
			err = errors.New("the option reuse must be true or false")
		}
	case "ca_file", "insecure", "cert", "key":
		err = setTLS(e, name, value)
	default: // tier and vendor are metadata, too: earlier versions had them only there
		if name == "vendor" {
			e.Vendor = value
		}
		setMetadata(e, name, value)
	}
	return err
}

func setMetadata(e *upstream.Extras, name, value string) {
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[name] = value
}
