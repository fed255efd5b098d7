package proxyhttp

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// Outcome has the values of the X-Whirlpool-* fields of responses.
type Outcome struct {
	ID       core.RequestID // zero if no request was read
	Attempts int
	ProxyID  string // the proxy of the last attempt; "" if there was no attempt
	// MovedFrom is the id of the session's previous proxy, if the request has moved its session; otherwise "".
	MovedFrom string
	Final     core.Final // 0 stands for FinalNotRetryable: the request was refused before any attempt
}

// OutcomeOf returns the outcome of the request with the given id and result.
func OutcomeOf(id core.RequestID, r *executor.Result) Outcome {
	return Outcome{ID: id, Attempts: r.Attempts, ProxyID: r.ProxyID, MovedFrom: r.MovedFrom, Final: r.Final}
}

// The names of the header fields of an Outcome.
const (
	requestIDField = "X-Whirlpool-Request-Id"
	attemptsField  = "X-Whirlpool-Attempts"
	proxyIDField   = "X-Whirlpool-Proxy-Id"
	outcomeField   = "X-Whirlpool-Outcome"
	movedField     = "X-Whirlpool-Session-Moved"
)

func (o *Outcome) proxyID() string {
	if o.ProxyID == "" {
		return "-"
	}
	return o.ProxyID
}

func (o *Outcome) final() string {
	if o.Final == 0 {
		return core.FinalNotRetryable.String()
	}
	return o.Final.String()
}

func (o *Outcome) append(b []byte) []byte {
	if o.ID != 0 {
		b = append(b, requestIDField+": "...)
		b = o.ID.AppendTo(b)
		b = append(b, "\r\n"...)
	}
	b = append(b, attemptsField+": "...)
	b = strconv.AppendInt(b, int64(o.Attempts), 10)
	b = append(b, "\r\n"+proxyIDField+": "...)
	b = append(b, o.proxyID()...)
	b = append(b, "\r\n"+outcomeField+": "...)
	b = append(b, o.final()...)
	if o.MovedFrom != "" {
		b = append(b, "\r\n"+movedField+": "...)
		b = append(b, o.MovedFrom...)
	}
	return append(b, "\r\n"...)
}

// Set sets the header fields of the outcome in h.
func (o *Outcome) Set(h http.Header) {
	h.Set(requestIDField, o.ID.String())
	h.Set(attemptsField, strconv.Itoa(o.Attempts))
	h.Set(proxyIDField, o.proxyID())
	h.Set(outcomeField, o.final())
	if o.MovedFrom != "" {
		h.Set(movedField, o.MovedFrom)
	}
}

// Head is the head of a response to a client of the gateway.
type Head struct {
	Status      int
	Reason      []byte
	Fields      []http1.Field // fields of the proxy's response; hop-by-hop fields are not sent
	Via         []byte        // value of the Via field to add; nil for none
	ContentType string        // "" for none
	Framing     http1.Framing
	Trailer     []byte         // names of the announced trailer fields; nil for none
	Length      int64          // Content-Length if Framing is Length; -1 for none
	Error       *ErrorResponse // the error response; nil if there is none
	Upgrade     []byte         // protocol to which the connection switches, with status 101; otherwise nil
	Received    int            // status with which a proxy refused a tunnel; otherwise 0
	Outcome     Outcome
	Close       bool // the client connection ends after the response
	Minor       int  // minor version of the client's HTTP/1
}

