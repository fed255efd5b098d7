package transport

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Reach opens a connection to the proxy and closes it: TCP, TLS with an https:// proxy,
// and the greeting with a SOCKS proxy. It sends no request. It takes at most the connect
// timeout for the connection, and as long again for the greeting. A nil error says that the
// proxy can be reached. At the limit of open files it fails, and closes no idle connection:
// a check is worth less than a connection that serves clients.
func (t *Transport) Reach(ctx context.Context, u *upstream.Upstream) *verdict.Error {
	timeout := time.Duration(t.connectTimeout.Load())
	c := &Control{Deadline: t.cfg.Now().Add(2 * timeout)}
	a := u.Spec().Address
	conn, verr := t.dialProxyOnce(ctx, u, a, c)
	if verr != nil {
		return verr
	}
	defer drop(conn)
	if a.Scheme != upstream.SOCKS5 && a.Scheme != upstream.SOCKS5H {
		return nil
	}
	conn.SetDeadline(c.Deadline)
	var buf [262]byte
	if err := socksGreet(conn, a, buf[:]); err != nil {
		return socksFailure(err)
	}
	return nil
}
