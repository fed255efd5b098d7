package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// take returns a connection on which q can be sent: a kept one or a new one.
func (t *Transport) take(ctx context.Context, u *upstream.Upstream, pool *idlePool, key string, c *Control, q *Request) (*persistConn, *verdict.Error) {
	if !c.NewConnection {
		if pc := pool.get(key, c.Started, t.cfg.IdleTimeout, q.once()); pc != nil {
			return pc, nil
		}
	}
	if key == "" {
		conn, f := t.dialProxy(ctx, u, u.Spec().Address, c)
		if f != nil {
			return nil, f
		}
		return newPersistConn(conn, "", pool.login), nil
	}
	tun, f := t.Tunnel(ctx, u, c, q.Authority)
	if f != nil {
		return nil, f
	}
	if tun.Refusal.Status != 0 {
		return nil, tun.refusal()
	}
	conn := tun.Conn
	if len(tun.Early) > 0 {
		conn = &earlyConn{Conn: conn, early: tun.Early}
	}
	if q.TLS {
		c.slow()
		tctx, cancel := context.WithDeadline(ctx, c.Deadline)
		defer cancel()
		start := t.cfg.Now()
		tc, err := t.tlsClient(tctx, u, conn, strings.TrimSuffix(strings.TrimPrefix(hostOf(q.Authority), "["), "]"))
		if err != nil {
			drop(conn)
			f := fault(targetTLS, err)
			return nil, f
		}
		c.Timing.Handshake += t.cfg.Now().Sub(start)
		conn = tc
	}
	return newPersistConn(conn, key, nil), nil
}

func hostOf(authority string) string {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		return authority
	}
	return host
}

// slow says that the attempt takes its time.
func (c *Control) slow() {
	if c.OnSlow != nil {
		c.OnSlow()
	}
}

// dialProxy opens a connection to u at a: TCP, and TLS to an https:// proxy.
func (t *Transport) dialProxy(ctx context.Context, u *upstream.Upstream, a upstream.Address, c *Control) (net.Conn, *verdict.Error) {
	start := t.cfg.Now()
	deadline := start.Add(time.Duration(t.patience.Load()))
	if c.Deadline.Before(deadline) {
		deadline = c.Deadline
	}
	conn, err := t.dial(ctx, a, deadline, c)
	if err != nil && exhausted(err) {
		t.CloseAllIdle() // kept connections are the only thing to do without
		conn, err = t.dial(ctx, a, deadline, c)
	}
	dialled := t.cfg.Now()
	c.Timing.Dial = dialled.Sub(start)
	if err != nil {
		f := fault(dialing, err)
		return nil, f
	}
	if t.toItself(conn) {
		conn.Close()
		return nil, loop(a)
	}
	if a.Scheme != upstream.HTTPS {
		return conn, nil
	}
	c.slow()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	tc, err := t.tlsClient(ctx, u, conn, hostOf(a.Host))
	if err != nil {
		conn.Close()
		return nil, fault(greeting, err)
	}
	c.Timing.Handshake = t.cfg.Now().Sub(dialled)
	return tc, nil
}

// dial opens a TCP connection to a proxy, to which we speak first, or to a target
// that is reached directly, which may be the first to speak.
func (t *Transport) dial(ctx context.Context, a upstream.Address, deadline time.Time, c *Control) (net.Conn, error) {
	if to, err := netip.ParseAddrPort(a.Host); err == nil && t.cfg.Dial == nil && to.Addr().Zone() == "" {
		return socket.Dial(ctx, to, deadline, c.slow)
	}
	c.slow()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	dial := t.cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: socket.KeepAliveIdle}).DialContext
	}
	conn, err := dial(ctx, "tcp", a.Host)
	if err != nil {
		return nil, err
	}
	return socket.Wrap(conn), nil
}

// toItself reports whether c leads to an address that ForbidAddress was given.
func (t *Transport) toItself(c net.Conn) bool {
	own := t.own.Load()
	if own == nil {
		return false
	}
	to, ok := c.RemoteAddr().(*net.TCPAddr)
	for _, a := range *own {
		if !ok || to.Port != a.Port {
			continue
		}
		if to.IP.Equal(a.IP) {
			return true
		}
		// Who listens at every address is met at those that came since, too.
		if from, ok := c.LocalAddr().(*net.TCPAddr); ok && a.IP.IsUnspecified() && (to.IP.Equal(from.IP) || to.IP.IsLoopback()) {
			return true
		}
	}
	return false
}

// loop is the fault of a way that leads back here: the entry's own, or for a
// direct one its target's.
func loop(a upstream.Address) *verdict.Error {
	f := &verdict.Error{Cause: verdict.ProxyLoop, Reason: "proxy_loop_detected", Err: errors.New("this entry of the pool is the gateway itself")}
	if a.Scheme == upstream.Direct {
		f.Reason, f.Err = "destination_ip_prohibited", errors.New("the gateway does not lead to itself or its API")
	}
	return f
}

// Refusal is a proxy's refusal of a CONNECT.
type Refusal struct {
	Status     int // 0 if the tunnel stands
	Reason     string
	RetryAfter string
	Fields     []http1.Field // copies
	Body       []byte        // up to 64 KiB
	Facts
}

// Tunnel is a way to a target through a proxy.
type Tunnel struct {
	Conn    net.Conn
	Early   []byte // what came right after the proxy's reply: the target's first bytes
	Refusal Refusal

	Direct bool // there is no proxy in between
}

