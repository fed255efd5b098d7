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
	r.conn.watch.disabled = false
	r.input.Replayable = true
	if r.head.Framing == http1.NoBody {
		return nil
	}
	r.detach(q)
	r.rate.start(r.set.MinBodyRate, r.set.BodyGrace)
	known := r.head.Framing != http1.Chunked // the length is known
	fits := !known || r.head.Length <= r.set.ReplayLimit && r.server.replay.HasRoom(r.head.Length, r.set.ReplayMemory)
	if r.isGRPC(q) { // the client of a gRPC call may wait for a response before it sends the rest of the body
		fits = false
		r.rate.start(0, r.set.BodyGrace)
	}
	switch {
	case !r.head.Continue:
	case !fits: // the Expect field goes to the proxy (RFC 9110 section 10.1.1)
		q.Continue = r.callbacks.sendContinue
		r.streamBody(q)
		return nil
	case !r.sendContinue():
		return io.ErrUnexpectedEOF
	}
	r.kept.start(-1)
	if known {
		r.kept.start(r.head.Length)
	}
	for fits && !r.body.Done() {
		r.awaitBody()
		p, err := r.body.Next()
		r.gotBody(int64(len(p)))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		r.kept.append(p)
		fits = r.kept.size <= r.set.ReplayLimit && r.reserved.Grow(int64(len(p)), r.set.ReplayMemory)
	}
	q.Prefix = r.kept.list
	if r.body.Done() {
		if q.Trailers = r.body.Trailers(); q.Trailers == nil {
			q.Framing, q.Length = http1.Length, r.kept.size
		}
		return nil
	}
	r.input.Replayable = false
	r.streamBody(q)
	return nil
}

// streamBody makes the transport read the rest of the request's body from the client.
func (r *request) streamBody(q *transport.Request) {
	r.conn.watch.disabled = true
	q.Rest, q.BeforeRead, q.AfterRead = &r.body, r.callbacks.awaitBody, r.callbacks.gotBody
	q.StopRead = r.callbacks.stopBody
	q.Source, _ = r.conn.raw.(*socket.Conn)
	q.Pipes = r.server.buffers.pipes
}

// awaitBody sets the deadline for the next piece of the request's body. The client counts as waited for since the time
// by which its body is too late, so that a client that sends a byte now and then can be evicted as well.
func (r *request) awaitBody() {
	now := r.server.Now()
	r.conn.read.awaitBody(now.Add(-r.rate.behind()), r.rate.await(now, r.set.BodyIdle))
}

// gotBody ends the wait for a piece of the request's body: n bytes have arrived.
func (r *request) gotBody(n int64) {
	r.rate.arrived(r.server.Now(), n)
	r.conn.read.gotBody()
}

// sendContinue sends a 100 (Continue) to ask the client for the request's body. It reports whether the write has
// succeeded. If the body is streamed, the request cannot be repeated after this call.
func (r *request) sendContinue() bool {
	r.continued = true
	if q := &r.forward.Request; q.Continue != nil {
		q.Continue, r.input.Replayable = nil, false
	}
	return r.conn.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// detach replaces q's method, target and fields by copies. The originals are slices of the connection's read buffer.
// When the body is read, its bytes overwrite the originals.
func (r *request) detach(q *transport.Request) {
	arena := r.detached[:0]
	own := func(b []byte) []byte {
		from := len(arena)
		arena = append(arena, b...)
		return arena[from:len(arena):len(arena)]
	}
	q.Method, q.Target, q.Path = own(q.Method), own(q.Target), own(q.Path)
	if q.Upgrade != nil {
		q.Upgrade = own(q.Upgrade)
	}
	r.head.Method = q.Method
	for i := range q.Fields {
		f := &q.Fields[i]
		f.Name, f.Value = own(f.Name), own(f.Value)
	}
	r.detached = arena
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
		if r.rate.limited {
			e.Message = "the request's body came with fewer bytes per second than gateway.min_body_rate"
		}
	default:
		r.log.left = true
		return false
	}
	return r.respondError(&e)
}
