// Package transport makes one attempt: it sends one request, or opens one tunnel, through one
// proxy. A failure is returned as a *verdict.Error. Transport sends a request a second time only
// if the proxy has received no part of it, or to find out whether the proxy forwards (forward.go).
//
// A request for an http:// target goes to an HTTP or HTTPS proxy in absolute form, over an idle connection if
// there is one. A tunnel is used for an https:// target, with a SOCKS5 proxy, and with a proxy that cannot
// forward. Transport opens the tunnel to the target, or reuses an idle one, and sends the request in origin
// form. The gateway resolves the name of a target only for direct://.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config configures a Transport. Fields with the zero value stand for their defaults.
type Config struct {
	ConnectTimeout time.Duration  // for a connection to a proxy (TCP and TLS); default 3 s
	Dial           DialFunc       // default: package socket
	RootCAs        *x509.CertPool // default: those of the system
	Files          *budget.Files  // default: no limit
	Now            func() time.Time
	Rand           func() uint64 // for the templates of logins; default: math/rand/v2
	// Permit returns an error if direct:// must not connect to a target's address. It is called with each address
	// before it is dialled. Nil permits all.
	Permit func(netip.AddrPort) error
	Loop   *loop.Guard // marks requests to proxies; nil for no marks
}

const (
	idleTimeout = 90 * time.Second // an idle connection is closed after this time
	maxIdle     = 512              // idle connections per proxy
)

// Transport is safe for concurrent use.
type Transport struct {
	cfg            Config
	tls            *tls.Config
	connectTimeout atomic.Int64 // ns
	pools          sync.Map     // *upstream.Upstream -> *idlePool

	giveServing, giveOther func() // return the descriptor of a connection to the budget; see budget.Use

	forbiddenMu sync.Mutex // guards changes of forbidden
	forbidden   atomic.Pointer[[]*net.TCPAddr]
}

// New returns a transport.
func New(cfg Config) *Transport {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 3 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	t := &Transport{cfg: cfg, tls: &tls.Config{
		RootCAs: cfg.RootCAs, NextProtos: []string{"http/1.1"},
	}}
	t.giveServing = func() { cfg.Files.Give(budget.Serving, 1) }
	t.giveOther = func() { cfg.Files.Give(budget.Other, 1) }
	t.SetConnectTimeout(cfg.ConnectTimeout)
	return t
}

// SetConnectTimeout sets the connect timeout for new connections.
func (t *Transport) SetConnectTimeout(d time.Duration) { t.connectTimeout.Store(int64(d)) }

// ForbidAddress makes all connections to a, an address on which this process listens, fail. Otherwise a pool
// that contains the gateway itself would forward a request in an endless loop (RFC 9110 section 7.6.3), and
// any client could reach the API, which trusts connections from this machine, through direct://.
func (t *Transport) ForbidAddress(a *net.TCPAddr) {
	t.forbiddenMu.Lock()
	defer t.forbiddenMu.Unlock()
	all := []*net.TCPAddr{a}
	if a.IP.IsUnspecified() { // the listener accepts connections to every address of this machine
		addrs, _ := net.InterfaceAddrs()
		for _, at := range addrs {
			if ip, ok := at.(*net.IPNet); ok {
				all = append(all, &net.TCPAddr{IP: ip.IP, Port: a.Port})
			}
		}
	}
	if before := t.forbidden.Load(); before != nil {
		all = append(all, *before...)
	}
	t.forbidden.Store(&all)
}

// Control holds the deadlines of one attempt and the means to end it.
type Control struct {
	Started  time.Time // when the attempt began; zero for the current time
	Deadline time.Time // for the response's head; never zero
	// NewDeadline, if not nil, returns the current deadline, which may be earlier than Deadline.
	NewDeadline   func() time.Time
	Total         time.Time     // deadline of the whole request, not before Deadline; zero for none
	BodyIdle      time.Duration // maximum time without progress while the request's body is sent
	NewConnection bool          // do not reuse an idle connection
	Stoppable     bool          // Interrupt.Stop may be called
	Interrupt     Interrupt
	Session       string // the value of {session} in the proxy's login; "" for a random one
	Region        string // the value of {region}; "" for the region of the proxy
	LoopTokens    []byte // the valid Proxy-Loop value that the request arrived with; nil for none
	// OnSlow, if not nil, is called if no byte of a response has arrived for SlowAfter, or if a new connection is
	// not established at once. The caller then begins to watch the client connection, because the client may
	// leave during the wait.
	OnSlow func()
	// Timing is set by the attempt.
	Timing core.Timing

	check bool // the attempt is a check: if few descriptors are left it fails, and no connection is closed for it
}

