// Package transport makes one attempt: it sends one request, or opens one tunnel, through one proxy. A failure is
// returned as a *verdict.Error. An attempt sends its request a second time in three cases: if the proxy has received no
// part of the request; if the proxy has responded with a challenge (digest.go); and if the response to the absolute
// form was an error, and the request may succeed through a tunnel of the same proxy (forward.go, upgrade.go).
//
// A request for an http:// target goes to an HTTP or HTTPS proxy in absolute form, over an idle connection if there
// is one. A tunnel is used for an https:// target, with a SOCKS proxy, and with a proxy that cannot forward.
// Transport opens a tunnel to the target, or reuses an idle tunnel, and sends the request in origin form. The gateway
// resolves the name of a target only for direct://.
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
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config configures a Transport. Fields with the zero value stand for their defaults.
type Config struct {
	ConnectTimeout time.Duration  // for a connection to a proxy (TCP and TLS); default 3 s
	Dial           DialFunc       // default: package socket
	RootCAs        *x509.CertPool // default: the root certificates of the system
	Files          *budget.Files  // default: no limit
	Now            func() time.Time
	Rand           func() uint64 // for the templates of credentials; default: math/rand/v2
	// CheckAddress returns an error if direct:// must not connect to a target's address. It is called with each address
	// before it is dialled. If CheckAddress is nil, all addresses are permitted.
	CheckAddress func(netip.AddrPort) error
	Loop         *loop.Guard // adds the Proxy-Loop field to requests to proxies; nil to add none
	// ParkAbove is the number of attempts that may wait for slow responses (SlowAfter) without parking their
	// connections; default 256. Each further attempt parks its connection (Transport.waitParked). If ParkAbove is
	// negative, each attempt with a slow response parks its connection.
	ParkAbove int
}

const (
	idleTimeout = 90 * time.Second // an idle connection is closed after this time
	maxIdle     = 512              // maximum number of idle connections per proxy
)

// Transport is safe for concurrent use.
type Transport struct {
	cfg            Config
	tls            *tls.Config
	http2          *http.Transport // makes HTTP/2 connections
	connectTimeout atomic.Int64    // ns
	pools          sync.Map        // *upstream.Upstream -> *idlePool
	slowAttempts   atomic.Int64    // attempts in readSlowHead
	parkedAttempts atomic.Int64    // attempts in the method waitParked; the field slowAttempts counts them too
	watcher        socket.Watcher

	releaseClientFile, releaseOtherFile func() // return one descriptor to the budget

	ownAddrsMu sync.Mutex // guards changes of ownAddrs
	ownAddrs   atomic.Pointer[[]*net.TCPAddr]
}

// New returns a transport.
func New(cfg Config) *Transport {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 3 * time.Second
	}
	if cfg.ParkAbove == 0 {
		cfg.ParkAbove = 256
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	t := &Transport{cfg: cfg, tls: &tls.Config{
		RootCAs: cfg.RootCAs, NextProtos: []string{"http/1.1"},
	}, http2: newHTTP2()}
	t.releaseClientFile = func() { cfg.Files.Release(budget.ForClients, 1) }
	t.releaseOtherFile = func() { cfg.Files.Release(budget.ForOthers, 1) }
	t.SetConnectTimeout(cfg.ConnectTimeout)
	return t
}

// SetConnectTimeout sets the connect timeout for new connections.
func (t *Transport) SetConnectTimeout(d time.Duration) { t.connectTimeout.Store(int64(d)) }

// AddOwnAddress makes all new connections to the given address fail. This process listens on that address. Without
// AddOwnAddress, a pool that contains the gateway itself would forward a request in an endless loop (RFC 9110 section
// 7.6.3). Any client could also reach the API through direct://, because the API trusts connections from this machine.
func (t *Transport) AddOwnAddress(a *net.TCPAddr) {
	t.ownAddrsMu.Lock()
	defer t.ownAddrsMu.Unlock()
	all := []*net.TCPAddr{a}
	if a.IP.IsUnspecified() { // the listener accepts connections to every address of this machine
		addrs, _ := net.InterfaceAddrs()
		for _, at := range addrs {
			if ip, ok := at.(*net.IPNet); ok {
				all = append(all, &net.TCPAddr{IP: ip.IP, Port: a.Port})
			}
		}
	}
	if before := t.ownAddrs.Load(); before != nil {
		all = append(all, *before...)
	}
	t.ownAddrs.Store(&all)
}

