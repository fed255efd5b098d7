package gateway

import (
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

// respondError writes an error response and reports whether the connection can go on.
func (r *request) respondError(e *proxyhttp.ErrorResponse) (keep bool) {
	var room, line [256]byte
	body := e.AppendBody(room[:0])
	keep = !e.Close && r.reusable() && r.discardBody()
	h := r.newHead(e.Status, e.AppendReason(line[:0]), keep)
	h.ContentType, h.Framing, h.Length, h.Error = "application/json", http1.Length, int64(len(body)), e
	b := h.Append(r.out.take())
	if r.input.Method != http.MethodHead { // r.head may be overwritten by the body that was discarded
		b = append(b, body...)
	}
	return r.respond(b, keep)
}

// respond writes b, a whole response, and reports whether the connection can go on.
func (r *request) respond(b []byte, keep bool) bool {
	r.out.buf = b
	if !r.conn.write(b) {
		return false
	}
	if !keep {
		r.conn.linger(!r.body.Done())
	}
	return keep
}

// newHead is the head of a response to the request.
func (r *request) newHead(status int, reason []byte, keep bool) proxyhttp.Head {
	return proxyhttp.Head{Status: status, Reason: reason, Outcome: r.outcome, Close: !keep, Minor: r.head.Minor}
}

// reusable reports whether the connection may serve another request after this one.
// Bytes that came after a CONNECT that was sent to a proxy and failed were meant for its
// tunnel, and are no request; after one that was refused before that, they may be.
func (r *request) reusable() bool {
	early := r.input.Tunnel && r.outcome.Attempts > 0 && len(r.conn.reader.Buffered()) > 0
	return !r.head.Close && !r.conn.draining() && !early
}

// discardBody reads what is left of a small request body, so that the connection can go
// on.
func (r *request) discardBody() bool {
	switch {
	case r.body.Done():
		return true
	case r.head.Continue && !r.continued:
		return false // the client has not sent it
	}
	r.awaitBody()
	return r.body.Drain(64 << 10)
}