// SlowAfter is the minimum time without a response after which OnSlow is called; the maximum is twice as
// long. It is short enough to detect within a tenth of a second that the client has left during the probe
// of a half-open breaker.
const SlowAfter = 50 * time.Millisecond

// ContinueWait is the longest time for which a request with Expect: 100-continue waits for a 100 response,
// which not every server sends. curl uses the same value.
const ContinueWait = time.Second

// Request is the request to send. Its fields do not include the hop-by-hop fields of the client.
type Request struct {
	Method     []byte
	Target     []byte // in absolute form
	Path       []byte // in origin form
	Authority  string // host:port of the target
	TLS        bool   // the target is https://
	Fields     []http1.Field
	Upgrade    []byte // value of the Upgrade field to send; nil for none (see upgrades)
	Idempotent bool

	// The body is Prefix, in one or more pieces, followed by Rest. Prefix can be sent any number of times, but Rest
	// can be read only once.
	Framing http1.Framing
	Length  int64 // length of the whole body if Framing is http1.Length; otherwise as in http1.Request
	Prefix  [][]byte
	Rest    *http1.Body

	Source     *socket.Conn  // the connection that Rest reads from; nil unless it is plain TCP
	Pipes      *socket.Pipes // copies from Source to the proxy; nil if Source is nil
	BeforeRead func()        // called before each wait for further bytes of Rest
	// AfterRead, if not nil, is called with n when n bytes have arrived, and with 0 when the wait for the client ends.
	AfterRead func(n int64)
	StopRead  func() // ends the current wait, and all later ones, from another goroutine

	// Continue, if not nil, asks the client for Rest with a 100 response (RFC 9110 section 10.1.1). The client
	// waits for this response, and no byte of Rest has been read. If Continue is set, the attempt sends Expect:
	// 100-continue. It calls Continue after a 100 response or after ContinueWait, but not after a final response.
	// Continue sets this field to nil. It returns false if the client has left.
	Continue func() bool
}

// arrived reports that n bytes of Rest have arrived.
func (q *Request) arrived(n int64) {
	if q.AfterRead != nil {
		q.AfterRead(n)
	}
}

// unrepeatable reports whether the request must not be sent again on another connection.
func (q *Request) unrepeatable() bool { return !q.Idempotent || q.Rest != nil && q.Continue == nil }

// Response is a response whose head has been read and whose body has not. The caller must call Finish.
type Response struct {
	http1.Response
	Body http1.Body
	Facts

	t    *Transport
	pool *idlePool
	pc   *persistConn

	reusable    bool       // the response permits another request on the connection
	sendDone    chan error // receives the result of sending the request's body; nil if it is not being sent
	partlySent  bool       // sending the request's body has ended early
	stopSend    func()
	notReceived bool // the proxy has received no part of the request
}

// RoundTrip makes one attempt through u. If it returns nil, resp is the response. ctx ends
// dialing only; c.Interrupt ends reads and writes.
func (t *Transport) RoundTrip(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response) *verdict.Error {
	c.Timing = core.Timing{}
	if c.Started.IsZero() {
		c.Started = t.cfg.Now()
	}
	if key := idleKey(u, q); key != "" {
		return t.roundTrip(ctx, u, c, q, resp, key)
	}
	return t.forward(ctx, u, c, q, resp)
}

// roundTrip is RoundTrip over a connection with the given key (idleKey).
func (t *Transport) roundTrip(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response, key string) *verdict.Error {
	pool := t.pool(u)
	for {
		pc, verr := t.conn(ctx, u, pool, key, c, q)
		if verr != nil {
			return verr
		}
		*resp = Response{Response: http1.Response{Fields: resp.Fields[:0]}, t: t, pool: pool, pc: pc}
		verr = t.attempt(u, c, q, resp)
		if verr == nil {
			resp.reusable = resp.reusable && keeps(u, c)
			resp.setFacts(c, q, u)
		}
		if verr == nil || !lostConnection(verr) || !resp.notReceived {
			return verr
		}
		c.NewConnection = true
	}
}

// idleKey returns the key of the idle connections that q can use: "" for connections to the proxy
// itself, otherwise the target of a tunnel.
func idleKey(u *upstream.Upstream, q *Request) string {
	switch {
	case q.TLS:
		return "tls " + q.Authority
	case usesTunnel(u.Spec().Address.Scheme):
		return q.Authority
	}
	return ""
}