// Control holds the deadlines of one attempt and the means to end it.
type Control struct {
	Started  time.Time // when the attempt began; zero for the current time
	Deadline time.Time // for the response's head; never zero
	// CurrentDeadline, if not nil, returns the current deadline, which may be earlier than Deadline.
	CurrentDeadline func() time.Time
	RequestDeadline time.Time     // deadline of the whole request, not before Deadline; zero for none
	BodyIdle        time.Duration // maximum time without progress while the request's body is sent
	NewConnection   bool          // do not reuse an idle connection
	MayStop         bool          // Interrupt.Stop may be called
	Interrupt       Interrupt
	Session         string         // the value of {session} in the proxy's credentials; "" for a random one
	Region          string         // the value of {region}; "" for the region of the proxy
	Meters          traffic.Meters // count the bytes of the attempt's connection
	LoopTokens      []byte         // the valid Proxy-Loop value that the request arrived with; nil for none
	// OnSlow, if not nil, is called before a wait for a new connection, or if no byte of a response has arrived for
	// SlowAfter. The caller then watches the client connection, because the client may leave.
	OnSlow func()
	// OnLongWait, if not nil, is called before the connection is parked (Config.ParkAbove), so that the caller can park
	// the client connection as well.
	OnLongWait func()
	// Timing is set by the attempt.
	Timing core.Timing

	isCheck bool // a health or reachability check: if few descriptors are left, it fails and closes no idle connection
}

// SlowAfter is the minimum time without a response after which OnSlow is called; the maximum is 2*SlowAfter. A client
// that leaves during a probe is therefore detected within 0.1 s.
const SlowAfter = 50 * time.Millisecond

// ContinueWait is the longest time for which a request with Expect: 100-continue waits for a 100 response. The wait
// is limited because not every server sends a 100 response. curl uses the same limit.
const ContinueWait = time.Second

// Request is the request to send. Fields does not include the hop-by-hop fields of the client.
type Request struct {
	Method     []byte
	Target     []byte // in absolute form
	Path       []byte // in origin form
	Authority  string // host:port of the target
	TLS        bool   // the target is https://
	Fields     []http1.Field
	Upgrade    []byte // value of the Upgrade field to send; nil for none (see upgrades)
	Idempotent bool
	HTTP2      bool   // offer HTTP/2 to an https:// target
	ServerName string // name that the certificate of an https:// target must have; "" for the host of Authority

	// The body is Prefix, in one or more pieces, followed by Remainder. Prefix can be sent any number of times, but
	// Remainder can be read only once.
	Framing   http1.Framing
	Length    int64 // length of the whole body if Framing is http1.Length; otherwise as in http1.Request
	Prefix    [][]byte
	Remainder *http1.Body

	// Trailers is the trailer section of a chunked body without Remainder, in the form that http1.Body.Trailers
	// returns. A body with Remainder has the trailers of Remainder. TrailerNames is the value of the Trailer field; nil
	// for none.
	Trailers, TrailerNames []byte

	Source     *socket.Conn  // the connection that Remainder reads from; nil unless it is plain TCP
	Pipes      *socket.Pipes // copies from Source to the proxy; nil if Source is nil
	BeforeRead func()        // called before each wait for more bytes of Remainder
	// AfterRead, if not nil, is called with n when n bytes of Remainder have arrived. It is called with 0 when the
	// gateway stops waiting for the client and waits for the proxy instead.
	AfterRead func(n int64)
	StopRead  func() // ends the current and each later wait for bytes of Remainder; called from another goroutine

	// OnInterim, if not nil, is called with each interim response over HTTP/1 whose status is 102 or above, except 101.
	OnInterim func(*http1.Response)

	// SendContinue, if not nil, asks the client for Remainder with a 100 response (RFC 9110 section 10.1.1), and sets
	// this field to nil. It returns false if the client has left. As long as the field is not nil, the client waits for
	// the 100 response, and no byte of Remainder has been read. The attempt then sends Expect: 100-continue. It calls
	// SendContinue after it has received a 100 response or after ContinueWait, but not after a final response.
	SendContinue func() bool
}