// Append appends the head and the empty line after it.
func (h *Head) Append(b []byte) []byte {
	b = http1.AppendStatusLine(b, h.Status, h.Reason)
	b = http1.AppendFields(b, h.Fields)
	if h.Via != nil {
		b = http1.AppendField(b, "Via", h.Via)
	}
	if h.ContentType != "" {
		b = append(b, "Content-Type: "...)
		b = append(b, h.ContentType...)
		b = append(b, "\r\n"...)
	}
	b = http1.AppendFraming(b, h.Framing, h.Length)
	if h.Trailer != nil {
		b = http1.AppendField(b, "Trailer", h.Trailer)
	}
	if h.Error != nil || h.Received != 0 {
		b = h.appendStatus(b)
	}
	b = h.Outcome.append(b)
	switch {
	case h.Upgrade != nil:
		b = http1.AppendUpgrade(b, h.Upgrade)
	case h.Close:
		b = append(b, "Connection: close\r\n"...)
	case h.Minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendStatus appends the fields that explain why there is no response of a target. These are Proxy-Status (RFC
// 9209) and the fields that some statuses require.
func (h *Head) appendStatus(b []byte) []byte {
	b = append(b, "Proxy-Status: whirlpool; "...)
	if h.Received != 0 {
		b = append(b, "received-status="...)
		b = strconv.AppendInt(b, int64(h.Received), 10)
	} else {
		b = appendErrorToken(b, h.Error.Reason)
		b = append(b, "; details="...)
		b = appendString(b, h.Error.Message)
	}
	if h.Outcome.ProxyID != "" {
		b = append(b, "; next-hop="...)
		b = appendString(b, h.Outcome.ProxyID)
	}
	b = append(b, "\r\n"...)
	if h.Error == nil {
		return b
	}
	if h.Status == http.StatusProxyAuthRequired {
		b = append(b, "Proxy-Authenticate: Basic realm=\"whirlpool\", charset=\"UTF-8\"\r\n"...)
	}
	if s := h.Error.RetryAfterSeconds(); s > 0 {
		b = append(b, "Retry-After: "...)
		b = strconv.AppendInt(b, s, 10)
		b = append(b, "\r\n"...)
	}
	return b
}

// appendErrorToken appends the error type for reason (RFC 9209 section 2.3). If a proxy refused a tunnel with a
// status, reason is "http_<status>". The RFC defines no type for this, so appendErrorToken uses
// destination_unavailable.
func appendErrorToken(b []byte, reason string) []byte {
	if status, ok := strings.CutPrefix(reason, "http_"); ok && len(status) == 3 {
		reason = "destination_unavailable; received-status=" + status
	}
	return append(append(b, "error="...), reason...)
}

// ErrorResponse is a response that the gateway writes itself.
type ErrorResponse struct {
	Status     int           // 4xx for an error in the request, otherwise 502, 503 or 504
	Code       string        // stable snake_case word
	Message    string        // text for the user
	Reason     string        // RFC 9209 error token, or "http_<status>"
	RetryAfter time.Duration // time until the client may repeat the request; 0 if unknown
	Err        error         // the error of the last attempt; may be nil
	Close      bool          // the client connection ends after the response
}

// RetryAfterSeconds returns the value of a Retry-After field (RFC 9110 section 10.2.3), rounded up; 0 for none.
func (e *ErrorResponse) RetryAfterSeconds() int64 { return int64(math.Ceil(e.RetryAfter.Seconds())) }

// FinalCode returns the error code in the response to POST /request, which has no X-Whirlpool-Outcome. The code is the
// value that X-Whirlpool-Outcome would have. FinalNotRetryable and FinalCancelled stand for several codes; for these
// two, FinalCode returns e.Code.
func (e *ErrorResponse) FinalCode(final core.Final) string {
	if final == core.FinalNotRetryable || final == core.FinalCancelled {
		return e.Code
	}
	return final.String()
}

// AppendReason appends the reason phrase. The phrase includes the message, because most clients show only the reason
// phrase if a tunnel is refused.
func (e *ErrorResponse) AppendReason(b []byte) []byte {
	b = append(b, http.StatusText(e.Status)...)
	b = append(b, ": "...)
	for i := range len(e.Message) {
		b = append(b, printableOrMark(e.Message[i]))
	}
	return b
}

// AppendBody appends {"error":code,"message":message}, the form of every error at the gateway's
// port and in the REST API.
func (e *ErrorResponse) AppendBody(b []byte) []byte {
	b = append(b, `{"error":`...)
	b = appendJSON(b, e.Code)
	b = append(b, `,"message":`...)
	b = appendJSON(b, e.Message)
	return append(b, '}')
}

// AppendClosing appends the whole response to a client whose request has not been read. The connection ends after the
// response.
func (e *ErrorResponse) AppendClosing(b []byte) []byte {
	body := e.AppendBody(nil)
	h := Head{
		Status: e.Status, Reason: e.AppendReason(nil), ContentType: "application/json", Framing: http1.Length,
		Length: int64(len(body)), Error: e, Close: true,
	}
	return append(h.Append(b), body...)
}

// appendJSON appends s as a JSON string, as encoding/json does. It calls encoding/json only if s needs an escape.
// Most messages need none.
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

// appendString appends s as an RFC 9651 string.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		ch := printableOrMark(s[i])
		if ch == '"' || ch == '\\' {
			b = append(b, '\\')
		}
		b = append(b, ch)
	}
	return append(b, '"')
}

// printableOrMark returns ch, or '?' if ch is not printable ASCII.
func printableOrMark(ch byte) byte {
	if ch < ' ' || ch > '~' {
		return '?'
	}
	return ch
}