// attempt sends q on the connection resp.pc and reads the head of the response.
func (t *Transport) attempt(u *upstream.Upstream, c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	if !c.Interrupt.attach(pc.Conn) {
		drop(pc.Conn)
		return newError(dialing, errCancelled)
	}
	verr := t.sendRequest(c, q, resp)
	if verr == nil {
		return nil
	}
	c.Interrupt.detach()
	if pc.reused && resp.Status == 0 {
		switch {
		case verr.Cause == verdict.AnswerMalformed && !oversized(verr.Err):
			verr.Cause = verdict.Leftover
		case len(pc.reader.Buffered()) == 0 && closedEarly(verr):
			verr.Cause = verdict.StaleConnection
		}
	}
	if lostConnection(verr) && !resp.notReceived && q.unrepeatable() {
		resp.pool.noteLoss(pc.key, t.cfg.Now())
	}
	drop(pc.Conn)
	if resp.RequestBodyBroken(q) {
		verr.Cause = verdict.RequestBroke
	}
	verr.Sending = resp.sendDone != nil
	resp.join()
	resp.pc = nil
	return verr
}

// oversized reports whether err means that the head of a response is too large. Such a head has a valid
// beginning, which excludes that it is a remainder of an earlier response.
func oversized(err error) bool {
	var proto *http1.ProtocolError
	return errors.As(err, &proto) && proto.Status != http.StatusBadRequest
}

// lostConnection reports whether the attempt failed because the idle connection was not usable.
func lostConnection(verr *verdict.Error) bool {
	return verr.Cause == verdict.StaleConnection || verr.Cause == verdict.Leftover
}

// closedEarly reports whether the error may mean that the peer had closed an idle connection. The caller has
// checked that no byte of a response has arrived, not even of an interim response.
func closedEarly(verr *verdict.Error) bool {
	return errors.Is(verr.Err, errNoResponse) || verr.Reason == "connection_terminated"
}

// maxInline is the maximum length of a body that is sent in one write with the head.
const maxInline = 16 << 10

// inline returns Prefix if it is short enough to be sent in one write with the head; otherwise it returns false.
func (q *Request) inline() ([]byte, bool) {
	switch {
	case len(q.Prefix) == 0:
		return nil, true
	case len(q.Prefix) == 1 && len(q.Prefix[0]) <= maxInline:
		return q.Prefix[0], true
	}
	return nil, false
}

// sendRequest sends the request and reads the response's head.
func (t *Transport) sendRequest(c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	pc.control = c
	pc.out = t.head(pc.out[:0], pc, q)
	body, inline := q.inline()
	if inline {
		pc.out = appendBody(pc.out, q.Framing, body)
		if q.Framing == http1.Chunked && q.Rest == nil {
			pc.out = append(pc.out, http1.LastChunk...)
		}
	}
	if !inline || q.Rest != nil {
		return t.upload(c, q, resp, inline)
	}
	if err := pc.send(pc.out); err != nil {
		return t.writeFailed(c, q, resp, err)
	}
	verr := t.readHead(c, q, resp, false)
	if verr == nil {
		return nil
	}
	if w := (*socket.WriteError)(nil); errors.As(verr.Err, &w) {
		resp.notReceived = !pc.slowWrite // a write that did not have to wait and failed has sent nothing
		return t.writeFailed(c, q, resp, w.Err)
	}
	resp.notReceived = verr.Err == errNoResponse && socket.NotReceived(pc.tcp, len(pc.out))
	return verr
}

// writeFailed is called when sending a request has failed. It reads the response that the proxy may have sent
// before it closed the connection, and returns an error if there is none.
func (t *Transport) writeFailed(c *Control, q *Request, resp *Response, err error) *verdict.Error {
	if verr := t.readHead(c, q, resp, true); verr != nil {
		return newError(sending, err)
	}
	resp.reusable = false
	return nil
}