func (r *Request) notifyRead(n int64) {
	if r.AfterRead != nil {
		r.AfterRead(n)
	}
}

// unrepeatable reports whether the request must not be sent again on another connection.
func (r *Request) unrepeatable() bool {
	return !r.Idempotent || r.Remainder != nil && r.SendContinue == nil
}

// Response is a response whose head has been read and whose body has not. The caller must call Finish.
type Response struct {
	http1.Response
	Body http1.Body
	Facts

	t      *Transport
	pool   *idlePool
	pc     *persistConn
	stream *stream // the connection of a response over HTTP/2; otherwise nil

	reusable        bool       // the response permits another request on the connection
	uploadDone      chan error // receives the result of sending the request's body; nil if it is not being sent
	uploadFailed    bool       // sending the request's body has ended early
	stopReadingBody func()
	notReceived     bool // the proxy has received no part of the request
}

// init prepares r for the response of an attempt on pc. A composite literal would be copied on the stack.
func (r *Response) init(t *Transport, pool *idlePool, pc *persistConn) {
	fields := r.Fields[:0]
	*r = Response{}
	r.Fields, r.t, r.pool, r.pc = fields, t, pool, pc
}

// RoundTrip makes one attempt: it sends the request q through the proxy u. If it returns nil, resp holds the
// response. The context ctx ends only dialing; c.Interrupt ends reads and writes.
func (t *Transport) RoundTrip(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response) *verdict.Error {
	c.Timing = core.Timing{}
	if c.Started.IsZero() {
		c.Started = t.cfg.Now()
	}
	if key := idleKey(u, q); key != "" {
		return t.roundTrip(ctx, u, c, q, resp, key)
	}
	return t.roundTripAbsolute(ctx, u, c, q, resp)
}

// roundTrip makes an attempt as RoundTrip does, over a connection with the given key (see idleKey).
func (t *Transport) roundTrip(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response, key string) *verdict.Error {
	pool, sends := t.pool(u), 0
	for {
		pc, verr := t.getConn(ctx, u, pool, key, c, q)
		if verr != nil {
			return verr
		}
		pc.setMeters(c.Meters)
		resp.init(t, pool, pc)
		nonce := pool.authorize(u, pc, q)
		verr = t.sendOnConn(u, c, q, resp)
		if verr == nil {
			resp.reusable = resp.reusable && sharesConns(u, c)
			resp.setFacts(c, q, u)
			resend := !q.isTrace() && resp.shouldResend(u.Spec(), nonce)
			if sends++; resend && nonce.mayResend(sends) && q.canResend() {
				resp.Drain(c)
				resp.Finish(c, t.cfg.Now())
				continue
			}
		}
		if verr == nil || !isConnectionStale(verr) || !resp.notReceived {
			return verr
		}
		c.NewConnection = true
	}
}

// isTrace reports whether the method is TRACE. Its response shows the request to the client, so it gets no credentials
// (RFC 9110 section 9.3.8).
func (r *Request) isTrace() bool { return string(r.Method) == "TRACE" }

// canResend reports whether the request can be sent again: no part of Remainder has been read.
func (r *Request) canResend() bool { return r.Remainder == nil || r.SendContinue != nil }

// idleKey returns the key of the idle connections that q can use. The key is "" for connections to the proxy itself.
// The key of a tunnel contains the target, and shows whether TLS is spoken in the tunnel.
func idleKey(u *upstream.Upstream, q *Request) string {
	switch {
	case q.TLS && q.ServerName != "":
		return "tls " + q.ServerName + " " + q.Authority
	case q.TLS:
		return "tls " + q.Authority
	case usesTunnel(u.Spec().Address.Scheme):
		return q.Authority
	}
	return ""
}

