// Package proxylist parses lists of proxies with one proxy per line, in the forms that vendors
// use:
//
//	host:port                      [2001:db8::1]:port
//	host:port:user:pass            user:pass:host:port
//	user:pass@host:port            host:port@user:pass
//	host:port##user:pass           host,port,user,pass
//	scheme://[user:pass@]host:port[#region=us&weight=3&cost=0.2&max_in_flight=50&id=a&NAME=VALUE]
//
// In a URL, user and password may be percent-encoded, and the password may contain an '@'. In
// the other forms user and password are taken literally, and the password may contain a ':'.
// The default scheme is http. A comment begins with '#' or ';' at the beginning of a line or
// after white space. Blank lines are skipped.
//
// Four fields separated by colons are host:port:user:pass if only the second field is a port, and
// user:pass:host:port if only the fourth one is. If both are, the host is the one that contains a
// dot; if that does not decide either, the line is host:port:user:pass.
package proxylist

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// MaxLine is the maximum length of a line, in bytes.
const MaxLine = 64 << 10

// Warning is a message about a line that was skipped or is ambiguous. It contains no
// credentials.
type Warning struct {
	Line int
	Msg  string
}

// Parse parses a list. Each proxy gets name as its Source. A line that is not a proxy, or whose
// id is in taken, is skipped with a warning. Parse adds the ids that it reads to taken, which
// may be nil. err is a read error of r.
func Parse(r io.Reader, name string, taken map[string]bool) (specs []upstream.Spec, warnings []Warning, err error) {
	if taken == nil {
		taken = map[string]bool{}
	}
	l := list{name: name, taken: taken, lines: map[upstream.Address]int{}}
	in := bufio.NewReaderSize(r, 4096)
	for n := 1; ; n++ {
		line, tooLong, err := readLine(in)
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if tooLong {
			l.warn(n, "the line is longer than %d bytes", MaxLine)
		} else if line = stripComment(line); line != "" {
			l.add(n, line)
		}
		if err == io.EOF {
			return l.specs, l.warnings, nil
		}
		if err != nil {
			return l.specs, l.warnings, err
		}
	}
}

// list is the result of parsing the lines so far.
type list struct {
	name     string
	taken    map[string]bool
	lines    map[upstream.Address]int // the line of each proxy
	specs    []upstream.Spec
	warnings []Warning
}

func (l *list) warn(n int, format string, args ...any) {
	l.warnings = append(l.warnings, Warning{n, fmt.Sprintf(format, args...)})
}

// add parses line n and adds its proxy.
func (l *list) add(n int, line string) {
	spec, warning, err := parse(line)
	if err == nil {
		err = upstream.CheckSpec(&spec)
	}
	first, duplicate := l.lines[spec.Address]
	switch {
	case err != nil:
		l.warn(n, "%v", err)
	case duplicate:
		l.warn(n, "the same proxy as on line %d", first)
	case spec.ID != "" && l.taken[spec.ID]:
		l.warn(n, "the id %q is already used by another proxy", spec.ID)
	default:
		if warning != "" {
			l.warn(n, "%s", warning)
		}
		l.lines[spec.Address], l.taken[spec.ID] = n, true
		spec.Source = l.name
		l.specs = append(l.specs, spec)
	}
}

// readLine reads one line. If it is too long, line is empty.
func readLine(in *bufio.Reader) (line string, tooLong bool, err error) {
	var b []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(b)+len(part) > MaxLine {
			tooLong, b = true, nil
		} else if !tooLong {
			b = append(b, part...)
		}
		if err != bufio.ErrBufferFull {
			return string(b), tooLong, err
		}
	}
}

// stripComment returns line without comment and surrounding white space.
func stripComment(line string) string {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
		return ""
	}
	for i := 1; i < len(line); i++ {
		if (line[i] == '#' || line[i] == ';') && (line[i-1] == ' ' || line[i-1] == '\t') {
			return strings.TrimSpace(line[:i])
		}
	}
	return line
}

// ParseLine parses one line. Its errors contain no part of the line that may be a credential.
func ParseLine(line string) (upstream.Spec, error) {
	spec, _, err := parse(stripComment(line))
	return spec, err
}

var errForm = errors.New("the line has none of the forms host:port, host:port:user:pass, user:pass@host:port or " +
	"scheme://user:pass@host:port")

func parse(line string) (spec upstream.Spec, warning string, err error) {
	if strings.ContainsAny(line, "\x00\r\n") || strings.ContainsRune(line, '\ufffd') {
		return spec, "", errors.New("the line has a control character or is not UTF-8")
	}
	if scheme, rest, ok := strings.Cut(line, "://"); ok && !strings.ContainsAny(scheme, ":@,") {
		spec, err = parseURL(scheme, rest)
		return spec, "", err
	}
	host, user, password, warning, err := splitFields(line)
	if err != nil {
		return spec, "", err
	}
	if strings.ContainsAny(host, " \t") {
		return spec, "", errForm
	}
	spec.Address = upstream.Address{Scheme: upstream.HTTP, Username: user, Password: upstream.Secret(password)}
	spec.Address.Host, err = upstream.HostPort(host, "")
	return spec, warning, err
}

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
		f := strings.SplitN(line, ",", 4)
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		switch len(f) {
		case 2:
			return f[0] + ":" + f[1], "", "", "", nil
		case 4:
			return f[0] + ":" + f[1], f[2], f[3], "", nil
		}
		return "", "", "", "", errForm
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

// passwordHasAt reports whether line is host:port:user:pass or host,port,user,pass, so that
// every '@' in it belongs to the password.
func passwordHasAt(line string) bool {
	for _, separator := range []string{":", ","} {
		f := strings.SplitN(line, separator, 4)
		if len(f) == 4 && isPort(strings.TrimSpace(f[1])) {
			return true
		}
	}
	return false
}

// splitColons splits host:port:user:pass and user:pass:host:port. warning is a warning if the line
// can be read as either.
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
	if strings.EqualFold(scheme, "socks4") || strings.EqualFold(scheme, "socks4a") {
		return spec, errors.New("socks4 is not supported; use http, https, socks5 or socks5h")
	}
	if spec.Address, err = upstream.ParseAddress(scheme + "://" + rest); err != nil {
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
	default:
		if spec.Metadata == nil {
			spec.Metadata = map[string]string{}
		}
		spec.Metadata[name] = value
	}
	return err
}