// readHead reads the response's head. It first waits for a short time, then calls OnSlow and waits until the
// deadline. The read deadline of the first wait is also used for the next responses on the same connection,
// because setting a deadline is expensive. writeFailed is set if the request could not be sent; OnSlow is
// then not called.
func (t *Transport) readHead(c *Control, q *Request, resp *Response, writeFailed bool) *verdict.Error {
	pc := resp.pc
	slow := c.Started.Add(SlowAfter)
	if !pc.reused {
		slow = t.cfg.Now().Add(SlowAfter)
	}
	latest := slow.Add(SlowAfter)
	waited := writeFailed || !latest.Before(c.Deadline)
	switch {
	case waited:
		pc.setReadDeadline(c, c.Deadline)
	case pc.readDeadline.Before(slow) || pc.readDeadline.After(latest):
		pc.setReadDeadline(c, latest)
	}
	for {
		err := resp.readHead(q)
		if err == nil {
			break
		}
		verr := newError(waiting, readError(err))
		if verr.Cause != verdict.NoAnswerInTime || writeFailed || c.ended(t.cfg.Now()) {
			return verr
		}
		if !waited {
			waited = true
			c.callOnSlow()
		}
		pc.setReadDeadline(c, c.nextDeadline(t.cfg.Now()))
	}
	resp.begin()
	return nil
}

// begin prepares r to read the body.
func (r *Response) begin() {
	r.Body.Start(&r.pc.reader, r.Framing, r.Length)
	r.reusable = !r.Response.Close && r.Status != http.StatusSwitchingProtocols
}

// Adopt moves a response to r. from is the response of an attempt with the Control old, and is
// empty afterwards. c is the Control of r, to which Adopt copies the deadline of old.
func (r *Response) Adopt(from *Response, old, c *Control) {
	old.Interrupt.detach()
	c.Deadline, c.NewDeadline = old.Deadline, nil
	*r = *from
	*from = Response{}
	if r.pc == nil {
		return
	}
	if r.pc.control != nil {
		r.pc.control = c
	}
	if !c.Interrupt.attach(r.pc.Conn) {
		r.pc.SetDeadline(aLongTimeAgo)
	}
}

// Conn returns the connection that the body is read from.
func (r *Response) Conn() net.Conn { return r.pc.Conn }

// SetReadDeadline sets the deadline for the next read of the body.
func (r *Response) SetReadDeadline(c *Control, deadline time.Time) {
	r.pc.setReadDeadline(c, deadline)
}

// peekWait is the longest wait of Peek for the beginning of a body.
const peekWait = 100 * time.Millisecond

// Peek appends the first n bytes of the body to dst without consuming them. It appends fewer bytes if the
// body is shorter, or if they do not arrive within peekWait. whole reports whether these bytes are the whole
// body.
func (r *Response) Peek(c *Control, dst []byte, n int) (_ []byte, whole bool) {
	before, waits := len(dst), false
	for {
		if dst, whole = r.Body.Peek(dst[:before], n); whole || len(dst)-before >= n || r.Body.Err() != nil {
			break
		}
		if !waits {
			waits = true
			until := r.t.cfg.Now().Add(peekWait)
			if c.Deadline.Before(until) {
				until = c.Deadline
			}
			r.pc.setReadDeadline(c, until)
		}
		reader := &r.pc.reader
		have := len(reader.Buffered())
		if err := reader.ReadAhead(); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				reader.Fail(err)
			}
			break
		}
		if len(reader.Buffered()) == have {
			break // the buffer is full
		}
	}
	if waits {
		r.pc.setReadDeadline(c, c.Deadline)
	}
	return dst, whole
}

// The limits of Drain: the number of bytes that it reads, and the time that it waits.
const (
	maxDrain  = 64 << 10
	drainWait = 100 * time.Millisecond
)

// Drain reads the rest of the body if it is short, so that the connection can be reused. It reports
// whether it has read the whole body.
func (r *Response) Drain(c *Control) bool {
	for r.Body.Left() <= maxDrain {
		if p, _ := r.Body.Ready(); p != nil {
			continue // usually the rest has already arrived, so no deadline is needed
		}
		if r.Body.Done() {
			return true
		}
		r.SetReadDeadline(c, r.t.cfg.Now().Add(drainWait))
		return r.Body.Drain(maxDrain)
	}
	return false
}

// Finish ends the attempt. If the response has been read completely, the connection becomes idle; otherwise
// it is closed. sentAll reports whether the whole request body was sent; if it was not, a part of
// Request.Rest is unread.
func (r *Response) Finish(c *Control, now time.Time) (sentAll bool) {
	if r.pc == nil {
		return true
	}
	pc := r.pc
	r.pc = nil
	sentAll = !r.partlySent
	if r.sendDone != nil {
		select {
		case err := <-r.sendDone:
			r.sendDone, sentAll = nil, err == nil
		default: // the response arrived before the whole request body was sent
			sentAll = false
		}
	}
	keep := c.Interrupt.detach() && r.reusable && r.Body.Done() && sentAll && pc.noExtraBytes()
	if keep {
		r.pool.put(pc, now)
		return sentAll
	}
	drop(pc.Conn)
	r.join()
	return sentAll
}

