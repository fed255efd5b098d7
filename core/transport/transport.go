// Package transport makes one attempt: one request, or one tunnel, through one
// upstream proxy. What fails comes back as a fault; nothing that a proxy may
// have seen is ever sent twice behind the caller's back.
//
// Requests for http:// targets go to http and https proxies in absolute form
// over kept connections. For https:// targets, and through SOCKS5, a tunnel to
// the target is opened (and kept) and the request goes through it in origin
// form. The target's name is never resolved here, except for direct upstreams.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config is what a Transport is built from; every zero value means a default.
type Config struct {
	ConnectTimeout time.Duration  // to a proxy, TCP and TLS; default 3 s
	IdleTimeout    time.Duration  // of kept connections; default 90 s
	MaxIdle        int            // kept connections per proxy; default 512
	Dial           DialFunc       // default package socket's
	RootCAs        *x509.CertPool // default the system's
	Now            func() time.Time
}

// Transport is safe for concurrent use.
type Transport struct {
	cfg      Config
	tls      *tls.Config
	patience atomic.Int64 // ns, the connect timeout in force
	pools    sync.Map     // *upstream.Upstream -> *idlePool

	ownMu sync.Mutex // of changes
	own   atomic.Pointer[[]*net.TCPAddr]
}

// New returns a transport.
func New(cfg Config) *Transport {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 3 * time.Second
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 90 * time.Second
	}
	if cfg.MaxIdle == 0 {
		cfg.MaxIdle = 512
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	t := &Transport{cfg: cfg, tls: &tls.Config{
		RootCAs: cfg.RootCAs, NextProtos: []string{"http/1.1"},
	}}
	t.SetConnectTimeout(cfg.ConnectTimeout)
	return t
}

// SetConnectTimeout replaces the connect timeout for connections opened from
// now on.
func (t *Transport) SetConnectTimeout(d time.Duration) { t.patience.Store(int64(d)) }

// ForbidAddress lets no connection lead to a, where this process itself listens: a pool
// that holds the gateway would go round for ever (RFC 9110 section 7.6.3), and
// the API trusts whoever comes from this machine, which direct upstreams do.
func (t *Transport) ForbidAddress(a *net.TCPAddr) {
	t.ownMu.Lock()
	defer t.ownMu.Unlock()
	all := []*net.TCPAddr{a}
	if a.IP.IsUnspecified() { // it is met at every address of this machine
		addrs, _ := net.InterfaceAddrs()
		for _, at := range addrs {
			if ip, ok := at.(*net.IPNet); ok {
				all = append(all, &net.TCPAddr{IP: ip.IP, Port: a.Port})
			}
		}
	}
	if before := t.own.Load(); before != nil {
		all = append(all, *before...)
	}
	t.own.Store(&all)
}

// Control is what steers one attempt from outside.
type Control struct {
	Started       time.Time     // when the attempt began; zero for now
	Deadline      time.Time     // to the answer's head; never zero
	Total         time.Time     // of the whole request, zero for none; not before Deadline
	BodyIdle      time.Duration // how long a body may stand still while it is sent
	NewConnection bool          // take no kept connection
	Interrupt     Interrupt
	// OnSlow is called when no byte of an answer has come for SlowAfter, and
	// when a new connection does not stand at once: both may take long enough
	// for a client to leave meanwhile. May be nil.
	OnSlow func()
	// Timing is set by the attempt.
	Timing core.Timing
}

// SlowAfter is how long an answer takes before OnSlow is called, at least; at most
// it is twice as long. So a client that has left holds a half-open breaker's probe
// for no more than a tenth of a second before it is noticed.
const SlowAfter = 50 * time.Millisecond

// ContinueWait is how long a request that expects 100 Continue waits for it, as curl
// does; not every server knows of it.
const ContinueWait = time.Second

