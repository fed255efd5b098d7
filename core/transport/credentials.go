package transport

import (
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// addressFor returns the address of u for the attempt. It replaces the templates in user name and password by values.
func (t *Transport) addressFor(u *upstream.Upstream, c *Control) upstream.Address {
	a := u.Spec().Address
	if !u.HasTemplates() {
		return a
	}
	v := upstream.Values{Session: c.Session, Random: t.randomText(randomTemplate), Region: regionValue(u, c)}
	if v.Session == "" {
		v.Session = t.randomText(randomSession)
	}
	return a.Fill(v)
}

// regionValue returns the value of the template for the region: the region that the request asks for, or the proxy's
// region.
func regionValue(u *upstream.Upstream, c *Control) string {
	if upstream.PlainRegion(c.Region) {
		return c.Region
	}
	return u.Region()
}

// The lengths of the random values of templates.
const (
	randomTemplate = 8
	randomSession  = 13 // length of a session's token
)

// randomText returns n random lower case letters and digits; n is at most 13.
func (t *Transport) randomText(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	b, bits := make([]byte, n), t.cfg.Rand()
	for i := range b {
		b[i] = alphabet[bits%32]
		bits = bits>>5 | bits<<59
	}
	return string(b)
}

// sharesConns reports whether the attempt may use a connection of an earlier attempt, and may leave its own connection
// to later attempts.
func sharesConns(u *upstream.Upstream, c *Control) bool {
	s := u.Spec()
	return s.AllowsReuse() && !(u.HasTemplates() && s.Address.Random(c.Session != ""))
}

// credentialsKey extends key, a result of idleKey, by the values of the proxy's templates. Attempts with different
// values have different keys, because the proxy may use another exit address for each value.
func credentialsKey(u *upstream.Upstream, c *Control, key string) string {
	if !u.HasTemplates() {
		return key
	}
	return c.Session + "\x00" + regionValue(u, c) + "\x00" + key
}
