// Package proxylist reads lists of proxies, one a line, in the forms that
// vendors hand them out in:
//
//	host:port                      [2001:db8::1]:port
//	host:port:user:pass            user:pass:host:port
//	user:pass@host:port            host:port@user:pass
//	host:port##user:pass           host,port,user,pass
//	scheme://[user:pass@]host:port[#region=us&weight=3&cost=0.2&max_in_flight=50&id=a&NAME=VALUE]
//
// In URLs user and password may be percent-encoded and an '@' in the password
// stands as it is; in the other forms they are taken as they are written, and
// a password keeps its ':'. Without a scheme a proxy is http. A comment begins with
// '#' or ';', at the beginning of a line or behind white space; blank lines are
// skipped.
//
// Four fields with colons are host:port:user:pass if only the second is a port,
// user:pass:host:port if only the fourth is one. If both are, the host is taken to
// be the one with a dot in it; if that does not decide, host:port:user:pass.
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

// MaxLine bounds a line, in bytes.
const MaxLine = 64 << 10

// Warning is a line that was skipped, or taken with a doubt. Its text never
// has a credential in it.
type Warning struct {
	Line int
	Msg  string
}

// Parse reads a whole list. name becomes each proxy's Source. A line that is
// no proxy, or whose id is in taken, is skipped with a warning; the ids read
// join taken, which may be nil. err is that of r.
func Parse(r io.Reader, name string, taken map[string]bool) (specs []upstream.Spec, warnings []Warning, err error) {
	in := bufio.NewReaderSize(r, 4096)
	seen := map[upstream.Address]int{}
	if taken == nil {
		taken = map[string]bool{}
	}
	for n := 1; ; n++ {
		line, tooLong, rerr := readLine(in)
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		warn := func(format string, args ...any) {
			warnings = append(warnings, Warning{n, fmt.Sprintf(format, args...)})
		}
		line = strip(line)
		switch {
		case tooLong:
			warn("the line is longer than %d bytes", MaxLine)
		case line != "":
			spec, doubt, perr := parse(line)
			if perr == nil {
				perr = upstream.CheckSpec(&spec)
			}
			first, twice := seen[spec.Address]
			switch {
			case perr != nil:
				warn("%v", perr)
			case twice:
				warn("the same proxy as on line %d", first)
			case spec.ID != "" && taken[spec.ID]:
				warn("the id %q is another proxy's already", spec.ID)
			default:
				if doubt != "" {
					warn("%s", doubt)
				}
				seen[spec.Address], taken[spec.ID] = n, true
				spec.Source = name
				specs = append(specs, spec)
			}
		}
		if rerr == io.EOF {
			return specs, warnings, nil
		}
		if rerr != nil {
			return specs, warnings, rerr
		}
	}
}

// readLine returns a line without its end; of one that is too long, nothing.
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

// strip takes comments and space off a line.
func strip(line string) string {
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

// ParseLine reads one proxy. Its errors never quote what may be a credential.
func ParseLine(line string) (upstream.Spec, error) {
	spec, _, err := parse(strip(line))
	return spec, err
}

var errForm = errors.New("this is none of the forms host:port, host:port:user:pass, user:pass@host:port or scheme://user:pass@host:port")

func parse(line string) (spec upstream.Spec, doubt string, err error) {
	if strings.ContainsAny(line, "\x00\r\n") || strings.ContainsRune(line, '\ufffd') {
		return spec, "", errors.New("the line has a control character, or is not UTF-8")
	}
	if scheme, rest, ok := strings.Cut(line, "://"); ok && !strings.ContainsAny(scheme, ":@,") {
		spec, err = parseURL(scheme, rest)
		return spec, "", err
	}
	host, user, password, doubt, err := fields(line)
	if err != nil {
		return spec, "", err
	}
	if strings.ContainsAny(host, " \t") {
		return spec, "", errForm
	}
	spec.Address = upstream.Address{Scheme: upstream.HTTP, Username: user, Password: upstream.Secret(password)}
	spec.Address.Host, err = upstream.HostPort(host, "")
	return spec, doubt, err
}

// fields splits the forms without a scheme.
func fields(line string) (host, user, password, doubt string, err error) {
	if h, login, ok := strings.Cut(line, "##"); ok {
		user, password, _ = strings.Cut(login, ":")
		return h, user, password, "", nil
	}
	if i := strings.LastIndexByte(line, '@'); i >= 0 {
		left, right := line[:i], line[i+1:]
		switch {
		case isHostPort(right) || !isHostPort(before(line, '@')) && !passwordHasAt(line):
			user, password, _ = strings.Cut(left, ":")
			return right, user, password, "", nil
		case isHostPort(before(line, '@')):
			host, login, _ := strings.Cut(line, "@")
			user, password, _ = strings.Cut(login, ":")
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
		port, login, has := strings.Cut(line[end+2:], ":")
		if has {
			user, password, _ = strings.Cut(login, ":")
		}
		return line[:end+1] + ":" + port, user, password, "", nil
	}
	return colons(line)
}

// passwordHasAt reports whether line is host:port:user:pass or host,port,user,pass,
// whose @ are then the password's.
func passwordHasAt(line string) bool {
	for _, separator := range []string{":", ","} {
		f := strings.SplitN(line, separator, 4)
		if len(f) == 4 && isPort(strings.TrimSpace(f[1])) {
			return true
		}
	}
	return false
}

// colons tells host:port:user:pass from user:pass:host:port.
func colons(line string) (host, user, password, doubt string, err error) {
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
	front := func() (string, string, string, string, error) {
		return f[0] + ":" + f[1], f[2], strings.Join(f[3:], ":"), doubt, nil
	}
	back := func() (string, string, string, string, error) {
		return f[n-2] + ":" + f[n-1], f[0], strings.Join(f[1:n-2], ":"), "", nil
	}
	first, last := isPort(f[1]), isPort(f[n-1])
	switch {
	case first && !last:
		return front()
	case last && !first:
		return back()
	case !first:
		return "", "", "", "", errForm
	}
	switch dotFirst, dotLast := strings.Contains(f[0], "."), strings.Contains(f[n-2], "."); {
	case dotLast && !dotFirst:
		return back()
	case dotLast == dotFirst:
		doubt = "host:port:user:pass or user:pass:host:port? taken as the first; write it as a URL to be sure"
	}
	return front()
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

// parseURL reads a URL with what its fragment says.
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
		if err := option(&spec, name, value); err != nil {
			return spec, err
		}
	}
	return spec, nil
}

func option(spec *upstream.Spec, name, value string) error {
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
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) || len(value) > upstream.MaxIDLength {
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
