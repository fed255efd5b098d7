package transport

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Reach opens a connection to the proxy and closes it. It makes a TLS handshake with an https:// proxy, and sends the
// greeting to a SOCKS5 proxy. It sends no request. The connection and the greeting may each take the connect timeout.
// The error is nil if the proxy can be reached. If few descriptors are left, Reach fails. It closes no idle
// connection to get a descriptor, because clients' requests need the descriptors more.
func (t *Transport) Reach(ctx context.Context, u *upstream.Upstream) *verdict.Error {
	timeout := time.Duration(t.connectTimeout.Load())
	c := &Control{Deadline: t.cfg.Now().Add(2 * timeout), isCheck: true}
	a := t.addressFor(u, c)
	conn, verr := t.dialProxyOnce(ctx, u, a, c)
	if verr != nil {
		return verr
	}
	defer closeNow(conn)
	if a.Scheme != upstream.SOCKS5 && a.Scheme != upstream.SOCKS5H {
		return nil
	}
	conn.SetDeadline(c.Deadline)
	var buf [262]byte
	if err := socksGreet(conn, a, &tokenOffer{}, buf[:]); err != nil {
		return socksFailure(err)
	}
	return nil
}