// TCP is the connection that Conn is or lies on; nil if there is none.
func (tun *Tunnel) TCP() *socket.Conn {
	tcp, _ := bottom(tun.Conn)
	return tcp
}

// Abort closes Conn without TLS's farewell, which would wait for seconds for a
// proxy that does not read.
func (tun *Tunnel) Abort() { drop(tun.Conn) }

const maxReplyBody = 64 << 10

// refusal words a refused CONNECT as the fault of a request that wanted it.
func (tun *Tunnel) refusal() *verdict.Error {
	facts := tun.Refusal.Verdict(core.Timing{})
	f := &verdict.Error{
		Cause: verdict.CauseOf(&facts), Reason: "http_" + itoa(tun.Refusal.Status),
		Err: errors.New("the proxy answers CONNECT with " + itoa(tun.Refusal.Status)),
	}
	if facts.Schemes != "" {
		f.Err = &verdict.SchemeError{Schemes: facts.Schemes}
	}
	return f
}

// Tunnel opens a connection to authority (host:port) through u: by CONNECT, by
// SOCKS5, or directly. A proxy that refuses with a status is no fault: see
// Tunnel.Refusal.
func (t *Transport) Tunnel(ctx context.Context, u *upstream.Upstream, c *Control, authority string) (Tunnel, *verdict.Error) {
	c.Timing = core.Timing{}
	a := u.Spec().Address
	if a.Scheme == upstream.Direct {
		a.Host = authority
	}
	conn, f := t.dialProxy(ctx, u, a, c)
	if f != nil {
		return Tunnel{}, f
	}
	if a.Scheme == upstream.Direct {
		return Tunnel{Conn: conn, Direct: true}, nil
	}
	if !c.Interrupt.watch(conn) {
		drop(conn)
		return Tunnel{}, fault(dialing, errStopped)
	}
	start := t.cfg.Now()
	tun := Tunnel{Conn: conn}
	if tunnels(a.Scheme) {
		c.slow()
		c.Interrupt.setDeadline(conn, c.Deadline)
		if err := socksHandshake(conn, a, authority); err != nil {
			f = handshakeFault(err)
		}
	} else {
		if f = t.connect(conn, a, authority, c, &tun); f == nil && tun.Refusal.Status != 0 {
			tun.Refusal.setFacts(u)
		}
	}
	c.Timing.Handshake += t.cfg.Now().Sub(start)
	if !c.Interrupt.release() && f == nil {
		f = fault(tunnelling, errStopped)
	}
	if f != nil {
		drop(conn)
		return Tunnel{}, f
	}
	if tun.Refusal.Status != 0 {
		drop(conn)
		return tun, nil
	}
	conn.SetDeadline(time.Time{})
	return tun, nil
}

// connect sends a CONNECT and reads its reply (RFC 9110 section 9.3.6). In a
// 2xx, Content-Length and Transfer-Encoding mean nothing.
func (t *Transport) connect(conn net.Conn, a upstream.Address, authority string, c *Control, tun *Tunnel) *verdict.Error {
	b := make([]byte, 0, 256)
	method := []byte("CONNECT")
	b = http1.AppendRequestLine(b, method, []byte(authority))
	b = http1.AppendField(b, "Host", []byte(authority))
	if login := basic(a); login != nil {
		b = http1.AppendField(b, "Proxy-Authorization", login)
	}
	b = append(b, "\r\n"...)
	if a.Scheme == upstream.HTTPS { // TLS sends now
		c.Interrupt.setWriteDeadline(conn, c.Deadline)
	}
	ask := asker{Conn: conn}
	if err := ask.send(b); err != nil {
		return fault(tunnelling, err)
	}
	r := http1.NewReader(&ask)
	defer r.Release()
	var head http1.Response
	slow := t.cfg.Now().Add(SlowAfter)
	patient := !slow.Before(c.Deadline)
	if patient {
		slow = c.Deadline
	}
	c.Interrupt.setDeadline(conn, slow)
	for {
		err := r.ReadResponse(&head, method)
		if err == nil {
			break
		}
		if f := fault(tunnelling, clearer(err)); patient || f.Cause != verdict.TunnelTimeout {
			return f
		}
		patient = true
		c.Interrupt.setDeadline(conn, c.Deadline)
		c.slow()
	}
	if head.Status < 300 {
		tun.Early = append(tun.Early, r.Buffered()...)
		r.Discard(len(tun.Early))
		return nil
	}
	tun.Refusal = Refusal{Status: head.Status, Reason: string(head.Reason), RetryAfter: string(head.RetryAfter)}
	for _, f := range head.Fields {
		tun.Refusal.Fields = append(tun.Refusal.Fields, http1.Field{Name: append([]byte(nil), f.Name...), Value: append([]byte(nil), f.Value...), Kind: f.Kind})
	}
	var body http1.Body
	body.Start(r, head.Framing, head.Length)
	// The body is for diagnosis only: what does not come soon is not waited for.
	conn.SetReadDeadline(t.cfg.Now().Add(500 * time.Millisecond))
	tun.Refusal.Body, _ = io.ReadAll(io.LimitReader(&body, maxReplyBody))
	return nil
}

// earlyConn is a connection whose first bytes have been read already.
type earlyConn struct {
	net.Conn
	early []byte
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func itoa(n int) string {
	return string([]byte{'0' + byte(n/100%10), '0' + byte(n/10%10), '0' + byte(n%10)})
}
