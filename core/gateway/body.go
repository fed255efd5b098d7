package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// readBody reads the request's body and keeps it for repeats, if it has at most replay_limit bytes. A longer body is
// streamed to the proxy, and the request is not repeated. A body is also streamed if the kept bodies of all requests
// leave no room for it (replay_memory).
func (r *request) readBody(q *transport.Request) error {
	r.conn.clientWatch.disabled = false
	r.input.Replayable = true
	if r.head.Framing == http1.NoBody {
		return nil
	}
	r.copyHead(q)
	r.bodyRate.Start(r.settings.MinBodyRate, r.settings.BodyGrace)
	lengthKnown := r.head.Framing != http1.Chunked
	fits := !lengthKnown || r.head.Length <= r.settings.ReplayLimit &&
		r.server.replay.HasRoom(r.head.Length, r.settings.ReplayMemory)
	if r.isGRPC(q) { // the client of a gRPC call may wait for a response before it sends the rest of the body
		fits = false
		r.bodyRate.Start(0, r.settings.BodyGrace)
	}
	fits = fits && !r.waitsForTarget(q)
	switch {
	case !r.head.Continue:
	case !fits: // the Expect field goes to the proxy (RFC 9110 section 10.1.1)
		q.SendContinue = r.callbacks.sendContinue
		r.streamBody(q)
		return nil
	case !r.sendContinue():
		return io.ErrUnexpectedEOF
	}
	r.keptBody.setLength(-1)
	if lengthKnown {
		r.keptBody.setLength(r.head.Length)
	}
	for fits && !r.body.Done() {
		r.beginBodyWait()
		p, err := r.body.Next()
		r.endBodyWait(int64(len(p)))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		r.keptBody.append(p)
		fits = r.keptBody.size <= r.settings.ReplayLimit && r.reserved.Grow(int64(len(p)), r.settings.ReplayMemory)
	}
	q.Prefix = r.keptBody.pieces
	if r.body.Done() {
		if q.Trailers = r.body.Trailers(); q.Trailers == nil {
			q.Framing, q.Length = http1.Length, r.keptBody.size
		}
		return nil
	}
	r.input.Replayable = false
	r.streamBody(q)
	return nil
}

// waitsForTarget reports whether the gateway asks for the request's body only when the target does. This requires that
// the client waits for a 100 (Continue), that the length of the body is unknown, so that it may be long, and that the
// request is not repeated after it may have reached the target.
func (r *request) waitsForTarget(q *transport.Request) bool {
	return r.head.Continue && r.head.Framing == http1.Chunked && len(r.conn.reader.Buffered()) == 0 &&
		!r.input.Idempotent && !r.input.Policy.RetryNonIdempotent && q.Upgrade == nil
}

// streamBody makes the transport read the rest of the request's body from the client.
func (r *request) streamBody(q *transport.Request) {
	r.conn.clientWatch.disabled = true
	q.Remainder, q.BeforeRead, q.AfterRead = &r.body, r.callbacks.beginBodyWait, r.callbacks.endBodyWait
	q.StopRead = r.callbacks.stopBodyReads
	q.Source, _ = r.conn.netConn.(*socket.Conn)
	q.Pipes = r.server.buffers.pipes
}

// beginBodyWait sets the deadline for the next piece of the request's body. If the body is slower than the minimum
// rate, the wait counts from an earlier time: by the delay of the body, but by at most minBodyWait. So a client that
// sends a byte now and then can be evicted, but a client that has sent nothing for longer is evicted before it.
func (r *request) beginBodyWait() {
	now := r.server.Now()
	since := now.Add(-min(r.bodyRate.Delay(), minBodyWait))
	r.conn.readControl.beginBodyWait(since, r.bodyRate.BeginWait(now, r.settings.BodyIdle))
}

// endBodyWait ends the wait for a piece of the request's body: n bytes have arrived.
func (r *request) endBodyWait(n int64) {
	r.bodyRate.EndWait(r.server.Now(), n)
	r.conn.readControl.endBodyWait()
}

// sendContinue sends a 100 (Continue) to ask the client for the request's body. It reports whether the write has
// succeeded. If the body is streamed, the request cannot be repeated after this call.
func (r *request) sendContinue() bool {
	r.sentContinue = true
	if q := &r.forward.Request; q.SendContinue != nil {
		q.SendContinue, r.input.Replayable = nil, false
	}
	return r.conn.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// copyHead replaces q's method, target and fields by copies. The originals are slices of the connection's read buffer.
// When the body is read, its bytes overwrite the originals.
func (r *request) copyHead(q *transport.Request) {
	arena := r.headCopy[:0]
	copyBytes := func(b []byte) []byte {
		from := len(arena)
		arena = append(arena, b...)
		return arena[from:len(arena):len(arena)]
	}
	q.Method, q.Target, q.Path = copyBytes(q.Method), copyBytes(q.Target), copyBytes(q.Path)
	if q.Upgrade != nil {
		q.Upgrade = copyBytes(q.Upgrade)
	}
	r.head.Method = q.Method
	for i := range q.Fields {
		f := &q.Fields[i]
		f.Name, f.Value = copyBytes(f.Name), copyBytes(f.Value)
	}
	r.headCopy = arena
}

// respondBadBody responds to a request whose body could not be read because of err. It reports
// whether the connection can serve another request.
func (r *request) respondBadBody(err error) bool {
	e := proxyhttp.ErrorResponse{Reason: "http_request_error", Close: true}
	var bad *http1.ProtocolError
	switch {
	case errors.As(err, &bad):
		e.Status, e.Code, e.Message = http.StatusBadRequest, "malformed_request", bad.Detail
	case errors.Is(err, os.ErrDeadlineExceeded):
		e.Status, e.Code = http.StatusRequestTimeout, "request_timeout"
		e.Message = "the request's body did not come within timeouts.body_idle"
		if r.bodyRate.TooSlow() {
			e.Message = "the request's body came with fewer bytes per second than gateway.min_body_rate"
		}
	default:
		r.log.clientLeft = true
		return false
	}
	if r.log.hasRun { // otherwise respondError reports it
		r.reportRefused(e.Code)
	}
	return r.respondError(&e)
}