// Request is one request, ready to go on: its fields are without those of the
// client's hop.
type Request struct {
	Method     []byte
	Target     []byte // as the client gave it, in absolute form
	Path       []byte // the same in origin form
	Authority  string // host:port of the target
	TLS        bool   // an https:// target
	Fields     []http1.Field
	Idempotent bool

	// The body: Prefix is at hand and can be sent again, Rest comes after it
	// and can be read once.
	Framing    http1.Framing
	Length     int64 // with Framing Length the whole body's, Prefix included; else as http1.Request
	Prefix     []byte
	Rest       *http1.Body
	Source     *socket.Conn  // what Rest is read from; nil if not plain TCP
	Pipes      *socket.Pipes // for what passes from From to the proxy; nil without From
	BeforeRead func()        // called before each wait for more of Rest
	// Continue, if not nil, asks the sender for Rest, nothing of which has been read:
	// it waits for 100 Continue (RFC 9110 section 10.1.1). So does the request then: Continue is
	// called once the other side has said that, or nothing for ContinueWait, and not
	// if it has given its final answer. It sets itself to nil. False says that
	// the sender has left.
	Continue func() bool
	StopRead func() // ends such a wait from another goroutine, for good
}

// once reports whether the request cannot be repeated on another connection.
func (q *Request) once() bool { return !q.Idempotent || q.Rest != nil && q.Continue == nil }

// Response is an answer: its head has been read, its body is to come. Close it
// when done.
type Response struct {
	http1.Response
	Body http1.Body
	Facts

	t    *Transport
	pool *idlePool
	pc   *persistConn
	keep bool
	sent chan error // set while the request's body is still being sent
	half bool       // it did not go out whole
	stop func()

	unseen bool // the request cannot have come to the other side
}

// RoundTrip makes one attempt through u. With a nil fault resp holds the
// answer. ctx ends dialing only; reads and writes end by c.
func (t *Transport) RoundTrip(ctx context.Context, u *upstream.Upstream, c *Control, q *Request, resp *Response) *verdict.Error {
	pool := t.pool(u)
	key := ""
	c.Timing = core.Timing{}
	if c.Started.IsZero() {
		c.Started = t.cfg.Now()
	}
	if q.TLS || tunnels(u.Spec().Address.Scheme) {
		key = q.Authority
		if q.TLS {
			key = "tls " + key
		}
	}
	for {
		pc, f := t.take(ctx, u, pool, key, c, q)
		if f != nil {
			return f
		}
		*resp = Response{Response: http1.Response{Fields: resp.Fields[:0]}, t: t, pool: pool, pc: pc}
		f = t.try(u, c, q, resp)
		if f == nil {
			resp.setFacts(c, q, u)
		}
		if f == nil || !lost(f) || !resp.unseen {
			return f
		}
		c.NewConnection = true
	}
}

// try makes the attempt on the connection that resp has.
func (t *Transport) try(u *upstream.Upstream, c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	if !c.Interrupt.watch(pc.Conn) {
		drop(pc.Conn)
		return fault(dialing, errStopped)
	}
	f := t.exchange(c, q, resp)
	if f == nil {
		return nil
	}
	c.Interrupt.release()
	if pc.reused && resp.Status == 0 {
		switch {
		case f.Cause == verdict.AnswerMalformed && !oversized(f.Err):
			f.Cause = verdict.Leftover
		case len(pc.reader.Buffered()) == 0 && closedEarly(f):
			f.Cause = verdict.StaleConnection
		}
	}
	if lost(f) && !resp.unseen && q.once() {
		resp.pool.lost(pc.key, t.cfg.Now())
	}
	drop(pc.Conn)
	if resp.RequestBodyBroken(q) {
		f.Cause = verdict.RequestBroke
	}
	f.Sending = resp.sent != nil
	resp.join()
	resp.pc = nil
	return f
}

// oversized reports whether an answer's head is malformed by its size only: then its
// beginning was an answer's.
func oversized(err error) bool {
	var proto *http1.ProtocolError
	return errors.As(err, &proto) && proto.Status != http.StatusBadRequest
}

