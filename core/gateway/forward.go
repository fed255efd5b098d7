package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// forward serves an absolute-form request.
func (c *conn) forward(t proxyhttp.Target) (keep bool) {
	h := &c.call
	c.onward(t.Host)
	q := &h.Request
	*q = transport.Request{
		Method: c.req.Method, Target: c.req.Target, Path: t.Path, Authority: c.memo.authority.HostPort, TLS: t.TLS,
		Fields: c.fields, Idempotent: c.request.Idempotent, Framing: c.req.Framing, Length: c.req.Length,
	}
	if err := c.takeBody(q); err != nil {
		return c.badBody(err)
	}
	if q.Framing != http1.NoBody {
		c.request.Ready = c.server.Now() // a client that sends slowly does not use up the time of an attempt
	}
	h.Control.BodyIdle = c.set.BodyIdle
	ending := executor.Run(c.ctx, c.server.Executor, &c.exchange, &c.request, h)
	c.ran()
	if ending.Refusal == nil {
		return c.relay(ending.Relay, ending.Response)
	}
	if err := c.reqBody.Err(); q.Rest != nil && ending.Refusal.Final == core.FinalCancelled && err != nil && c.ctx.Err() == nil {
		c.ended = c.server.Now()
		ending.Refusal.Close(0, c.ended)
		return c.badBody(err)
	}
	return c.fail(ending.Refusal)
}

// ran is called when Run has returned.
func (c *conn) ran() {
	c.watch.stop()
	c.outcome = proxyhttp.OutcomeOf(c.request.ID, c.exchange.Result())
}

// fail ends an exchange without a response to relay.
func (c *conn) fail(r *executor.Refusal) (keep bool) {
	c.ended = c.server.Now()
	if errors.Is(context.Cause(c.ctx), executor.ErrClientLeft) {
		r.Close(0, c.ended)
		return false
	}
	a := proxyhttp.RefusalResponse(r)
	a.Close = c.call.Request.Rest != nil
	r.Close(a.Status, c.ended)
	return c.answer(a)
}

// takeBody reads the request's body, up to the size that is kept for replay. A
// longer body streams from there on, and once that has begun its request is not
// tried again.
func (c *conn) takeBody(q *transport.Request) error {
	c.watch.disabled = false
	c.request.Replayable = true
	if c.req.Framing == http1.NoBody {
		return nil
	}
	c.detach(q)
	fits := c.req.Framing == http1.Chunked || c.req.Length <= c.set.ReplayLimit
	switch {
	case !c.req.Continue:
	case !fits: // the expectation goes on: RFC 9110 section 10.1.1
		q.Continue = c.continueFunc
		c.streamBody(q)
		return nil
	case !c.sendContinue():
		return io.ErrUnexpectedEOF
	}
	if fits {
		c.bodyLoan.take(&c.body)
	}
	for fits && !c.reqBody.Done() {
		c.armBody()
		p, err := c.reqBody.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		c.body = append(c.body, p...)
		fits = int64(len(c.body)) <= c.set.ReplayLimit
	}
	q.Prefix = c.body
	if c.reqBody.Done() {
		q.Framing, q.Length = http1.Length, int64(len(c.body)) // its length is known by now
		return nil
	}
	c.request.Replayable = false
	c.streamBody(q)
	return nil
}

// streamBody lets the transport read what is left of the request's body.
func (c *conn) streamBody(q *transport.Request) {
	c.watch.disabled = true
	q.Rest, q.BeforeRead, q.StopRead = &c.reqBody, c.armBodyFunc, c.stopBodyFunc
	q.Source, _ = c.raw.(*socket.Conn)
	q.Pipes = c.server.chunks.pipes
}

