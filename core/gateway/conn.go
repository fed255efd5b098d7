package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

const (
	// idleTimeout closes a kept client connection that sends no request; it
	// also bounds how long a request's head may take.
	idleTimeout = 3 * time.Minute
	// idleSlack is how stale an idle deadline may get before it is set anew: a
	// busy connection pays for a timer once in that time, not per request.
	idleSlack = 30 * time.Second
)

// conn is one client connection. All but drain and close belongs to the goroutine that
// runs serve; while a request's body is sent on, reading it and armBody belong
// to the goroutine that does that.
type conn struct {
	server *Server
	set    *settings // in force when the request began
	raw    net.Conn
	reader *http1.Reader
	ctx    context.Context // cancelled when the client has left
	cancel context.CancelCauseFunc
	entry  TrackerEntry
	phase  atomic.Int32 // what drain and Server.await want to know
	armed  time.Time    // when the idle deadline was set last
	ended  time.Time    // when the last request ended; zero if it was refused

	req       http1.Request
	reqBody   http1.Body
	continued bool // 100 Continue has been sent
	request   executor.Request
	exchange  executor.Exchange
	outcome   proxyhttp.Outcome // of the request, so far
	call      proxyhttp.Forward
	dial      proxyhttp.Connect
	watch     watcher
	stall     socket.Stall
	out       []byte        // head (and small body) being written
	fields    []http1.Field // of the request, as they go on
	head      []byte        // of a request with a body, which would overwrite it
	body      []byte        // of the request, kept for replay
	outLoan   loan          // out is nil between requests
	bodyLoan  loan          // and so is body
	memo      memo
	tunnel    atomic.Pointer[transport.Tunnel] // that stands; for close

	bodyStopped               atomic.Bool // nothing more of the request's body is waited for; the connection ends with it
	armBodyFunc, stopBodyFunc func()      // bound once
	continueFunc              func() bool // bound once
}

// The phases of a connection.
const (
	fresh int32 = iota // its first request is to come
	busy               // a request is running
	idle               // it is kept for another
)

// memo keeps what rarely changes from one request of a connection to the next,
// so that a request costs no allocation.
type memo struct {
	authority  proxyhttp.Authority // of the last target
	regionFrom string              // last X-Whirlpool-Region
	region     string              // of it
	strict     bool                // of it
	auth       string              // last Proxy-Authorization let in
	authSet    *settings
	override   string // last X-Whirlpool-Retry
	global     *retry.Policy
	policy     *retry.Policy // override merged over global
}

func newConn(s *Server, raw net.Conn) *conn {
	raw = socket.Wrap(raw)
	c := &conn{server: s, set: s.settings.Load(), raw: raw, reader: http1.NewReader(raw)}
	c.outLoan.from, c.bodyLoan.from = s.spareOuts, s.spareBodies
	c.call.Transport, c.call.Now = s.Transport, s.Now
	c.dial.Transport, c.dial.Control = s.Transport, &c.call.Control
	c.watch.conn = c
	c.call.Control.OnSlow = c.watch.start
	if plain, ok := raw.(*socket.Conn); ok {
		plain.OnFull = c.full
	}
	c.armBodyFunc = c.armBody
	c.stopBodyFunc = c.stopBody
	c.continueFunc = c.sendContinue
	return c
}

func (c *conn) serve() {
	c.ctx, c.cancel = context.WithCancelCause(c.server.ctx)
	stop := context.AfterFunc(c.ctx, c.call.Control.Interrupt.Fire)
	c.entry = c.server.Tracker.Track()
	defer c.server.rescue()
	defer func() {
		c.exchange.Abandon()
		c.stall.Stop()
		stop()
		c.cancel(executor.ErrClientLeft)
		c.entry.Release()
		c.raw.Close()
	}()
	for c.next() {
	}
}

// next serves one request and reports whether another may follow.
func (c *conn) next() bool {
	c.arm()
	if c.server.draining.Load() { // looked at after arm, which would undo what drain does
		return false
	}
	c.reader.Release() // who waits needs no buffer
	if err := c.reader.ReadRequest(&c.req); err != nil {
		c.unreadable(err)
		return false
	}
	c.phase.Store(busy)
	keep := c.handle()
	c.shrink()
	c.phase.Store(idle)
	return keep
}

// shrink gives back what the last request had to have and an idle connection
// need not.
func (c *conn) shrink() {
	c.outLoan.back(&c.out)
	c.bodyLoan.back(&c.body)
	if cap(c.head) > smallChunk {
		c.head = nil
	}
	if cap(c.fields) > usualFields {
		c.fields = nil
	}
	if cap(c.req.Fields) > usualFields {
		c.req.Fields = nil
	}
	if cap(c.call.Response.Fields) > usualFields {
		c.call.Response.Fields = nil
	}
}

// usualFields is how many header fields a connection is prepared for.
const usualFields = 64

// begin readies the exchange for a request.
func (c *conn) begin() {
	c.request = executor.Request{ID: c.server.NewID()}
	c.outcome = proxyhttp.Outcome{ID: c.request.ID}
	c.continued, c.ended = false, time.Time{}
}

