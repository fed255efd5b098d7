package gateway

import (
	"fmt"
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

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
		if region, strict, err = proxyhttp.ParseRegion(string(value)); err == nil {
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

// onward lists the fields that go on to the target.
func (c *conn) onward(host []byte) {
	c.fields = proxyhttp.AppendRequestFields(c.fields[:0], c.req.Fields, host)
	if c.set.Via {
		c.fields = proxyhttp.AppendVia(c.fields, c.req.Minor)
	}
}

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
