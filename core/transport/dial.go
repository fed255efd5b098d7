package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// getConn returns an idle or a new connection on which q can be sent.
func (t *Transport) getConn(ctx context.Context, u *upstream.Upstream, pool *idlePool, key string, c *Control,
	q *Request) (*persistConn, *verdict.Error) {
	credKey := credentialsKey(u, c, key)
	if !c.NewConnection && sharesConns(u, c) {
		if q.HTTP2 {
			if pc := t.sharedStream(u, pool, credKey, c.Started, q.isUnrepeatable()); pc != nil {
				return pc, nil
			}
		}
		for {
			pc := pool.get(credKey, q.Authority, c.Started, q.isUnrepeatable())
			if pc == nil {
				break
			}
			if !u.Direct() || t.checkRemoteAddress(pc.Conn) == nil { // the egress rules may have changed
				return pc, nil
			}
			closeNow(pc.Conn)
		}
	}
	if key == "" {
		conn, verr := t.dialProxy(ctx, u, u.Spec().Address, c)
		if verr != nil {
			return nil, verr
		}
		pc := newPersistConn(conn, credKey, q.Authority, false, pool.credentials)
		if u.HasTemplates() {
			a := t.addressFor(u, c)
			pc.filledAddress, pc.credentials = &a, string(basicAuth(a))
		}
		return pc, nil
	}
	conn, verr := t.dialTarget(ctx, u, c, q)
	if verr != nil {
		return nil, verr
	}
	if q.HTTP2 && negotiatedHTTP2(conn) {
		return t.newSharedConn(ctx, u, pool, credKey, c, q, conn)
	}
	return newPersistConn(conn, credKey, q.Authority, true, ""), nil
}

// dialTarget opens a tunnel to the target of q and returns it as a connection for requests, with
// TLS if the target is https://.
func (t *Transport) dialTarget(ctx context.Context, u *upstream.Upstream, c *Control,
	q *Request) (net.Conn, *verdict.Error) {
	tun, verr := t.OpenTunnel(ctx, u, c, q.Authority)
	if verr != nil {
		return nil, verr
	}
	if tun.Refused.Status != 0 {
		return nil, tun.refusedError()
	}
	conn := tun.Conn
	if len(tun.Early) > 0 {
		conn = &earlyConn{Conn: conn, early: tun.Early}
	}
	if !q.TLS {
		return conn, nil
	}
	c.callOnSlow()
	ctx, end := c.stopContext(ctx)
	defer end()
	ctx, cancel := context.WithDeadline(ctx, c.Deadline)
	defer cancel()
	start := t.cfg.Now()
	name := q.ServerName
	if name == "" {
		name = strings.TrimSuffix(strings.TrimPrefix(hostOf(q.Authority), "["), "]")
	}
	sessions := t.pool(u).sessions
	if !u.Spec().AllowsReuse() || u.HasTemplates() {
		// Each connection may have another exit address. A resumed TLS session would reveal to the target that these
		// connections belong together.
		sessions = nil
	}
	protocols := t.tls.NextProtos
	if q.HTTP2 {
		protocols = []string{"h2", "http/1.1"}
	}
	tc, err := t.tlsClient(ctx, conn, name, sessions, protocols, nil)
	if err != nil {
		closeNow(conn)
		return nil, newError(stepTargetTLS, err)
	}
	c.Timing.Handshake += t.cfg.Now().Sub(start)
	return tc, nil
}

func hostOf(authority string) string {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		return authority
	}
	return host
}

func (c *Control) callOnSlow() {
	if c.OnSlow != nil {
		c.OnSlow()
	}
}

// dialProxy opens a connection to the proxy u at the address a: TCP, and TLS to an https:// proxy. If a limit of this
// machine prevents this, such as the limit on open files, dialProxy closes all idle connections and dials once more.
// For a health or reachability check, dialProxy closes no connection and dials only once.
func (t *Transport) dialProxy(ctx context.Context, u *upstream.Upstream, a upstream.Address, c *Control) (net.Conn,
	*verdict.Error) {
	conn, verr := t.dialProxyOnce(ctx, u, a, c)
	if verr != nil && verr.Cause == verdict.LocalLimit && !c.isCheck {
		t.CloseAllIdle() // there is nothing else that could be released
		conn, verr = t.dialProxyOnce(ctx, u, a, c)
	}
	return conn, verr
}

