package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// forwardTo serves a request in absolute form with the target t. keep reports whether the
// connection can serve another request.
func (r *request) forwardTo(t proxyhttp.Target) (keep bool) {
	q := &r.forward.Request
	r.fields = proxyhttp.AppendRequestFields(r.fields[:0], r.head.Fields, t.Host)
	if r.set.Via {
		r.fields = proxyhttp.AppendVia(r.fields, r.head.Minor)
	}
	*q = transport.Request{
		Method: r.head.Method, Target: t.Absolute, Path: t.Path, Authority: r.cache.authority.HostPort, TLS: t.TLS,
		Fields: r.fields, Upgrade: proxyhttp.Upgrade(r.head.Fields, r.head.Minor),
		Idempotent: r.input.Idempotent, Framing: r.head.Framing, Length: r.head.Length,
	}
	r.input.TLS = t.TLS
	r.input.Safe = r.input.Safe && q.Upgrade == nil // a hedge would open a second connection in the new protocol
	if err := r.readBody(q); err != nil {
		return r.respondBadBody(err)
	}
	if q.Framing != http1.NoBody {
		r.input.Ready = r.server.Now() // the attempt timeout begins after the client has sent the body
	}
	r.forward.Control.BodyIdle = r.set.BodyIdle
	ending := executor.Run(r.conn.ctx, r.server.Executor, &r.exchange, &r.input, &r.forward)
	r.ran()
	if ending.Refusal == nil && ending.Response.Status == http.StatusSwitchingProtocols {
		r.upgrade(ending.Relay, ending.Response)
		return false
	}
	if ending.Refusal == nil {
		return r.relay(ending.Relay, ending.Response)
	}
	err := r.body.Err()
	if q.Rest != nil && err != nil && ending.Refusal.Final == core.FinalCancelled && r.conn.ctx.Err() == nil {
		r.ended = r.server.Now()
		ending.Refusal.Close(0, r.ended)
		return r.respondBadBody(err)
	}
	return r.respondRefusal(ending.Refusal)
}

// ran copies the result of the exchange to the outcome, after executor.Run has returned.
func (r *request) ran() {
	r.conn.watch.stop()
	r.outcome = proxyhttp.OutcomeOf(r.input.ID, r.exchange.Result())
	r.log.Ran = true
}

// respondRefusal sends the error response for an exchange that has no response to relay.
func (r *request) respondRefusal(refusal *executor.Refusal) (keep bool) {
	r.ended = r.server.Now()
	if errors.Is(context.Cause(r.conn.ctx), executor.ErrClientLeft) {
		refusal.Close(0, r.ended)
		r.log.Left = true
		return false
	}
	e := proxyhttp.RefusalResponse(refusal)
	e.Close = r.forward.Request.Rest != nil
	refusal.Close(e.Status, r.ended)
	return r.respondError(&e)
}

// relay relays a response to the client. The exchange is closed before the last byte is written, so that the
// metrics include the request when the client has read the whole response.
func (r *request) relay(x *executor.Relay, in *transport.Response) (keep bool) {
	keep = r.reusable() && r.forward.Request.Rest == nil
	framing := in.Framing
	if framing == http1.UntilClose {
		framing = http1.Chunked
	}
	if framing == http1.Chunked && r.head.Minor == 0 {
		framing, keep = http1.UntilClose, false
	}
	r.log.Status = in.Status
	h := r.newHead(in.Status, in.Reason, keep)
	h.Fields, h.Framing, h.Length = in.Fields, framing, in.Length
	if r.set.Via {
		h.Via = proxyhttp.Via(in.Minor)
	}
	r.out.buf = h.Append(r.out.take())
	broke, left := r.copyBody(x, in, framing == http1.Chunked)
	switch {
	case left:
		r.closeRelay(x, in.Status, nil, true)
		return false
	case broke != nil:
		// The client gets the bytes that have arrived, and then a reset instead of a regular end.
		relayed := r.closeRelay(x, in.Status, broke, false)
		if !relayed.RequestBroke && !relayed.Stopped {
			socket.WaitAcked(r.conn.raw, r.set.BodyIdle)
		}
		r.conn.reset()
		return false
	}
	if r.forward.Request.Rest != nil {
		r.conn.linger(!r.body.Done())
	}
	return keep
}

// closeRelay ends the use of the proxy connection and closes the exchange. Later calls have no
// effect.
func (r *request) closeRelay(x *executor.Relay, status int, broke error, left bool) verdict.Relayed {
	r.ended = r.server.Now()
	relayed := r.forward.Close(broke, r.ended)
	relayed.ClientLeft, r.log.Left = left, left
	x.Close(status, relayed, r.ended)
	return relayed
}

// copyBody writes r.out, which contains the head, and then the body. broke is the error that ended the
// proxy's body early. left is set if a write to the client failed.
func (r *request) copyBody(x *executor.Relay, in *transport.Response, chunked bool) (broke error, left bool) {
	for {
		// All buffered bytes are written in one call.
		for len(r.out.buf) < largeChunk {
			p, err := in.Body.Ready()
			if p == nil {
				if err == io.EOF {
					if chunked {
						r.out.buf = append(r.out.buf, http1.LastChunk...)
					}
					r.closeRelay(x, in.Status, nil, false)
					return nil, !r.conn.write(r.out.buf)
				}
				if err != nil {
					r.conn.write(r.out.buf)
					return err, false
				}
				break
			}
			r.out.buf = appendPiece(r.out.buf, p, chunked)
		}
		if !r.conn.write(r.out.buf) {
			return nil, true
		}
		r.out.back() // the wait for the next bytes may be long
		if src := r.conn.out.spliceSource(in.Conn()); src != nil && !chunked && in.Body.Left() >= socket.SpliceMin {
			if broke, left := r.spliceBody(in, src); broke != nil || left {
				return broke, left
			}
		}
		in.SetReadDeadline(&r.forward.Control, r.server.Now().Add(r.set.BodyIdle))
		p, err := in.Body.Next()
		if err != nil && err != io.EOF {
			return err, false
		}
		r.out.buf = appendPiece(r.out.take(), p, chunked)
	}
}

func appendPiece(b, p []byte, chunked bool) []byte {
	if chunked {
		return http1.AppendChunk(b, p)
	}
	return append(b, p...)
}

// bodyTail is the number of bytes at the end of a body that spliceBody leaves to copyBody: copyBody
// closes the exchange before it writes the last bytes.
const bodyTail = 4 << 10

// spliceBody copies a long body inside the kernel, except for its last bodyTail bytes.
func (r *request) spliceBody(in *transport.Response, src *socket.Conn) (broke error, left bool) {
	for {
		unread, ok := in.Body.Unread()
		if !ok || unread <= bodyTail {
			return nil, false
		}
		in.SetReadDeadline(&r.forward.Control, r.server.Now().Add(r.set.BodyIdle))
		n, err := r.conn.out.splice(r.server.buffers.pipes, src, unread-bodyTail)
		var w *socket.WriteError
		if errors.As(err, &w) {
			in.Body.Took(n, nil)
			return nil, true
		}
		if in.Body.Took(n, err); err != nil {
			return in.Body.Err(), false
		}
	}
}
