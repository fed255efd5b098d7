package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// target is where a request goes.
type target struct {
	tls  bool
	path []byte // origin form; nil for CONNECT
	host []byte // value of the Host field to send
}

// withoutFragment cuts off what a client should have kept to itself (RFC 9110 section
// 4.2.5): Java's HttpClient and Python's urllib send it after a redirect.
func withoutFragment(target []byte) []byte {
	target, _, _ = bytes.Cut(target, []byte("#"))
	return target
}

// parseTarget reads an absolute-form target without a fragment (RFC 9112 section 3.2.2).
func parseTarget(method, raw []byte) (t target, authority []byte, err error) {
	rest := raw
	switch {
	case hasPrefixFold(rest, "http://"):
		rest = rest[len("http://"):]
	case hasPrefixFold(rest, "https://"):
		rest, t.tls = rest[len("https://"):], true
	case len(rest) > 0 && rest[0] == '/' || string(rest) == "*":
		return t, nil, fmt.Errorf("this is an HTTP proxy: ask with an absolute URL (curl -x http://this-address http://example.com/) or CONNECT; the REST API listens elsewhere")
	default:
		return t, nil, fmt.Errorf("the request target is not an absolute http:// or https:// URL")
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, t.path = rest[:end], rest[end:]
	switch {
	case len(authority) == 0:
		return t, nil, fmt.Errorf("the request target has no host")
	case bytes.IndexByte(authority, '@') >= 0:
		return t, nil, fmt.Errorf("the request target has user information; send it as Authorization")
	}
	switch {
	case len(t.path) == 0 && string(method) == http.MethodOptions:
		t.path = []byte("*") // RFC 9112 section 3.2.4
	case len(t.path) == 0:
		t.path = []byte("/")
	case t.path[0] == '?':
		t.path = append([]byte("/"), t.path...)
	}
	t.host = authority
	return t, authority, nil
}

func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && http1.EqualFold(b[:len(lower)], lower)
}

// remember fills the memo's host from an authority. It costs next to nothing when
// that is the same as last time.
func (m *memo) remember(authority []byte, defaultPort string) error {
	if string(authority) == m.authorityFrom && defaultPort == m.defaultPort {
		return nil
	}
	hostport, err := upstream.HostPort(string(authority), defaultPort)
	if err != nil {
		return fmt.Errorf("the request target: %w", err)
	}
	m.authorityFrom, m.defaultPort = string(authority), defaultPort
	m.authority = hostport
	m.host = strings.Trim(hostport[:strings.LastIndexByte(hostport, ':')], "[]")
	m.target = upstream.Target(hostport)
	return nil
}

// policy returns the policy the request runs under: the global one, with the
// request's own merged over it.
func (c *conn) policy(global *retry.Policy) (*retry.Policy, error) {
	override, found, err := c.ownField("x-whirlpool-retry")
	switch {
	case err != nil:
		return nil, err
	case !found:
		return global, nil
	case len(override) == 0:
		return nil, fmt.Errorf("X-Whirlpool-Retry is empty")
	}
	if c.memo.policy == nil || c.memo.global != global || c.memo.override != string(override) {
		o, err := retry.ParseHeader(string(override))
		if err != nil {
			return nil, err
		}
		p := global.Merge(o)
		if err := p.Validate(c.set.Strategies); err != nil {
			return nil, err
		}
		c.memo.global, c.memo.override, c.memo.policy = global, string(override), &p
	}
	return c.memo.policy, nil
}

// region returns the region that the request wants, and whether it insists on it.
func (c *conn) region() (region string, strict bool, err error) {
	value, _, err := c.ownField("x-whirlpool-region")
	if err == nil && string(value) != c.memo.regionFrom {
		if region, strict, err = executor.ParseRegion(string(value)); err == nil {
			c.memo.regionFrom, c.memo.region, c.memo.strict = string(value), region, strict
		}
	}
	return c.memo.region, c.memo.strict, err
}

// ownField is the value of a field that steers the gateway, by its name in lower
// case, and whether it is there. It may be there once.
func (c *conn) ownField(name string) (value []byte, found bool, err error) {
	for i := range c.req.Fields {
		f := &c.req.Fields[i]
		if f.Kind != http1.Whirlpool || !http1.EqualFold(f.Name, name) {
			continue
		}
		if found {
			return nil, false, fmt.Errorf("%s appears twice", http.CanonicalHeaderKey(name))
		}
		value, found = f.Value, true
	}
	return value, found, nil
}

// authorized checks the client's credentials. Those that were good last time are
// not looked up again until the settings change.
func (c *conn) authorized() bool {
	if len(c.set.users) == 0 {
		return true
	}
	for i := range c.req.Fields {
		f := &c.req.Fields[i]
		if f.Kind != http1.ProxyAuthorization {
			continue
		}
		if c.memo.authSet == c.set && c.memo.auth == string(f.Value) {
			return true
		}
		if c.set.users.allow(string(f.Value)) {
			c.memo.authSet, c.memo.auth = c.set, string(f.Value)
			return true
		}
		return false
	}
	return false
}

// onward lists the fields that go on: without those of the client's hop, and
// with the Host that the target names (RFC 9112 section 3.2.2).
func (c *conn) onward(host []byte) {
	c.fields = c.fields[:0]
	for _, f := range c.req.Fields {
		switch {
		case f.Kind == http1.Host:
			f.Value = host
		case f.HopByHop() || f.Kind == http1.Expect && http1.EqualFold(f.Value, "100-continue"):
			continue
		}
		c.fields = append(c.fields, f)
	}
	if c.req.Host == nil { // of HTTP/1.0
		c.fields = append(c.fields, http1.Field{Name: hostName, Value: host, Kind: http1.Host})
	}
	if c.set.Via {
		c.fields = append(c.fields, http1.Field{Name: viaName, Value: viaValue[c.req.Minor], Kind: http1.Via})
	}
}

var (
	hostName = []byte("Host")
	viaName  = []byte("Via")
	viaValue = [2][]byte{[]byte("1.0 whirlpool"), []byte("1.1 whirlpool")} // by the minor version of what was received
)

// method returns a string for a method without allocating for the usual ones.
func method(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "PATCH":
		return "PATCH"
	case "CONNECT":
		return "CONNECT"
	}
	return string(b)
}