// lost reports whether the attempt failed because a kept connection was of no use
// any more.
func lost(f *verdict.Error) bool {
	return f.Cause == verdict.StaleConnection || f.Cause == verdict.Leftover
}

// closedEarly reports whether a fault is how a kept connection shows that the other
// side had closed it meanwhile. The caller has seen that no byte of an answer has
// come, not even of an interim one.
func closedEarly(f *verdict.Error) bool {
	return errors.Is(f.Err, errNoAnswer) || f.Reason == "connection_terminated"
}

// exchange sends the request and reads the answer's head.
func (t *Transport) exchange(c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	pc.asking = c
	pc.out = pc.head(pc.out[:0], q)
	inline := len(q.Prefix) <= 16<<10
	if inline {
		pc.out = appendBody(pc.out, q.Framing, q.Prefix)
		if q.Framing == http1.Chunked && q.Rest == nil {
			pc.out = append(pc.out, http1.LastChunk...)
		}
	}
	if !inline || q.Rest != nil {
		return t.upload(c, q, resp, inline)
	}
	if err := pc.send(pc.out); err != nil {
		return t.unsent(c, q, resp, err)
	}
	f := t.readHead(c, q, resp, false)
	if f == nil {
		return nil
	}
	if w := (*socket.WriteError)(nil); errors.As(f.Err, &w) {
		resp.unseen = !pc.late // nor a part of it
		return t.unsent(c, q, resp, w.Err)
	}
	resp.unseen = f.Err == errNoAnswer && socket.NotReceived(pc.tcp, len(pc.out))
	return f
}

// unsent looks for an answer to a request that could not be sent: the proxy may
// have given it before it closed.
func (t *Transport) unsent(c *Control, q *Request, resp *Response, err error) *verdict.Error {
	if f := t.readHead(c, q, resp, true); f != nil {
		return fault(sending, err)
	}
	resp.keep = false
	return nil
}

// readHead waits for the head of the answer: first for a moment, then, once OnSlow
// has been called, until the deadline. A connection whose answers are quick keeps
// its deadline for several of them, since setting one moves a timer. closed says
// that the request could not be sent, so that there is nothing to be patient for.
func (t *Transport) readHead(c *Control, q *Request, resp *Response, closed bool) *verdict.Error {
	pc := resp.pc
	slow := c.Started.Add(SlowAfter)
	if !pc.reused {
		slow = t.cfg.Now().Add(SlowAfter)
	}
	latest := slow.Add(SlowAfter)
	patient := closed || !latest.Before(c.Deadline)
	switch {
	case patient:
		pc.setReadDeadline(c, c.Deadline)
	case pc.armed.Before(slow) || pc.armed.After(latest):
		pc.setReadDeadline(c, latest)
	}
	for {
		err := pc.reader.ReadResponse(&resp.Response, q.Method)
		if err == nil {
			break
		}
		f := fault(waiting, clearer(err))
		if f.Cause != verdict.NoAnswerInTime || patient || !t.cfg.Now().Before(c.Deadline) {
			return f
		}
		patient = true
		pc.setReadDeadline(c, c.Deadline)
		c.slow()
	}
	resp.begin()
	return nil
}

func (r *Response) begin() {
	r.Body.Start(&r.pc.reader, r.Framing, r.Length)
	r.keep = !r.Response.Close
}

// Conn is the connection the answer's body comes from.
func (r *Response) Conn() net.Conn { return r.pc.Conn }

// SetReadDeadline sets the deadline for the next piece of the body.
func (r *Response) SetReadDeadline(c *Control, deadline time.Time) {
	r.pc.setReadDeadline(c, deadline)
}

// What Drain reads of a body at most, and how long it waits.
const (
	maxDrain  = 64 << 10
	drainWait = 100 * time.Millisecond
)