// sendContinue tells the client to send the request's body. If that streams, the
// request is not tried again from then on.
func (c *conn) sendContinue() bool {
	c.continued = true
	if q := &c.call.Request; q.Continue != nil {
		q.Continue, c.request.Replayable = nil, false
	}
	return c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// detach copies what q holds of the head: they are views of the connection's
// buffer, and reading the body overwrites it.
func (c *conn) detach(q *transport.Request) {
	arena := c.head[:0]
	own := func(b []byte) []byte {
		from := len(arena)
		arena = append(arena, b...)
		return arena[from:len(arena):len(arena)]
	}
	q.Method, q.Target, q.Path = own(q.Method), own(q.Target), own(q.Path)
	c.req.Method = q.Method
	for i := range q.Fields {
		f := &q.Fields[i]
		f.Name, f.Value = own(f.Name), own(f.Value)
	}
	c.head = arena
}

// armBody sets the deadline for the next piece of the request's body.
func (c *conn) armBody() {
	c.armed = time.Time{}
	c.raw.SetReadDeadline(c.server.Now().Add(c.set.BodyIdle))
	if c.bodyStopped.Load() { // looked at last, so that a stop right now is not undone
		c.raw.SetReadDeadline(aLongTimeAgo)
	}
}

// stopBody ends the wait for the request's body, from another goroutine and for
// good: a request whose body has not been read to its end is the last on its
// connection.
func (c *conn) stopBody() {
	c.bodyStopped.Store(true)
	c.raw.SetReadDeadline(aLongTimeAgo)
}

// badBody answers a request whose body could not be read.
func (c *conn) badBody(err error) bool {
	var bad *http1.ProtocolError
	switch {
	case errors.As(err, &bad):
		return c.answer(proxyhttp.ErrorResponse{Status: http.StatusBadRequest, Code: "malformed_request", Message: bad.Detail, Reason: "http_request_error", Close: true})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.answer(proxyhttp.ErrorResponse{Status: http.StatusRequestTimeout, Code: "request_timeout", Message: "the request's body did not come within timeouts.body_idle", Reason: "http_request_error", Close: true})
	}
	return false
}

// relay writes the answer on to the client. The attempt is recorded before its
// last byte is written, so that whoever has the answer finds it counted.
func (c *conn) relay(x *executor.Relay, r *transport.Response) (keep bool) {
	keep = c.reusable() && c.call.Request.Rest == nil
	framing, length := r.Framing, r.Length
	if framing == http1.UntilClose {
		framing = http1.Chunked
	}
	if framing == http1.Chunked && c.req.Minor == 0 {
		framing, keep = http1.UntilClose, false
	}
	h := c.newHead(r.Status, r.Reason, keep)
	h.Fields, h.Framing, h.Length = r.Fields, framing, length
	if c.set.Via {
		h.Via = proxyhttp.Via(r.Minor)
	}
	status := r.Status
	c.out = h.Append(c.borrowOut())
	cut, gone := c.copyBody(x, r, framing == http1.Chunked, status)
	switch {
	case gone:
		c.end(x, status, nil, true)
		return false
	case cut != nil:
		// Never a clean end: the client gets what there is, and must see that
		// something is missing.
		relayed := c.end(x, status, cut, false)
		if !relayed.RequestBroke && !relayed.Stopped {
			socket.WaitAcked(c.raw, c.set.BodyIdle)
		}
		if tcp, ok := c.raw.(*socket.Conn); ok {
			tcp.SetLinger(0)
		}
		return false
	}
	if c.call.Request.Rest != nil {
		c.lingerClose()
	}
	return keep
}

// end gives the upstream connection back and records the exchange. Only the first
// call counts.
func (c *conn) end(x *executor.Relay, status int, cut error, gone bool) verdict.Relayed {
	c.ended = c.server.Now()
	relayed := c.call.Close(cut, c.ended)
	relayed.ClientLeft = gone
	x.Close(status, relayed, c.ended)
	return relayed
}

// copyBody writes c.out, which holds the head, and then the body. cut is why the
// body broke off upstream, if it did; gone says that the client does not take it.
func (c *conn) copyBody(x *executor.Relay, r *transport.Response, chunked bool, status int) (cut error, gone bool) {
	for {
		// Everything that lies ready goes out in one write.
		for len(c.out) < largeChunk {
			p, err := r.Body.Ready()
			if p == nil {
				if err == io.EOF {
					if chunked {
						c.out = append(c.out, http1.LastChunk...)
					}
					c.end(x, status, nil, false) // before the last byte is written
					return nil, !c.write(c.out)
				}
				if err != nil {
					c.write(c.out)
					return err, false
				}
				break
			}
			c.out = appendPiece(c.out, p, chunked)
		}
		if !c.write(c.out) {
			return nil, true
		}
		c.outLoan.back(&c.out) // the next piece may be long in coming
		if !chunked && r.Body.Left() >= socket.SpliceMin {
			if cut, gone := c.bulk(r); cut != nil || gone {
				return cut, gone
			}
		}
		r.SetReadDeadline(&c.call.Control, c.server.Now().Add(c.set.BodyIdle))
		p, err := r.Body.Next()
		if err != nil && err != io.EOF {
			return err, false
		}
		c.out = appendPiece(c.borrowOut(), p, chunked)
	}
}

func appendPiece(b, p []byte, chunked bool) []byte {
	if chunked {
		return http1.AppendChunk(b, p)
	}
	return append(b, p...)
}

// bulkTail bytes of a body are left to copyBody, which records the exchange
// before it writes the last ones.
const bulkTail = 4 << 10

// bulk copies most of a long body from socket to socket.
func (c *conn) bulk(r *transport.Response) (cut error, gone bool) {
	dst, plain := c.raw.(*socket.Conn)
	src, too := r.Conn().(*socket.Conn)
	if !plain || !too {
		return nil, false
	}
	for {
		left, ok := r.Body.Unread()
		if !ok || left <= bulkTail {
			return nil, false
		}
		r.SetReadDeadline(&c.call.Control, c.server.Now().Add(c.set.BodyIdle))
		n, err := c.server.chunks.pipes.Move(dst, src, left-bulkTail)
		c.stall.Stop()
		var w *socket.WriteError
		if errors.As(err, &w) {
			r.Body.Took(n, nil)
			return nil, true
		}
		if r.Body.Took(n, err); err != nil {
			return r.Body.Err(), false
		}
	}
}