// join stops sending the request's body and waits until it has stopped.
func (r *Response) join() {
	if r.sendDone == nil {
		return
	}
	if r.stopSend != nil {
		r.stopSend()
	}
	<-r.sendDone
	r.sendDone = nil
}

// pool returns the idle connections of u.
func (t *Transport) pool(u *upstream.Upstream) *idlePool {
	if p, ok := t.pools.Load(u); ok {
		return p.(*idlePool)
	}
	p, _ := t.pools.LoadOrStore(u, newIdlePool(u.Spec().Address))
	return p.(*idlePool)
}

// CloseIdle closes the idle connections of a proxy that has left the pool.
func (t *Transport) CloseIdle(u *upstream.Upstream) {
	if p, ok := t.pools.LoadAndDelete(u); ok {
		p.(*idlePool).close()
	}
}

// Close closes all idle connections.
func (t *Transport) Close() {
	t.pools.Range(func(u, p any) bool {
		t.pools.Delete(u)
		p.(*idlePool).close()
		return true
	})
}

// CloseExpired closes the connections that have been idle for too long.
func (t *Transport) CloseExpired() { t.prune(t.cfg.Now().Add(-idleTimeout)) }

// The limits of CloseSurplus.
const (
	spareIdle    = 64              // idle connections per proxy that stay
	surplusAfter = 3 * time.Second // idle time after which the others are closed
)

// CloseSurplus closes the idle connections that a burst of requests has left: a proxy's connections beyond spareIdle
// that have been idle for surplusAfter. The current traffic does not need them, because the connection that became
// idle last is reused first.
func (t *Transport) CloseSurplus() {
	then := t.cfg.Now().Add(-surplusAfter)
	t.pools.Range(func(_, p any) bool {
		p.(*idlePool).closeSurplus(then)
		return true
	})
}

// CloseAllIdle closes all idle connections. The Transport remains usable.
func (t *Transport) CloseAllIdle() { t.prune(t.cfg.Now()) }

// CloseOldestIdle closes the idle connections that have been idle for the longest time: an eighth of them, at least
// one. It returns false if there is none.
func (t *Transport) CloseOldestIdle() bool {
	var since []time.Time
	t.pools.Range(func(_, p any) bool {
		since = p.(*idlePool).appendIdle(since)
		return true
	})
	if len(since) == 0 {
		return false
	}
	slices.SortFunc(since, time.Time.Compare)
	last := since[max(len(since)/8, 1)-1]
	return t.prune(last.Add(1)) > 0 // 1 ns later, because prune keeps connections that became idle at the given time
}

// prune closes the connections that became idle before the given time, and returns their number.
func (t *Transport) prune(then time.Time) (closed int) {
	t.pools.Range(func(_, p any) bool {
		closed += p.(*idlePool).prune(then)
		return true
	})
	return closed
}

// usesTunnel reports whether the scheme of a proxy requires a tunnel for http:// targets, too.
func usesTunnel(scheme string) bool {
	return upstream.IsSOCKS(scheme) || scheme == upstream.Direct
}

// basicAuth returns the value of Proxy-Authorization for a, or nil without credentials.
func basicAuth(a upstream.Address) []byte {
	if a.Username == "" && a.Password == "" {
		return nil
	}
	return []byte("Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password.Reveal())))
}

// tlsSessions is the number of servers per proxy whose TLS sessions are kept. A resumed handshake
// takes about half of the processor time, and with TLS 1.2 one round trip less.
const tlsSessions = 32

// tlsClient makes a TLS handshake with host on c. sessions caches TLS sessions, and own are the
// proxy's TLS options; both may be nil. The options take precedence.
func (t *Transport) tlsClient(ctx context.Context, c net.Conn, host string,
	sessions tls.ClientSessionCache, own *upstream.TLS) (*tls.Conn, error) {
	cfg := t.tls.Clone()
	cfg.ServerName, cfg.ClientSessionCache = host, sessions
	if own != nil {
		own.Apply(cfg)
	}
	tc := tls.Client(&gate{Conn: c}, cfg)
	return tc, tc.HandshakeContext(ctx)
}
