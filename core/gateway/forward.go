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
)

// serveForward serves a request in absolute form. The result keepAlive reports whether the connection can serve another
// request.
func (r *request) serveForward() (keepAlive bool) {
	q, t := &r.forward.Request, &r.target
	r.fields = proxyhttp.AppendRequestFields(r.fields[:0], r.head.Fields, t.Host)
	if r.settings.Via {
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
	if r.outerConnect != nil {
		q.HTTP2, q.ServerName = q.Upgrade == nil, r.outerConnect.serverName
	}
	r.input.TLS = t.TLS
	if r.input.Route.RelaysInterim() && r.head.Minor == 1 && !r.conn.isStream && q.Upgrade == nil {
		q.OnInterim = r.callbacks.relayInterim
	}
	// Such a request is not hedged. With Upgrade, a hedge would open a second connection in the new protocol. With
	// OnInterim, the interim responses of both attempts would be relayed.
	r.input.Safe = r.input.Safe && q.Upgrade == nil && q.OnInterim == nil
	if err := r.readBody(q); err != nil {
		return r.respondBadBody(err)
	}
	r.input.Path = q.Path
	if q.Framing != http1.NoBody {
		r.input.BodyEnd = r.server.Now() // the attempt timeout begins after the client has sent the body
	}
	r.forward.Control.BodyIdle = r.settings.BodyIdle
	ending := executor.Run(r.conn.ctx, r.server.Executor, &r.exchange, &r.input, &r.forward)
	r.copyResult()
	if ending.Refusal == nil && ending.Response.Status == http.StatusSwitchingProtocols {
		r.upgrade(ending.Relay, ending.Response)
		return false
	}
	if ending.Refusal == nil {
		return r.relay(ending.Relay, ending.Response)
	}
	err := r.body.Err()
	if q.Remainder != nil && err != nil && ending.Refusal.Final == core.FinalCancelled && r.conn.ctx.Err() == nil {
		r.exchangeEnd = r.server.Now()
		ending.Refusal.Close(0, r.exchangeEnd)
		return r.respondBadBody(err)
	}
	return r.respondRefusal(ending.Refusal)
}

// relayInterim relays an interim response. It ignores a write error, because the next write fails too.
func (r *request) relayInterim(response *http1.Response) {
	r.conn.clientWatch.rejoinPoller()
	b := http1.AppendFields(http1.AppendStatusLine(nil, response.Status, response.Reason), response.Fields)
	r.conn.write(append(b, "\r\n"...))
}

// copyResult copies the result of executor.Run to the outcome.
func (r *request) copyResult() {
	r.conn.clientWatch.stop()
	r.outcome = proxyhttp.OutcomeOf(r.input.ID, r.exchange.Result())
	r.log.hasRun = true
}

// respondRefusal sends the error response for an exchange that has no response to relay.
func (r *request) respondRefusal(refusal *executor.Refusal) (keepAlive bool) {
	r.exchangeEnd = r.server.Now()
	if r.clientLeft() {
		refusal.Close(0, r.exchangeEnd)
		r.log.clientLeft = true
		return false
	}
	e := proxyhttp.RefusalResponse(refusal)
	if r.outerConnect != nil {
		e.Code = proxyhttp.CertificateCode(refusal, e.Code)
	}
	e.Close = r.forward.Request.Remainder != nil
	refusal.Close(e.Status, r.exchangeEnd)
	return r.respondError(&e)
}

// relay relays a response to the client. It closes the exchange before it writes the last byte, so that the metrics
// include the request when the client has the whole response.
func (r *request) relay(relay *executor.Relay, response *transport.Response) (keepAlive bool) {
	keepAlive = r.canReuse() && r.forward.Request.Remainder == nil
	framing := response.Framing
	if framing == http1.UntilClose {
		framing = http1.Chunked
	}
	if framing == http1.Chunked && r.head.Minor == 0 {
		framing, keepAlive = http1.UntilClose, false
	}
	r.log.status = response.Status
	var h proxyhttp.Head
	r.startHead(&h, response.Status, response.Reason, keepAlive)
	h.Fields, h.Framing, h.Length = response.Fields, framing, response.Length
	if framing == http1.Chunked {
		h.Trailer = response.TrailerNames()
	}
	if r.settings.Via {
		h.Via = proxyhttp.Via(response.Minor)
	}
	r.responseBuf.buf = h.Append(r.responseBuf.get())
	responseErr, clientLeft := r.copyBody(relay, response, framing == http1.Chunked)
	switch {
	case clientLeft:
		r.closeRelay(relay, response, responseErr, true, r.server.Now())
		r.conn.prepareReset() // without a reset, a client could take the end of the connection for the end of the body
		return false
	case responseErr != nil:
		// The client gets the bytes of the body that have arrived. It then gets a reset instead of a regular end.
		if proxyBroke := r.closeRelay(relay, response, responseErr, false, r.server.Now()); proxyBroke {
			socket.WaitAcked(r.conn.netConn, r.settings.BodyIdle)
		}
		r.conn.prepareReset()
		return false
	}
	if r.forward.Request.Remainder != nil {
		r.conn.linger(!r.body.Done())
	}
	return keepAlive
}

// closeRelay ends the use of the proxy connection and closes the exchange at the given time. The first call decides the
// recorded result. If the body has ended with the error responseErr, closeRelay returns true if the proxy has caused
// this, and false if the client or the gateway has.
func (r *request) closeRelay(relay *executor.Relay, response *transport.Response, responseErr error,
	clientLeft bool, at time.Time) (proxyBroke bool) {
	status, measured := response.Status, response.Framing == http1.Length
	r.exchangeEnd = at
	relayed := r.forward.Close(responseErr, r.exchangeEnd)
	relayed.ClientLeft, r.log.clientLeft = clientLeft, clientLeft
	// While the request's body is still being sent, the silence of the target may be due to the client.
	if clientLeft && responseErr != nil && r.forward.Request.Remainder == nil {
		relayed.SilentTime, relayed.HasLength = r.exchangeEnd.Sub(r.bodyWaitStart), measured
	}
	relay.Close(status, relayed, r.exchangeEnd)
	return !relayed.RequestBroke && !relayed.Cancelled
}

// copyBody writes the head in r.responseBuf, and then the body. It returns the error that ended the body of the proxy's
// response early, and whether the client has left. If it returns both, the client left while copyBody waited for the
// proxy.
func (r *request) copyBody(relay *executor.Relay, response *transport.Response, chunked bool) (
	responseErr error, clientLeft bool) {
	for waited := false; ; waited = true {
		// All buffered bytes are written in one call.
		for len(r.responseBuf.buf) < largeChunk {
			p, err := response.Body.NextBuffered()
			if p == nil {
				if err == io.EOF {
					if chunked {
						r.responseBuf.buf = http1.AppendLastChunk(r.responseBuf.buf, response.Trailers())
					}
					end := relay.HeadArrived() // the whole response has arrived with its head
					if waited {
						end = r.server.Now()
					}
					r.closeRelay(relay, response, nil, false, end)
					return nil, !r.conn.write(r.responseBuf.buf)
				}
				if err != nil {
					r.writePart(relay)
					return err, false
				}
				break
			}
			r.responseBuf.buf = appendPiece(r.responseBuf.buf, p, chunked)
		}
		if !r.writePart(relay) {
			return nil, true
		}
		r.responseBuf.put() // the wait for the next bytes may be long
		src := r.conn.writer.spliceSource(response.Conn())
		if src != nil && !chunked && response.Body.Remaining() >= socket.SpliceMin {
			if responseErr, clientLeft := r.spliceBody(response, src); responseErr != nil || clientLeft {
				return responseErr, clientLeft
			}
		}
		r.setBodyDeadline(response)
		p, err := response.Body.Next()
		if err != nil && r.extendBodyWait(response, err) {
			p, err = response.Body.Next()
			r.conn.clientWatch.stop()
		}
		if err != nil && err != io.EOF {
			return err, r.clientLeft()
		}
		r.responseBuf.buf = appendPiece(r.responseBuf.get(), p, chunked)
	}
}

// writePart writes the part of the response in r.responseBuf. Further parts may follow.
func (r *request) writePart(relay *executor.Relay) bool {
	relay.ReportStreaming()
	return r.conn.write(r.responseBuf.buf)
}

func appendPiece(b, p []byte, chunked bool) []byte {
	if chunked {
		return http1.AppendChunk(b, p)
	}
	return append(b, p...)
}

// bodyTail is the number of bytes at the end of a body that spliceBody leaves to copyBody, which closes the exchange
// before it writes them.
const bodyTail = 4 << 10

// spliceBody copies a long body inside the kernel, except for its last bodyTail bytes. It returns the same results as
// copyBody.
func (r *request) spliceBody(response *transport.Response, src *socket.Conn) (responseErr error, clientLeft bool) {
	for {
		unread, ok := response.Body.DirectlyReadable()
		if !ok || unread <= bodyTail {
			return nil, false
		}
		r.setBodyDeadline(response)
		n, err := r.conn.writer.splice(r.server.buffers.pipes, src, unread-bodyTail)
		if err != nil && r.extendBodyWait(response, err) {
			n, err = r.conn.writer.splice(r.server.buffers.pipes, src, unread-bodyTail)
			r.conn.clientWatch.stop()
		}
		var w *socket.WriteError
		if errors.As(err, &w) {
			response.Body.RecordRead(n, nil)
			return nil, true
		}
		if response.Body.RecordRead(n, err); err != nil {
			return response.Body.Err(), r.clientLeft()
		}
	}
}

// watchDelay is the time without bytes of a response's body after which clientWatch begins to watch the client.
const watchDelay = time.Second

// setBodyDeadline sets the deadline for the next bytes of a response's body.
func (r *request) setBodyDeadline(response *transport.Response) {
	wait := r.settings.BodyIdle
	if r.forward.Request.Remainder == nil { // otherwise the transport reads the request's body from the client
		wait = min(wait, watchDelay)
	}
	r.bodyWaitStart = r.server.Now()
	response.SetReadDeadline(&r.forward.Control, r.bodyWaitStart.Add(wait))
}

// extendBodyWait is called when the wait for the next bytes of a body has ended with err. It reports whether the wait
// must be continued for the rest of BodyIdle. If so, it starts clientWatch, which the caller must stop after the wait.
func (r *request) extendBodyWait(response *transport.Response, err error) bool {
	var w *socket.WriteError
	rest := r.settings.BodyIdle - watchDelay
	silent := errors.Is(err, os.ErrDeadlineExceeded) && !errors.As(err, &w)
	if !silent || rest <= 0 || r.forward.Request.Remainder != nil || r.forward.Control.Interrupt.Ended() {
		return false
	}
	response.Body.Resume()
	r.conn.clientWatch.start()
	response.SetReadDeadline(&r.forward.Control, r.server.Now().Add(rest))
	return true
}

// clientLeft reports whether the request has been cancelled because the client has left.
func (r *request) clientLeft() bool {
	return errors.Is(context.Cause(r.conn.ctx), executor.ErrClientLeft)
}
