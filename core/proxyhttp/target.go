package proxyhttp

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Target is a parsed request target in absolute form.
type Target struct {
	TLS      bool   // an https:// URL
	Absolute []byte // URL without its fragment, with the scheme http or https
	Path     []byte // URL in origin form
	Host     []byte // value of the Host field to send: the URL's authority
}

const portOfTLS = "443" // default port of https://

var (
	fragmentMark = []byte("#")
	schemeEnd    = []byte("://")
)

// ParseTarget parses a request target in absolute form (RFC 9112 section 3.2.2). It removes a fragment. Clients
// should not send a fragment (RFC 9110 section 4.2.5), but Java's HttpClient and Python's urllib send one after a
// redirect. It treats ws:// and wss:// (RFC 6455 section 3) like http:// and https://. If possible, the slices of the
// result refer to raw, so that nothing is copied.
func ParseTarget(method, raw []byte) (t Target, err error) {
	raw, _, _ = bytes.Cut(raw, fragmentMark)
	raw = httpScheme(raw)
	rest := raw
	switch {
	case hasPrefixFold(rest, "http://"):
		rest = rest[len("http://"):]
	case hasPrefixFold(rest, "https://"):
		rest, t.TLS = rest[len("https://"):], true
	case len(rest) > 0 && rest[0] == '/' || string(rest) == "*":
		return t, fmt.Errorf("this is an HTTP proxy: send requests with an absolute URL " +
			"(curl -x http://this-address http://example.com/) or CONNECT; the REST API listens elsewhere")
	default:
		return t, fmt.Errorf("the request target is not an absolute http:// or https:// URL")
	}
	end := 0 // of the host; a loop, because bytes.IndexAny takes longer for so few bytes
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	t.Absolute, t.Host, t.Path = raw, rest[:end], rest[end:]
	switch {
	case len(t.Host) == 0:
		return t, fmt.Errorf("the request target has no host")
	case bytes.IndexByte(t.Host, '@') >= 0:
		return t, fmt.Errorf("the request target has user information; send it as Authorization")
	}
	switch {
	case len(t.Path) == 0 && string(method) == http.MethodOptions:
		t.Path = []byte("*") // RFC 9112 section 3.2.4
	case len(t.Path) == 0:
		t.Path = []byte("/")
	case t.Path[0] == '?':
		t.Path = append([]byte("/"), t.Path...)
	}
	return t, nil
}

// httpScheme replaces the scheme ws or wss by http or https.
func httpScheme(raw []byte) []byte {
	switch {
	case hasPrefixFold(raw, "ws://"):
		return append([]byte("http"), raw[len("ws"):]...)
	case hasPrefixFold(raw, "wss://"):
		return append([]byte("https"), raw[len("wss"):]...)
	}
	return raw
}

// Port returns the default port of the target's scheme.
func (t *Target) Port() string {
	if t.TLS {
		return portOfTLS
	}
	return "80"
}

func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && http1.EqualFold(b[:len(lower)], lower)
}

// Authority is the host and port of a request's target. The zero value is ready for Set.
type Authority struct {
	HostPort string          // in lower case
	Host     string          // without the port and without brackets
	Target   evidence.Target // the host:port in the form of package evidence

	from, defaultPort string // arguments of the last Set
	origin            string // scheme and authority of the last URL of SetURL; "" if Set has changed a since
}

// SetURL parses a request target in absolute form, as ParseTarget does, and sets a to its authority. If the target
// begins with the scheme and the authority of the previous one, SetURL parses only the rest. If SetURL returns an
// error, a is unchanged.
func (a *Authority) SetURL(method, raw []byte) (t Target, err error) {
	if n := len(a.origin); n > 0 && n < len(raw) && raw[n] == '/' && string(raw[:n]) == a.origin {
		raw, _, _ = bytes.Cut(raw, fragmentMark)
		t.TLS, t.Absolute, t.Host, t.Path = a.defaultPort == portOfTLS, raw, raw[n-len(a.from):n], raw[n:]
		return t, nil
	}
	if t, err = ParseTarget(method, raw); err == nil {
		err = a.Set(t.Host, t.Port())
	}
	if err != nil {
		return t, err
	}
	origin := t.Absolute[:bytes.Index(t.Absolute, schemeEnd)+len(schemeEnd)+len(t.Host)]
	if string(origin) != a.origin {
		a.origin = string(origin)
	}
	return t, nil
}

// Set parses an authority (RFC 3986 section 3.2) without user information. defaultPort is used if the authority has no
// port. If defaultPort is "", an authority without a port is an error. If the arguments equal the arguments of the last
// call, Set allocates nothing. If Set returns an error, a is unchanged.
func (a *Authority) Set(authority []byte, defaultPort string) error {
	if string(authority) == a.from && defaultPort == a.defaultPort {
		return nil
	}
	from := string(authority)
	hostPort, err := upstream.HostPort(from, defaultPort)
	if err != nil {
		return err
	}
	host := strings.Trim(hostPort[:strings.LastIndexByte(hostPort, ':')], "[]")
	*a = Authority{
		HostPort: hostPort, Host: strings.TrimSuffix(host, "."), // without the dot of the root (RFC 1034 section 3.1)
		Target: upstream.Target(hostPort), from: from, defaultPort: defaultPort,
	}
	return nil
}