// dialProxyOnce opens a connection to the proxy u at the address a: TCP, and TLS to an https:// proxy.
func (t *Transport) dialProxyOnce(ctx context.Context, u *upstream.Upstream, a upstream.Address, c *Control) (net.Conn,
	*verdict.Error) {
	ctx, end := c.stopContext(ctx)
	defer end()
	start := t.cfg.Now()
	deadline := start.Add(time.Duration(t.connectTimeout.Load()))
	if c.Deadline.Before(deadline) {
		deadline = c.Deadline
	}
	var conn net.Conn
	var err error
	if a.Scheme == upstream.Direct {
		conn, err = t.dialPermitted(ctx, a.Host, deadline, c)
	} else {
		conn, err = t.dialBudgeted(ctx, a.Host, deadline, c, nil)
	}
	dialled := t.cfg.Now()
	c.Timing.Dial = dialled.Sub(start)
	if err != nil {
		return nil, newError(stepDial, err)
	}
	if t.leadsToSelf(conn) {
		conn.Close()
		return nil, loopError(a)
	}
	if a.Scheme != upstream.HTTPS {
		return conn, nil
	}
	c.callOnSlow()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	tc, err := t.tlsClient(ctx, conn, hostOf(a.Host), t.pool(u).sessions, t.tls.NextProtos, u.Spec().Extra().TLS)
	if err != nil {
		conn.Close()
		return nil, newError(stepProxyTLS, err)
	}
	c.Timing.Handshake = t.cfg.Now().Sub(dialled)
	return tc, nil
}

// openTCP opens a TCP connection to hostPort, which is the address of a proxy, or of the target of a direct connection.
// The function checkAddress, if not nil, is called with each address before it is dialled. An address for which
// checkAddress returns an error is not dialled.
func (t *Transport) openTCP(ctx context.Context, hostPort string, deadline time.Time, c *Control,
	checkAddress func(netip.AddrPort) error) (net.Conn, error) {
	if to, err := netip.ParseAddrPort(hostPort); err == nil && t.cfg.Dial == nil && to.Addr().Zone() == "" {
		if checkAddress != nil {
			if err := checkAddress(to); err != nil {
				return nil, err
			}
		}
		return socket.Dial(ctx, to, deadline, c.callOnSlow)
	}
	c.callOnSlow()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	dial := t.cfg.Dial
	if dial == nil {
		d := net.Dialer{KeepAlive: socket.KeepAliveIdle}
		if checkAddress != nil {
			d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
				to, err := netip.ParseAddrPort(address)
				if err != nil {
					return err
				}
				return checkAddress(to)
			}
		}
		dial = d.DialContext
	}
	conn, err := dial(ctx, "tcp", hostPort)
	if err != nil {
		return nil, err
	}
	return socket.Wrap(conn), nil
}

// leadsToSelf reports whether c leads to an address that was passed to AddOwnAddress.
func (t *Transport) leadsToSelf(c net.Conn) bool {
	forbidden := t.ownAddrs.Load()
	if forbidden == nil {
		return false
	}
	to, ok := c.RemoteAddr().(*net.TCPAddr)
	for _, a := range *forbidden {
		if !ok || to.Port != a.Port {
			continue
		}
		if to.IP.Equal(a.IP) {
			return true
		}
		// A listener on all addresses also accepts connections to addresses that were added after
		// AddOwnAddress.
		if from, ok := c.LocalAddr().(*net.TCPAddr); ok && a.IP.IsUnspecified() &&
			(to.IP.Equal(from.IP) || to.IP.IsLoopback()) {
			return true
		}
	}
	return false
}

// loopError returns the error of a connection that leads to this gateway itself. With direct://, the cause is the
// target of the request. With a proxy, the cause is the proxy's configuration.
func loopError(a upstream.Address) *verdict.Error {
	if a.Scheme == upstream.Direct {
		return newError(stepDial, &deniedError{err: errOwnAddress})
	}
	return &verdict.Error{Cause: verdict.ProxyLoop, Reason: "proxy_loop_detected",
		Err: errors.New("the proxy is this gateway itself")}
}

// RefusedConnect is a proxy's response to a CONNECT with a status of 300 or above.
type RefusedConnect struct {
	Status     int // 0 if the tunnel is open
	Reason     string
	RetryAfter string
	Fields     []http1.Field // copies
	Body       []byte        // up to 64 KiB
	Facts
}

// Tunnel is a connection to a target through a proxy.
type Tunnel struct {
	Conn    net.Conn
	Early   []byte // the target's first bytes, if they arrived with the proxy's response
	Refused RefusedConnect

	Direct bool // the connection goes to the target without a proxy

	hasPage bool // Early is a page in place of a tunnel (isPage)
}

// TCP returns the TCP connection of Conn, or nil if there is none.
func (tun *Tunnel) TCP() *socket.Conn {
	tcp, _ := tcpOf(tun.Conn)
	return tcp
}

// Abort closes Conn. It does not send the close_notify of TLS, because this takes seconds if the proxy does not read.
func (tun *Tunnel) Abort() { closeNow(tun.Conn) }

