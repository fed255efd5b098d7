package gateway

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// refusal is an answer of Whirlpool's own.
type refusal struct {
	status     int
	code       string // stable snake_case
	message    string
	reason     string // RFC 9209 error token
	retryAfter time.Duration
	close      bool // end the connection with it
}

// appendError appends {"error":code,"message":message}: the shape of every
// error, here and in the REST API.
func appendError(b []byte, code, message string) []byte {
	b = append(b, `{"error":`...)
	b = appendJSON(b, code)
	b = append(b, `,"message":`...)
	b = appendJSON(b, message)
	return append(b, '}')
}

// appendJSON appends s as a JSON string, as encoding/json does; most of what is
// said here needs no escape.
func appendJSON(b []byte, s string) []byte {
	for i := range len(s) {
		if ch := s[i]; ch < ' ' || ch > '~' || ch == '"' || ch == '\\' || ch == '<' || ch == '>' || ch == '&' {
			quoted, _ := json.Marshal(s)
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// answer writes a refusal and reports whether the connection can go on.
func (c *conn) answer(r refusal) (keep bool) {
	var room, line [256]byte
	body := appendError(room[:0], r.code, r.message)
	keep = !r.close && c.reusable() && c.discardBody()
	b := http1.AppendStatusLine(c.borrowOut(), r.status, appendReason(line[:0], r))
	b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\nProxy-Status: whirlpool; "...)
	b = appendProxyError(b, r.reason)
	b = append(b, "; details="...)
	b = appendString(b, r.message)
	if c.x.Proxy != nil {
		b = append(b, "; next-hop="...)
		b = appendString(b, c.x.Proxy.ID())
	}
	b = append(b, "\r\n"...)
	if r.status == http.StatusProxyAuthRequired {
		b = append(b, "Proxy-Authenticate: Basic realm=\"whirlpool\", charset=\"UTF-8\"\r\n"...)
	}
	if r.retryAfter > 0 {
		b = append(b, "Retry-After: "...)
		b = strconv.AppendInt(b, int64(math.Ceil(r.retryAfter.Seconds())), 10)
		b = append(b, "\r\n"...)
	}
	b = c.appendOutcome(b)
	b = appendConnection(b, keep, c.req.Minor)
	b = append(b, "\r\n"...)
	if c.x.Method != http.MethodHead { // c.req's views may be overwritten by the body that was discarded
		b = append(b, body...)
	}
	return c.finishAnswer(b, keep)
}

// appendReason writes the reason phrase, with the message in it: of a tunnel that is
// refused most clients show their user nothing else.
func appendReason(b []byte, r refusal) []byte {
	b = append(b, http.StatusText(r.status)...)
	b = append(b, ": "...)
	for i := range len(r.message) {
		b = append(b, printable(r.message[i]))
	}
	return b
}

// appendProxyError writes why there is no answer in the terms of RFC 9209
// section 2.3, which has none for the status that a proxy refused a tunnel with.
func appendProxyError(b []byte, reason string) []byte {
	if status, ok := strings.CutPrefix(reason, "http_"); ok && len(status) == 3 {
		reason = "destination_unavailable; received-status=" + status
	}
	return append(append(b, "error="...), reason...)
}

// reusable reports whether the connection may serve another request after this
// one. What has come along with a CONNECT that failed was meant for its tunnel, and
// is no request; one that is refused before a proxy is asked may have others behind
// it.
func (c *conn) reusable() bool {
	early := c.x.Connect && c.x.Attempts > 0 && len(c.reader.Buffered()) > 0
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

// appendOutcome appends the fields that every answer carries.
func (c *conn) appendOutcome(b []byte) []byte {
	b = append(b, "X-Whirlpool-Request-Id: "...)
	b = c.x.ID.AppendTo(b)
	b = append(b, "\r\nX-Whirlpool-Attempts: "...)
	b = strconv.AppendInt(b, int64(c.x.Attempts), 10)
	b = append(b, "\r\nX-Whirlpool-Proxy-Id: "...)
	if c.x.Proxy != nil {
		b = append(b, c.x.Proxy.ID()...)
	} else {
		b = append(b, '-')
	}
	b = append(b, "\r\nX-Whirlpool-Outcome: "...)
	final := c.x.Final
	if final == 0 {
		final = core.FinalNotRetryable // refused before any attempt
	}
	b = append(b, final.String()...)
	return append(b, "\r\n"...)
}

func appendConnection(b []byte, keep bool, minor int) []byte {
	switch {
	case !keep:
		return append(b, "Connection: close\r\n"...)
	case minor == 0:
		return append(b, "Connection: keep-alive\r\n"...)
	}
	return b
}

// appendString appends s as an RFC 9651 string.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		ch := printable(s[i])
		if ch == '"' || ch == '\\' {
			b = append(b, '\\')
		}
		b = append(b, ch)
	}
	return append(b, '"')
}

// printable returns '?' for what is not printable ASCII.
func printable(ch byte) byte {
	if ch < ' ' || ch > '~' {
		return '?'
	}
	return ch
}

// answerProtocolError refuses a head that breaks the rules, and the connection
// with it: where one message ends and the next begins is in doubt.
func (c *conn) answerProtocolError(err *http1.ProtocolError) {
	c.begin()
	r := refusal{status: err.Status, code: "malformed_request", message: err.Detail, reason: "http_request_error", close: true}
	switch err.Status {
	case http.StatusRequestURITooLong:
		r.code = "request_uri_too_long"
	case http.StatusRequestHeaderFieldsTooLarge:
		r.code = "request_header_too_large"
	}
	c.req = http1.Request{}
	c.reqBody = http1.Body{}
	c.answer(r)
}

// refuse answers a connection beyond the limit.
func (c *conn) refuse() {
	defer c.raw.Close()
	c.begin()
	c.raw.SetDeadline(c.server.Now().Add(time.Second))
	c.answer(refusal{
		status: http.StatusServiceUnavailable, code: "too_many_connections", reason: "connection_limit_reached", close: true,
		message: "the gateway holds gateway.max_connections clients already, or is shutting down", retryAfter: time.Second,
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