// Drain reads what is left of the body if that is short, so that the connection
// can be kept, and reports whether it has come to the body's clean end.
func (r *Response) Drain(c *Control) bool {
	for r.Body.Left() <= maxDrain {
		if p, _ := r.Body.Ready(); p != nil {
			continue // most often it is all there, and needs no deadline
		}
		if r.Body.Done() {
			return true
		}
		r.SetReadDeadline(c, r.t.cfg.Now().Add(drainWait))
		return r.Body.Drain(maxDrain)
	}
	return false
}

// Finish ends the exchange. The connection is kept if the answer was read to its
// clean end, else it is dropped. sentAll reports whether the request's body had
// been sent whole; if not, the rest of it has not been read.
func (r *Response) Finish(c *Control, now time.Time) (sentAll bool) {
	if r.pc == nil {
		return true
	}
	pc := r.pc
	r.pc = nil
	sentAll = !r.half
	if r.sent != nil {
		select {
		case err := <-r.sent:
			r.sent, sentAll = nil, err == nil
		default: // the answer came first
			sentAll = false
		}
	}
	keep := c.Interrupt.release() && r.keep && r.Body.Done() && sentAll && pc.clean()
	if keep {
		r.pool.put(pc, r.t, now)
		return sentAll
	}
	drop(pc.Conn)
	r.join()
	return sentAll
}

// join waits for the sending of the request's body to stop.
func (r *Response) join() {
	if r.sent == nil {
		return
	}
	if r.stop != nil {
		r.stop()
	}
	<-r.sent
	r.sent = nil
}

// pool returns u's kept connections.
func (t *Transport) pool(u *upstream.Upstream) *idlePool {
	if p, ok := t.pools.Load(u); ok {
		return p.(*idlePool)
	}
	p, _ := t.pools.LoadOrStore(u, newIdlePool(u.Spec().Address))
	return p.(*idlePool)
}

// CloseIdle drops the kept connections of a proxy that has left the pool.
func (t *Transport) CloseIdle(u *upstream.Upstream) {
	if p, ok := t.pools.LoadAndDelete(u); ok {
		p.(*idlePool).close()
	}
}

// Close drops every kept connection.
func (t *Transport) Close() {
	t.pools.Range(func(u, p any) bool {
		t.pools.Delete(u)
		p.(*idlePool).close()
		return true
	})
}

// CloseExpired closes kept connections past their idle timeout.
func (t *Transport) CloseExpired() { t.prune(t.cfg.Now().Add(-t.cfg.IdleTimeout)) }

// CloseAllIdle closes every kept connection; the pools go on.
func (t *Transport) CloseAllIdle() { t.prune(t.cfg.Now()) }

func (t *Transport) prune(then time.Time) {
	t.pools.Range(func(_, p any) bool {
		p.(*idlePool).prune(then)
		return true
	})
}

// tunnels reports whether even http:// targets are reached through a tunnel.
func tunnels(scheme string) bool {
	return scheme == upstream.SOCKS5 || scheme == upstream.SOCKS5H || scheme == upstream.Direct
}

// basic returns the value of Proxy-Authorization for a, or nil.
func basic(a upstream.Address) []byte {
	if a.Username == "" && a.Password == "" {
		return nil
	}
	return []byte("Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password.Reveal())))
}

// tlsSessions is how many servers' sessions are kept for each proxy, to be resumed:
// a handshake then costs both sides together about half, and with TLS 1.2 a round
// trip less.
const tlsSessions = 32

// tlsClient speaks TLS with host on c, which leads to u or through it.
func (t *Transport) tlsClient(ctx context.Context, u *upstream.Upstream, c net.Conn, host string) (*tls.Conn, error) {
	cfg := t.tls.Clone()
	cfg.ServerName, cfg.ClientSessionCache = host, t.pool(u).sessions
	tc := tls.Client(&gate{Conn: c}, cfg)
	return tc, tc.HandshakeContext(ctx)
}
