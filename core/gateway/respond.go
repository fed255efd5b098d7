package gateway

import (
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

// respondError writes an error response and reports whether the connection can serve another
// request.
func (r *request) respondError(e *proxyhttp.ErrorResponse) (keepAlive bool) {
	if r.outerConnect != nil && e.Status == http.StatusProxyAuthRequired { // inside a tunnel, a client expects no proxy
		e.Status, e.Close = http.StatusForbidden, true
	}
	r.log.status, r.log.code = e.Status, e.Code
	if !r.log.hasRun {
		r.reportRefused(e.Code)
	}
	if r.connectReplied {
		return false
	}
	var room, line [256]byte
	body := e.AppendBody(room[:0])
	keepAlive = !e.Close && r.canReuse() && r.discardBody()
	var h proxyhttp.Head
	r.startHead(&h, e.Status, e.AppendReason(line[:0]), keepAlive)
	h.ContentType, h.Framing, h.Length, h.Error = "application/json", http1.Length, int64(len(body)), e
	b := h.Append(r.responseBuf.get())
	if r.input.Method != http.MethodHead { // r.head.Method may have been overwritten by discardBody
		b = append(b, body...)
	}
	return r.respond(b, keepAlive)
}

// respond writes b, a complete response, and reports whether the connection can serve another request.
func (r *request) respond(b []byte, keepAlive bool) bool {
	r.responseBuf.buf = b
	if !r.conn.write(b) {
		return false
	}
	if !keepAlive {
		r.responseBuf.put() // the wait may be long
		r.conn.linger(!r.body.Done())
	}
	return keepAlive
}

// startHead sets the fields of h that every response to the request has. The parameter keepAlive is true if the
// connection can serve another request after this response. startHead does not return the head, because this would copy
// it.
func (r *request) startHead(h *proxyhttp.Head, status int, reason []byte, keepAlive bool) {
	h.Status, h.Reason, h.Outcome, h.Close, h.Minor = status, reason, r.outcome, !keepAlive, r.head.Minor
}

// canReuse reports whether the connection can serve another request after this request. It returns false if a CONNECT
// failed after an attempt and the client has already sent more bytes, because these bytes are meant for the tunnel.
// If the gateway itself refused the CONNECT, the bytes may be another request.
func (r *request) canReuse() bool {
	early := r.input.WantsTunnel && r.outcome.Attempts > 0 && (len(r.conn.reader.Buffered()) > 0 || r.conn.hasUnread())
	return !r.head.Close && !r.conn.draining() && !r.server.closeAfterResponse.Load() && !early
}

// discardBody reads and discards the rest of the request's body if this rest is small. It returns false if the
// connection cannot serve another request.
func (r *request) discardBody() bool {
	switch {
	case r.body.Done():
		return true
	case r.head.Continue && !r.sentContinue:
		return false // the client waits for a 100 (Continue) before it sends the body
	}
	r.bodyRate.Start(r.settings.MinBodyRate, r.settings.BodyGrace)
	r.beginBodyWait()
	defer r.endBodyWait(0)
	return r.body.Drain(64 << 10)
}
