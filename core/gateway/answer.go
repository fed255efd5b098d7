package gateway

import (
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

// answer writes an answer of our own and reports whether the connection can go on.
func (c *conn) answer(a proxyhttp.ErrorResponse) (keep bool) {
	var room, line [256]byte
	body := a.AppendBody(room[:0])
	keep = !a.Close && c.reusable() && c.discardBody()
	h := c.newHead(a.Status, a.AppendReason(line[:0]), keep)
	h.ContentType, h.Framing, h.Length, h.Error = "application/json", http1.Length, int64(len(body)), &a
	b := h.Append(c.borrowOut())
	if c.request.Method != http.MethodHead { // c.req's views may be overwritten by the body that was discarded
		b = append(b, body...)
	}
	return c.finishAnswer(b, keep)
}

// newHead is the head of an answer to the request.
func (c *conn) newHead(status int, reason []byte, keep bool) proxyhttp.Head {
	return proxyhttp.Head{Status: status, Reason: reason, Outcome: c.outcome, Close: !keep, Minor: c.req.Minor}
}

// reusable reports whether the connection may serve another request after this
// one. What has come along with a CONNECT that failed was meant for its tunnel, and
// is no request; one that is refused before a proxy is asked may have others behind
// it.
func (c *conn) reusable() bool {
	early := c.request.Tunnel && c.outcome.Attempts > 0 && len(c.reader.Buffered()) > 0
	return !c.req.Close && !c.server.draining.Load() && !early
}

// finishAnswer writes b, an answer of our own, and reports whether the
// connection can go on.
func (c *conn) finishAnswer(b []byte, keep bool) bool {
	c.out = b
	if !c.write(b) {
		return false
	}
	if !keep {
		c.lingerClose()
	}
	return keep
}

// answerProtocolError refuses a head that breaks the rules, and the connection
// with it: where one message ends and the next begins is in doubt.
func (c *conn) answerProtocolError(err *http1.ProtocolError) {
	c.begin()
	a := proxyhttp.ErrorResponse{Status: err.Status, Code: "malformed_request", Message: err.Detail, Reason: "http_request_error", Close: true}
	switch err.Status {
	case http.StatusRequestURITooLong:
		a.Code = "request_uri_too_long"
	case http.StatusRequestHeaderFieldsTooLarge:
		a.Code = "request_header_too_large"
	}
	c.req = http1.Request{}
	c.reqBody = http1.Body{}
	c.answer(a)
}

// refuse answers a connection beyond the limit.
func (c *conn) refuse() {
	defer c.raw.Close()
	c.begin()
	c.raw.SetDeadline(c.server.Now().Add(time.Second))
	c.answer(proxyhttp.ErrorResponse{
		Status: http.StatusServiceUnavailable, Code: "too_many_connections", Reason: "connection_limit_reached", Close: true,
		Message: "the gateway holds gateway.max_connections clients already, or is shutting down", RetryAfter: time.Second,
	})
}

// discardBody reads what is left of a small request body, so that the
// connection can go on.
func (c *conn) discardBody() bool {
	switch {
	case c.reqBody.Done():
		return true
	case c.req.Continue && !c.continued:
		return false // the client has not sent it
	}
	c.armBody()
	return c.reqBody.Drain(64 << 10)
}