// sendOnConn sends q on the connection resp.pc and reads the head of the response.
func (t *Transport) sendOnConn(u *upstream.Upstream, c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	if !c.Interrupt.attach(pc.Conn) {
		closeNow(pc.Conn)
		return newError(stepDial, errCancelled)
	}
	verr := t.sendRequest(c, q, resp)
	switch {
	case verr != nil:
	case !resp.isIdleTimeout():
		return nil
	case q.unrepeatable() && !resp.closedBeforeReceipt(q):
		resp.pool.recordLoss(pc.key, t.cfg.Now())
		return nil
	default:
		verr = newError(stepWait, errIdleTimeout)
		verr.Cause = verdict.StaleConnection
	}
	c.Interrupt.detach()
	if pc.reused && resp.Status == 0 {
		switch {
		case verr.Cause == verdict.AnswerMalformed && !isOversized(verr.Err):
			verr.Cause = verdict.Leftover
		case len(pc.reader.Buffered()) == 0 && isClosedEarly(verr):
			verr.Cause = verdict.StaleConnection
		}
	}
	if isConnectionStale(verr) && !resp.notReceived && q.unrepeatable() {
		resp.pool.recordLoss(pc.key, t.cfg.Now())
	}
	closeNow(pc.Conn)
	if resp.RequestBodyBroken(q) {
		verr.Cause = verdict.RequestBroke
	}
	verr.BodyUnsent = verr.BodyUnsent || resp.uploadDone != nil
	resp.stopUpload()
	resp.pc = nil
	return verr
}

// isIdleTimeout reports whether the response is a 408 with which the peer closes an idle connection (RFC 9110 section
// 15.5.9). The peer sent the 408 before it read the request, which was still on its way.
func (r *Response) isIdleTimeout() bool {
	return r.Status == http.StatusRequestTimeout && r.pc.reused && r.Response.Close
}

// A request may be on its way when the peer closes the connection. The peer's reset then arrives one round-trip time
// after the request was sent. The method closedBeforeReceipt checks for the reset every receiptInterval, at most
// receiptChecks times. This takes 50 ms.
const (
	receiptChecks   = 25
	receiptInterval = 2 * time.Millisecond
)

// closedBeforeReceipt reports whether the peer had closed the connection before it received any part of the request. It
// also stores this result in r.notReceived.
func (r *Response) closedBeforeReceipt(q *Request) bool {
	pc := r.pc
	if _, inline := q.inlineBody(); !inline || q.Remainder != nil || pc.tcp == nil {
		return false
	}
	for range receiptChecks {
		if r.notReceived = socket.NotReceived(pc.tcp, len(pc.requestBytes)); r.notReceived {
			return true
		}
		if _, queued := socket.Progress(pc.tcp); queued < len(pc.requestBytes) {
			return false
		}
		time.Sleep(receiptInterval)
	}
	return false
}

// isOversized reports whether err means that the head of a response is too large. Such a head is not the rest of an
// earlier response.
func isOversized(err error) bool {
	var proto *http1.ProtocolError
	return errors.As(err, &proto) && proto.Status != http.StatusBadRequest
}

// isConnectionStale reports whether the attempt failed because the idle connection was not usable.
func isConnectionStale(verr *verdict.Error) bool {
	return verr.Cause == verdict.StaleConnection || verr.Cause == verdict.Leftover
}

// isClosedEarly reports whether the error may mean that the peer had closed an idle connection. The caller has
// checked that no byte of a response has arrived, not even of an interim response.
func isClosedEarly(verr *verdict.Error) bool {
	return errors.Is(verr.Err, errNoResponse) || verr.Reason == "connection_terminated"
}

// maxInline is the maximum length of a body that is sent in one write with the head.
const maxInline = 16 << 10