// maxRefusedBody is the maximum number of bytes that are read from the body of a RefusedConnect.
const maxRefusedBody = 64 << 10

// refusedError returns the error of a request whose tunnel the proxy has refused.
func (tun *Tunnel) refusedError() *verdict.Error {
	var facts verdict.Facts
	tun.Refused.AddFacts(&facts)
	verr := &verdict.Error{
		Cause: verdict.CauseOf(&facts), Reason: "http_" + itoa(tun.Refused.Status),
		Err: errors.New("the proxy responds to CONNECT with status " + itoa(tun.Refused.Status)),
	}
	if facts.OfferedSchemes != "" {
		verr.Err = &verdict.SchemeError{Schemes: facts.OfferedSchemes}
	}
	return verr
}

// OpenTunnel opens a connection to authority (host:port) through u: by CONNECT, by SOCKS, or directly. If the proxy
// refuses a CONNECT with a status, the error is nil and Tunnel.Refused is set. If the response to a CONNECT is a
// challenge for Digest authentication, the CONNECT is sent again with other credentials.
func (t *Transport) OpenTunnel(ctx context.Context, u *upstream.Upstream, c *Control,
	authority string) (Tunnel, *verdict.Error) {
	c.Timing = core.Timing{}
	a := t.addressFor(u, c)
	tun, resend, verr := t.openTunnelOnce(ctx, u, a, c, authority, 1)
	for sends := 2; resend; sends++ {
		tun, resend, verr = t.openTunnelOnce(ctx, u, a, c, authority, sends)
	}
	if verr == nil && usesConnect(a.Scheme) && !c.isCheck { // package health records the abilities that checks show
		t.recordTunnelAbility(u, authority, &tun.Refused)
	}
	return tun, verr
}

// usesConnect reports whether tunnels through a proxy with this scheme are opened by CONNECT.
func usesConnect(scheme string) bool { return scheme == upstream.HTTP || scheme == upstream.HTTPS }

// openTunnelOnce opens a tunnel with at most one CONNECT. The parameter sends is the number of CONNECTs for the tunnel
// so far, including this one. If the proxy refuses the CONNECT with a challenge, the second result reports whether the
// caller should send another CONNECT, with other credentials.
func (t *Transport) openTunnelOnce(ctx context.Context, u *upstream.Upstream, a upstream.Address, c *Control,
	authority string, sends int) (_ Tunnel, resend bool, _ *verdict.Error) {
	if a.Scheme == upstream.Direct {
		a.Host = authority
	}
	conn, verr := t.dialProxy(ctx, u, a, c)
	if verr != nil {
		return Tunnel{}, false, verr
	}
	if a.Scheme == upstream.Direct {
		return Tunnel{Conn: conn, Direct: true}, false, nil
	}
	if !c.Interrupt.attach(conn) {
		closeNow(conn)
		return Tunnel{}, false, newError(stepDial, errCancelled)
	}
	start := t.cfg.Now()
	tun := Tunnel{Conn: conn}
	var offer tokenOffer
	if usesTunnel(a.Scheme) {
		c.callOnSlow()
		c.setDeadlines(conn, c.nextDeadline(t.cfg.Now()))
		offer.tokens = t.offeredTokens(u, a.Scheme, c)
		if err := socksHandshake(&recheckedConn{conn, t, c}, a, authority, &offer); err != nil {
			verr = socksFailure(err)
		}
	} else {
		state := &t.pool(u).digest
		credentials, nonce := state.authorize(u.Spec(), a, string(connectMethod), authority)
		verr = t.sendConnect(conn, credentials, a.Scheme, authority, c, &tun)
		if verr == nil && tun.hasPage && !u.Literal() {
			verr = newError(stepTunnel, errPage)
			verr.Cause = verdict.ProxyProtocol
		}
		if verr == nil {
			if tun.Refused.Status != 0 {
				tun.Refused.setFacts(u)
			}
			if tun.Refused.Status == http.StatusProxyAuthRequired {
				resend = basicAuth(a) != nil && state.shouldResend(u.Spec(), tun.Refused.Fields, nonce) &&
					nonce.mayResend(sends)
			} else {
				state.recordSuccess(nonce)
			}
		}
	}
	c.Timing.Handshake += t.cfg.Now().Sub(start)
	switch cancelled := !c.Interrupt.detach(); {
	case cancelled && verr == nil:
		verr = newError(stepTunnel, errCancelled)
	case !cancelled && usesTunnel(a.Scheme):
		t.pool(u).tokenOffers.recordHandshake(&offer, verr)
	}
	if verr != nil {
		closeNow(conn)
		return Tunnel{}, false, verr
	}
	if tun.Refused.Status != 0 {
		closeNow(conn)
		return tun, resend, nil
	}
	conn.SetDeadline(time.Time{})
	return tun, false, nil
}