// handle serves the request whose head is in c.req.
func (c *conn) handle() (keep bool) {
	c.set = c.server.settings.Load()
	c.begin()
	c.reqBody.Start(c.reader, c.req.Framing, c.req.Length)
	x := &c.request
	x.Method = method(c.req.Method)
	if x.Tunnel = x.Method == http.MethodConnect; x.Tunnel {
		x.Listener = core.ListenConnect
	}
	x.Idempotent = x.Tunnel || retry.Idempotent(x.Method)
	x.BeforeWait, x.Progress = c.call.Control.OnSlow, c.entry

	var t proxyhttp.Target
	var err error
	if x.Tunnel {
		if c.req.Framing != http1.NoBody {
			return c.answer(proxyhttp.ErrorResponse{Status: 400, Code: "malformed_request", Message: "a CONNECT with a body", Reason: "http_request_error", Close: true})
		}
		err = c.memo.authority.Set(c.req.Target, "")
	} else if t, err = proxyhttp.ParseTarget(c.req.Method, c.req.Target); err == nil {
		c.req.Target = t.Absolute
		err = c.memo.authority.Set(t.Host, t.Port())
	}
	if err != nil {
		return c.answer(proxyhttp.ErrorResponse{Status: 400, Code: "bad_target", Message: err.Error(), Reason: "http_request_error"})
	}
	if !c.authorized() {
		return c.answer(proxyhttp.ErrorResponse{Status: 407, Code: "proxy_authentication_required", Message: "this proxy wants a user name and password", Reason: "http_request_denied"})
	}
	if c.countHop() {
		return c.answerLastHop()
	}
	x.Global = c.server.Policies.Current()
	if x.Policy, err = c.policy(x.Global); err != nil {
		return c.answer(proxyhttp.ErrorResponse{Status: 400, Code: "invalid_retry_policy", Message: err.Error(), Reason: "http_request_error"})
	}
	if x.Region, x.RegionStrict, err = c.region(); err != nil {
		return c.answer(proxyhttp.ErrorResponse{Status: 400, Code: "invalid_region", Message: err.Error(), Reason: "http_request_error"})
	}
	x.Host, x.Target = c.memo.authority.Host, c.memo.authority.Target
	x.Started = c.server.Now()
	c.entry.Begin(x.ID, x.Method, x.Host, x.Started)
	if x.Tunnel {
		return c.connect()
	}
	return c.forward(t)
}

// write sends b to the client. While it has to wait for room it is watched.
func (c *conn) write(b []byte) bool {
	_, err := c.raw.Write(b)
	c.stall.Stop()
	return err == nil
}

// full is called before a write waits (socket.Conn.OnFull).
func (c *conn) full() { c.stall.Start(c.raw, c.set.BodyIdle) }

// borrowOut empties c.out to put an answer together in.
func (c *conn) borrowOut() []byte {
	c.outLoan.take(&c.out)
	return c.out[:0]
}

// lingerClose lets the client read the answer although it is still sending: a
// plain close would reset the connection, and many a client reads what it gets
// only once it has sent everything. A drain does not wait for that.
func (c *conn) lingerClose() {
	c.phase.Store(idle)
	closeWrite(c.raw)
	wait, most := lingerShort, lingerTime
	if c.server.draining.Load() {
		most = lingerShort
	} else if !c.reqBody.Done() {
		wait = lingerWait
	}
	for end := c.server.Now().Add(most); ; {
		c.reader.Discard(len(c.reader.Buffered()))
		c.reader.Release() // a buffer that is full would take nothing more
		until := c.server.Now().Add(wait)
		if until.After(end) {
			until = end
		}
		c.raw.SetReadDeadline(until)
		if wait == lingerWait && c.server.draining.Load() { // looked at last, or what drain does might be undone
			return
		}
		if c.reader.ReadAhead() != nil {
			return
		}
	}
}

const (
	lingerShort = 500 * time.Millisecond // for more from a client that has nothing to send
	lingerWait  = 5 * time.Second        // from one whose request has not ended
	lingerTime  = 30 * time.Second       // at most, however it goes on
)

// arm sets the read deadline within which the next head must come.
func (c *conn) arm() {
	now := c.ended
	if now.IsZero() {
		now = c.server.Now()
	}
	if now.Sub(c.armed) > idleSlack {
		c.armed = now
		c.raw.SetReadDeadline(now.Add(idleTimeout))
	}
}

// drain closes the connection if no request is running on it.
func (c *conn) drain() {
	if c.phase.Load() != busy {
		c.raw.SetReadDeadline(aLongTimeAgo)
	}
}

// close closes the connection, and with it whatever runs on it.
func (c *conn) close() {
	c.raw.Close()
	if t := c.tunnel.Load(); t != nil {
		t.Abort()
	}
}

// unreadable answers a head that could not be read, where an answer makes sense.
func (c *conn) unreadable(err error) {
	var bad *http1.ProtocolError
	if errors.As(err, &bad) {
		c.answerProtocolError(bad)
		return
	}
	if err != io.EOF {
		c.server.Log.Debug("client connection ended", slog.Any("error", err))
	}
}

// aLongTimeAgo as a deadline ends a blocked read or write at once.
var aLongTimeAgo = time.Unix(1, 0)