// inlineBody returns Prefix if it can be sent in one write with the head. It returns false if Prefix is longer than
// maxInline or has several pieces.
func (r *Request) inlineBody() ([]byte, bool) {
	switch {
	case len(r.Prefix) == 0:
		return nil, true
	case len(r.Prefix) == 1 && len(r.Prefix[0]) <= maxInline:
		return r.Prefix[0], true
	}
	return nil, false
}

func (t *Transport) sendRequest(c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	pc.control = c
	if s, ok := pc.Conn.(*stream); ok {
		return t.sendStream(c, q, resp, s)
	}
	pc.requestBytes = t.appendHead(pc.requestBytes[:0], pc, q)
	body, inline := q.inlineBody()
	if inline {
		pc.requestBytes = appendBody(pc.requestBytes, q.Framing, body)
		if q.Framing == http1.Chunked && q.Remainder == nil {
			pc.requestBytes = http1.AppendLastChunk(pc.requestBytes, q.Trailers)
		}
	}
	if !inline || q.Remainder != nil {
		return t.upload(c, q, resp, inline)
	}
	if err := pc.send(pc.requestBytes); err != nil {
		return t.writeFailed(c, q, resp, err)
	}
	verr := t.readHead(c, q, resp, false)
	if verr == nil {
		return nil
	}
	if w := (*socket.WriteError)(nil); errors.As(verr.Err, &w) {
		resp.notReceived = !pc.writeBlocked // a failed write that did not have to wait has sent nothing
		return t.writeFailed(c, q, resp, w.Err)
	}
	resp.notReceived = verr.Err == errNoResponse && socket.NotReceived(pc.tcp, len(pc.requestBytes))
	return verr
}

// writeFailed is called when sending a request has failed with err. It reads the response that the proxy may have sent
// before it closed the connection, and returns an error if there is none.
func (t *Transport) writeFailed(c *Control, q *Request, resp *Response, err error) *verdict.Error {
	if verr := t.readHead(c, q, resp, true); verr != nil {
		return newError(stepSend, err)
	}
	resp.reusable = false
	return nil
}

// readHead reads the response's head. It waits for SlowAfter to 2*SlowAfter; if no head arrives in this time,
// readSlowHead continues the wait. If writeFailed is set, there is only one wait, until the deadline. Setting a
// deadline is expensive, so the first wait may use the deadline that an earlier response has left.
func (t *Transport) readHead(c *Control, q *Request, resp *Response, writeFailed bool) *verdict.Error {
	pc := resp.pc
	began := c.Started
	if !pc.reused {
		began = t.cfg.Now()
	}
	waited := writeFailed || c.Deadline.Sub(began) <= 2*SlowAfter
	if waited {
		pc.setReadDeadline(c, c.Deadline)
	} else if d := pc.readDeadline.Sub(began); d < SlowAfter || d > 2*SlowAfter {
		pc.setReadDeadline(c, began.Add(2*SlowAfter))
	}
	err := resp.readHead(q)
	if err == nil {
		resp.startBody()
		return nil
	}
	verr := newError(stepWait, readError(err))
	if verr.Cause != verdict.NoAnswerInTime || writeFailed || c.hasEnded(t.cfg.Now()) {
		return verr
	}
	if !waited {
		c.callOnSlow()
	}
	return t.readSlowHead(c, q, resp)
}

// readSlowHead reads the response's head until the deadline. If more than Config.ParkAbove attempts are in
// readSlowHead, it parks the connection after parkWait.
func (t *Transport) readSlowHead(c *Control, q *Request, resp *Response) *verdict.Error {
	defer t.slowAttempts.Add(-1)
	now := t.cfg.Now()
	slow := t.slowAttempts.Add(1)
	park, parkAt := slow > int64(t.cfg.ParkAbove), now.Add(parkWait(slow-t.parkedAttempts.Load()))
	for {
		next := c.nextDeadline(now)
		if park && parkAt.Before(next) {
			next = parkAt
		}
		resp.pc.setReadDeadline(c, next)
		err := resp.readHead(q)
		if err == nil {
			resp.startBody()
			return nil
		}
		verr := newError(stepWait, readError(err))
		if now = t.cfg.Now(); verr.Cause != verdict.NoAnswerInTime || c.hasEnded(now) {
			return verr
		}
		if park && !now.Before(parkAt) {
			park = false
			if c.OnLongWait != nil {
				c.OnLongWait()
			}
			if err := t.waitParked(c, resp.pc); err != nil {
				return newError(stepWait, err)
			}
			now = t.cfg.Now()
		}
	}
}