// sendConnect sends a CONNECT and reads the response (RFC 9110 section 9.3.6). It ignores
// Content-Length and Transfer-Encoding in a 2xx response.
func (t *Transport) sendConnect(conn net.Conn, credentials []byte, scheme, authority string, c *Control,
	tun *Tunnel) *verdict.Error {
	if scheme == upstream.HTTPS { // over TLS, the method send writes the message now, not with the next read
		c.Interrupt.setWriteDeadline(conn, c.Deadline)
	}
	pc := pairedConn{Conn: conn}
	if err := pc.send(t.appendConnect(make([]byte, 0, 256), credentials, authority, c)); err != nil {
		return newError(stepTunnel, err)
	}
	r := http1.NewReader(&pc)
	defer r.Release()
	var head http1.Response
	if verr := t.readConnectResponse(conn, r, c, &head); verr != nil {
		return verr
	}
	if head.Status < 300 {
		tun.Early = append(tun.Early, r.Buffered()...)
		r.Discard(len(tun.Early))
		tun.hasPage = isPage(head.Fields, tun.Early)
		return nil
	}
	tun.Refused = RefusedConnect{Status: head.Status, Reason: string(head.Reason), RetryAfter: string(head.RetryAfter)}
	for _, f := range head.Fields {
		tun.Refused.Fields = append(tun.Refused.Fields,
			http1.Field{Name: append([]byte(nil), f.Name...), Value: append([]byte(nil), f.Value...), Kind: f.Kind})
	}
	var body http1.Body
	body.Start(r, head.Framing, head.Length)
	// The body is only used for diagnosis, which is not worth a long wait.
	conn.SetReadDeadline(t.cfg.Now().Add(500 * time.Millisecond))
	tun.Refused.Body, _ = io.ReadAll(io.LimitReader(&body, maxRefusedBody))
	return nil
}

var errPage = errors.New("the response to CONNECT has status 200 and a page in place of a tunnel")

// isPage reports whether the bytes behind the head of a response to CONNECT are a page: HTML, or as many bytes as
// Content-Length states. The proxy is then a web server that responds in this way to all requests. No target of a
// tunnel sends HTML first, and a proxy that opens a tunnel states no length.
func isPage(fields []http1.Field, early []byte) bool {
	if len(early) == 0 {
		return false
	}
	html := bytes.HasPrefix(bytes.TrimLeft(early, " \t\r\n"), []byte("<"))
	for i := range fields {
		switch value := fields[i].Value; {
		case fields[i].Kind == http1.ContentLength:
			if http1.ParseLength(value) == int64(len(early)) {
				return true
			}
		case html && http1.EqualFold(fields[i].Name, "content-type"):
			if bytes.HasPrefix(bytes.ToLower(value), []byte("text/html")) {
				return true
			}
			html = false
		}
	}
	return false
}

var connectMethod = []byte("CONNECT")

func (t *Transport) appendConnect(b, credentials []byte, authority string, c *Control) []byte {
	b = http1.AppendRequestLine(b, connectMethod, []byte(authority))
	b = http1.AppendField(b, "Host", []byte(authority))
	if credentials != nil {
		b = http1.AppendField(b, "Proxy-Authorization", credentials)
	}
	if t.cfg.Loop.SendsTokens() { // the field Connection need not name Proxy-Loop: no CONNECT is forwarded to a target
		b = t.appendLoop(b, c)
	}
	return append(b, "\r\n"...)
}

// readConnectResponse reads the head of the response to a CONNECT. It calls OnSlow after SlowAfter.
func (t *Transport) readConnectResponse(conn net.Conn, r *http1.Reader, c *Control,
	head *http1.Response) *verdict.Error {
	slow := t.cfg.Now().Add(SlowAfter)
	waited := !slow.Before(c.Deadline)
	if waited {
		slow = c.Deadline
	}
	c.setDeadlines(conn, slow)
	for {
		err := r.ReadResponse(head, connectMethod)
		if err == nil {
			return nil
		}
		verr := newError(stepTunnel, readError(err))
		if verr.Cause != verdict.TunnelTimeout || c.hasEnded(t.cfg.Now()) {
			return verr
		}
		if !waited {
			waited = true
			c.callOnSlow()
		}
		c.setDeadlines(conn, c.nextDeadline(t.cfg.Now()))
	}
}

// earlyConn is a connection whose first bytes have already been read.
type earlyConn struct {
	net.Conn
	early []byte
}

// Read implements io.Reader.
func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// itoa formats a number of three digits.
func itoa(n int) string {
	return string([]byte{'0' + byte(n/100%10), '0' + byte(n/10%10), '0' + byte(n%10)})
}
