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

// forwardTo serves a request in absolute form with the target t. The result keep reports whether the connection can
// serve another request.
func (r *request) forwardTo(t proxyhttp.Target) (keep bool) {
	q := &r.forward.Request
	r.fields = proxyhttp.AppendRequestFields(r.fields[:0], r.head.Fields, t.Host)
	if r.set.Via {
		r.fields = proxyhttp.AppendVia(r.fields, r.head.Minor)
	}
	r.passTrace()
	*q = transport.Request{} // a composite literal with values would be copied on the stack
	q.Method, q.Target, q.Path, q.TLS = r.head.Method, t.Absolute, t.Path, t.TLS
	q.Authority, q.Fields, q.Framing, q.Length = r.cache.authority.HostPort, r.fields, r.head.Framing, r.head.Length
	q.Upgrade, q.Idempotent = proxyhttp.Upgrade(r.head.Fields, r.head.Minor), r.input.Idempotent
	if q.Framing == http1.Chunked {
		q.TrailerNames = http1.AppendTrailerNames(nil, r.head.Fields)
	}
	if r.inner != nil {
		q.HTTP2, q.ServerName = q.Upgrade == nil, r.inner.serverName
	}
	r.input.TLS = t.TLS
	if r.input.Route.RelaysInterim() && r.head.Minor == 1 && !r.conn.stream && q.Upgrade == nil {
		q.OnInterim = r.callbacks.relayInterim
	}
	// No hedge: with Upgrade, a hedge would open a second connection in the new protocol; with OnInterim, the interim
	// responses of both attempts would be relayed.
	r.input.Safe = r.input.Safe && q.Upgrade == nil && q.OnInterim == nil
	if err := r.readBody(q); err != nil {
		return r.respondBadBody(err)
	}
	r.input.Path = q.Path
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

// relayInterim relays an interim response. It ignores a write error, because the write of the final response then
// fails as well.
func (r *request) relayInterim(in *http1.Response) {
	r.conn.watch.unpark()
	b := http1.AppendFields(http1.AppendStatusLine(nil, in.Status, in.Reason), in.Fields)
	r.conn.write(append(b, "\r\n"...))
}

// ran is called after executor.Run has returned. It copies the result of the exchange to the outcome.
func (r *request) ran() {
	r.conn.watch.stop()
	r.outcome = proxyhttp.OutcomeOf(r.input.ID, r.exchange.Result())
	r.log.ran = true
}

// respondRefusal sends the error response for an exchange that has no response to relay.
func (r *request) respondRefusal(refusal *executor.Refusal) (keep bool) {
	r.ended = r.server.Now()
	if r.clientLeft() {
		refusal.Close(0, r.ended)
		r.log.left = true
		return false
	}
	e := proxyhttp.RefusalResponse(refusal)
	if r.inner != nil {
		e.Code = proxyhttp.CertificateCode(refusal, e.Code)
	}
	e.Close = r.forward.Request.Rest != nil
	refusal.Close(e.Status, r.ended)
	return r.respondError(&e)
}

// relay relays a response to the client. It closes the exchange before it writes the last byte. Thus the metrics
// include the request when the client has read the whole response.
func (r *request) relay(x *executor.Relay, in *transport.Response) (keep bool) {
	keep = r.reusable() && r.forward.Request.Rest == nil
	framing := in.Framing
	if framing == http1.UntilClose {
		framing = http1.Chunked
	}
	if framing == http1.Chunked && r.head.Minor == 0 {
		framing, keep = http1.UntilClose, false
	}
	r.log.status = in.Status
	h := r.newHead(in.Status, in.Reason, keep)
	h.Fields, h.Framing, h.Length = in.Fields, framing, in.Length
	if framing == http1.Chunked {
		h.Trailer = in.TrailerNames()
	}
	if r.set.Via {
		h.Via = proxyhttp.Via(in.Minor)
	}
	r.out.buf = h.Append(r.out.take())
	broke, left := r.copyBody(x, in, framing == http1.Chunked)
	switch {
	case left:
		r.closeRelay(x, in, broke, true)
		r.conn.reset() // a client that still reads must not take the end of the connection for the end of the body
		return false
	case broke != nil:
		// The client gets the bytes of the body that have arrived. It then gets a reset instead of a regular end.
		relayed := r.closeRelay(x, in, broke, false)
		if !relayed.RequestBroke && !relayed.Cancelled {
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

// closeRelay ends the use of the proxy connection and closes the exchange. A second call does not change the recorded
// result of the exchange.
func (r *request) closeRelay(x *executor.Relay, in *transport.Response, broke error, left bool) verdict.RelayEnd {
	status, measured := in.Status, in.Framing == http1.Length
	r.ended = r.server.Now()
	relayed := r.forward.Close(broke, r.ended)
	relayed.ClientLeft, r.log.left = left, left
	// While the request body is still streamed, the silence may be due to the client.
	if left && broke != nil && r.forward.Request.Rest == nil {
		relayed.SilentTime, relayed.HasLength = r.ended.Sub(r.silent), measured
	}
	x.Close(status, relayed, r.ended)
	return relayed
}

// copyBody writes r.out, which contains the head of the response, and then the body. The result broke is the error
// that ended the body of the proxy's response early. The result left is set if the client has left, or a write to the
// client failed. If both are set, the client left while copyBody waited for the proxy.
func (r *request) copyBody(x *executor.Relay, in *transport.Response, chunked bool) (broke error, left bool) {
	for {
		// All buffered bytes are written in one call.
		for len(r.out.buf) < largeChunk {
			p, err := in.Body.Ready()
			if p == nil {
				if err == io.EOF {
					if chunked {
						r.out.buf = http1.AppendLastChunk(r.out.buf, in.Trailers())
					}
					r.closeRelay(x, in, nil, false)
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
		r.limitSilence(in)
		p, err := in.Body.Next()
		if err != nil && r.outwait(in, err) {
			p, err = in.Body.Next()
			r.conn.watch.stop()
		}
		if err != nil && err != io.EOF {
			return err, r.clientLeft()
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

// spliceBody copies a long body inside the kernel, except for its last bodyTail bytes. Its results have the same
// meaning as those of copyBody.
func (r *request) spliceBody(in *transport.Response, src *socket.Conn) (broke error, left bool) {
	for {
		unread, ok := in.Body.Unread()
		if !ok || unread <= bodyTail {
			return nil, false
		}
		r.limitSilence(in)
		n, err := r.conn.out.splice(r.server.buffers.pipes, src, unread-bodyTail)
		if err != nil && r.outwait(in, err) {
			n, err = r.conn.out.splice(r.server.buffers.pipes, src, unread-bodyTail)
			r.conn.watch.stop()
		}
		var w *socket.WriteError
		if errors.As(err, &w) {
			in.Body.Took(n, nil)
			return nil, true
		}
		if in.Body.Took(n, err); err != nil {
			return in.Body.Err(), r.clientLeft()
		}
	}
}

// watchAfter is the time after which leaveWatch begins to watch the client, if no bytes of a response's body arrive
// from the proxy. The client may leave while it waits for them.
const watchAfter = time.Second

// limitSilence sets the deadline for the next bytes of a response's body.
func (r *request) limitSilence(in *transport.Response) {
	wait := r.set.BodyIdle
	if r.forward.Request.Rest == nil { // otherwise the transport reads the request's body from the client
		wait = min(wait, watchAfter)
	}
	r.silent = r.server.Now()
	in.SetReadDeadline(&r.forward.Control, r.silent.Add(wait))
}

// outwait is called if the wait for the next bytes of a response's body has ended with err. It reports whether the
// caller must wait a second time, for the rest of BodyIdle. If so, it starts the watch, and the caller must stop the
// watch after the second wait.
func (r *request) outwait(in *transport.Response, err error) bool {
	var w *socket.WriteError
	rest := r.set.BodyIdle - watchAfter
	silent := errors.Is(err, os.ErrDeadlineExceeded) && !errors.As(err, &w)
	if !silent || rest <= 0 || r.forward.Request.Rest != nil || r.forward.Control.Interrupt.Fired() {
		return false
	}
	in.Body.Resume()
	r.conn.watch.start()
	in.SetReadDeadline(&r.forward.Control, r.server.Now().Add(rest))
	return true
}

// clientLeft reports whether the request has been cancelled because the client has left.
func (r *request) clientLeft() bool {
	return errors.Is(context.Cause(r.conn.ctx), executor.ErrClientLeft)
}