const (
	// parkAfter is the longest parkWait. Parking saves memory (see socket.Conn.Park) and costs about 30 µs
	// of processor time, which is worth it only for long waits.
	parkAfter = 500 * time.Millisecond
	// With maxUnparked slow connections that are not parked, parkWait is 0.
	maxUnparked = 2048
)

// parkWait returns the time after which an attempt parks its connection. The parameter unparked is the number of slow
// connections that are not parked. The larger it is, the shorter this time is, to limit the memory of the runtime's
// poller.
func parkWait(unparked int64) time.Duration {
	return parkAfter / maxUnparked * time.Duration(max(maxUnparked-unparked, 0))
}

// waitParked waits outside of the runtime's poller until a response begins, or the connection or the attempt ends. If
// the connection is not plain TCP, it returns at once.
func (t *Transport) waitParked(c *Control, pc *persistConn) error {
	plain, ok := pc.Conn.(*socket.Conn)
	stop := make(chan struct{}, 1)
	if !ok || !c.Interrupt.beginParking(stop) {
		return nil
	}
	defer c.Interrupt.endParking(plain)
	t.parkedAttempts.Add(1)
	defer t.parkedAttempts.Add(-1)
	return plain.AwaitParked(&t.watcher, func() time.Duration {
		now := t.cfg.Now()
		return c.nextDeadline(now).Sub(now)
	}, stop)
}

// startBody prepares r to read the body.
func (r *Response) startBody() {
	r.Body.Start(&r.pc.reader, r.Framing, r.Length)
	r.Body.KeepTrailers(r.Fields)
	r.reusable = !r.Response.Close && r.Status != http.StatusSwitchingProtocols
}

// Adopt moves the response in *from to r, and leaves *from empty. The parameter old is the Control of the attempt that
// has received the response. The parameter c is the Control that the response gets instead, with the same deadline.
func (r *Response) Adopt(from *Response, old, c *Control) {
	old.Interrupt.detach()
	c.Deadline, c.CurrentDeadline = old.Deadline, nil
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

// Peek appends the first n bytes of the body to dst without consuming them. It appends fewer bytes if the body is
// shorter, or if the bytes do not arrive within peekWait. Peek also reports whether the appended bytes are the whole
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

// Drain reads the remaining body if it is short, so that the connection can be reused. It reports whether it has read
// the whole body.
func (r *Response) Drain(c *Control) bool {
	for r.Body.Remaining() <= maxDrain {
		if p, _ := r.Body.NextBuffered(); p != nil {
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

// Finish ends the attempt. If the response has been read completely and permits reuse, the connection becomes idle;
// otherwise it is closed. The result reports whether the whole request body was sent.
func (r *Response) Finish(c *Control, now time.Time) (sentAll bool) {
	if r.pc == nil {
		return true
	}
	pc := r.pc
	r.pc = nil
	sentAll = !r.uploadFailed
	if r.uploadDone != nil {
		select {
		case err := <-r.uploadDone:
			r.uploadDone, sentAll = nil, err == nil
		default: // the response arrived before the whole request body was sent
			sentAll = false
		}
	}
	keep := c.Interrupt.detach() && r.reusable && r.Body.Done() && sentAll && pc.hasNoExtraBytes()
	if keep {
		r.pool.put(pc, now)
		return sentAll
	}
	closeNow(pc.Conn)
	r.stopUpload()
	return sentAll
}

// stopUpload stops the upload of the request's body, and waits until the upload has ended.
func (r *Response) stopUpload() {
	if r.uploadDone == nil {
		return
	}
	if r.stopReadingBody != nil {
		r.stopReadingBody()
	}
	<-r.uploadDone
	r.uploadDone = nil
}

// pool returns the idle connections of u.
func (t *Transport) pool(u *upstream.Upstream) *idlePool {
	if p, _ := u.Connections().(*idlePool); p != nil && p.owner.Load() == t {
		return p
	}
	p, found := t.pools.Load(u)
	if !found {
		created := newIdlePool(u.Spec().Address)
		created.owner.Store(t)
		p, _ = t.pools.LoadOrStore(u, created)
	}
	u.SetConnections(p)
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
	t.watcher.Close()
	t.pools.Range(func(u, p any) bool {
		t.pools.Delete(u)
		p.(*idlePool).close()
		return true
	})
}

// CloseExpired closes the connections that have been idle for longer than idleTimeout.
func (t *Transport) CloseExpired() { t.closeIdleBefore(t.cfg.Now().Add(-idleTimeout)) }

// The limits of CloseSurplus.
const (
	minIdleKept = 64              // idle connections per proxy that CloseSurplus does not close
	surplusAge  = 3 * time.Second // idle time after which surplus connections are closed
)

// CloseSurplus closes the idle connections that a burst of requests has left. If a proxy has more than minIdleKept idle
// connections, it closes the oldest ones, but only those that have been idle for surplusAge. The current traffic
// does not need these connections, because the connection that became idle last is reused first.
func (t *Transport) CloseSurplus() {
	cutoff := t.cfg.Now().Add(-surplusAge)
	t.pools.Range(func(_, p any) bool {
		p.(*idlePool).closeSurplus(cutoff)
		return true
	})
}

// CloseAllIdle closes all idle connections. The Transport remains usable.
func (t *Transport) CloseAllIdle() { t.closeIdleBefore(t.cfg.Now()) }

// CloseOldestIdle closes the connections that have been idle for the longest time: an eighth of all idle connections,
// at least one. It returns false if there is no idle connection.
func (t *Transport) CloseOldestIdle() bool {
	var since []time.Time
	t.pools.Range(func(_, p any) bool {
		since = p.(*idlePool).appendIdleTimes(since)
		return true
	})
	if len(since) == 0 {
		return false
	}
	slices.SortFunc(since, time.Time.Compare)
	last := since[max(len(since)/8, 1)-1]
	return t.closeIdleBefore(last.Add(1)) > 0 // last itself is not before last
}

// closeIdleBefore closes the connections that became idle before cutoff, and returns their number.
func (t *Transport) closeIdleBefore(cutoff time.Time) (closed int) {
	t.pools.Range(func(_, p any) bool {
		closed += p.(*idlePool).closeIdleBefore(cutoff)
		return true
	})
	return closed
}

// usesTunnel reports whether all requests through a proxy with this scheme use a tunnel, even requests for http://
// targets.
func usesTunnel(scheme string) bool {
	return upstream.IsSOCKS(scheme) || scheme == upstream.Direct
}

// basicAuth returns the value of Proxy-Authorization for the address a, or nil if a has no credentials.
func basicAuth(a upstream.Address) []byte {
	if a.Username == "" && a.Password == "" {
		return nil
	}
	return []byte("Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password.Reveal())))
}

// tlsSessions is the number of servers per proxy whose TLS sessions are kept. A resumed handshake takes about half of
// the processor time of a full one. With TLS 1.2 it also takes one round trip less.
const tlsSessions = 32

// tlsClient makes a TLS handshake with host on the connection c, and offers the given protocols (ALPN). The
// proxyOptions take precedence over the other settings. Both sessions and proxyOptions may be nil.
func (t *Transport) tlsClient(ctx context.Context, c net.Conn, host string,
	sessions tls.ClientSessionCache, protocols []string, proxyOptions *upstream.TLS) (*tls.Conn, error) {
	cfg := t.tls.Clone()
	cfg.ServerName, cfg.ClientSessionCache, cfg.NextProtos = host, sessions, protocols
	if proxyOptions != nil {
		proxyOptions.Apply(cfg)
	}
	tc := tls.Client(&readGate{Conn: c}, cfg)
	return tc, tc.HandshakeContext(ctx)
}
