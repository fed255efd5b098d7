package transport

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// ContinueWait is the longest wait for a 100 response, before the body of a request with Expect: 100-continue is sent.
// Not every server sends a 100 response. curl uses the same limit.
const ContinueWait = time.Second

// Request is the request to send. Fields does not include the hop-by-hop fields of the client.
type Request struct {
	Method     []byte
	Target     []byte // in absolute form
	Path       []byte // in origin form
	Authority  string // host:port of the target
	TLS        bool   // the target is https://
	Fields     []http1.Field
	Upgrade    []byte // value of the Upgrade field to send; nil for none (see upgrades)
	Idempotent bool
	HTTP2      bool   // offer HTTP/2 to an https:// target
	ServerName string // name that the certificate of an https:// target must have; "" for the host of Authority

	// The body is Prefix, in one or more pieces, followed by Remainder. Prefix can be sent any number of times, but
	// Remainder can be read only once.
	Framing   http1.Framing
	Length    int64 // length of the whole body if Framing is http1.Length; otherwise as in http1.Request
	Prefix    [][]byte
	Remainder *http1.Body

	// Trailers is the trailer section of a chunked body without Remainder, in the form that http1.Body.Trailers
	// returns. A body with Remainder has the trailers of Remainder. TrailerNames is the value of the Trailer field; nil
	// for none.
	Trailers, TrailerNames []byte

	Source     *socket.Conn  // the connection that Remainder reads from; nil unless it is plain TCP
	Pipes      *socket.Pipes // copies from Source to the proxy; nil if Source is nil
	BeforeRead func()        // called before each wait for more bytes of Remainder
	// AfterRead, if not nil, is called when bytes of Remainder have arrived, with the number of these bytes. It is
	// called with 0 when the gateway no longer waits for the client, but for the proxy.
	AfterRead func(n int64)
	StopRead  func() // ends the current and each later wait for bytes of Remainder; called from another goroutine

	// OnInterim, if not nil, is called with each interim response over HTTP/1 whose status is 102 or above, except 101.
	OnInterim func(*http1.Response)

	// SendContinue, if not nil, sends a 100 response to the client, which asks the client for Remainder (RFC 9110
	// section 10.1.1). It then sets this field to nil. It returns false if the client has left. While the field is not
	// nil, no byte of Remainder has been read, and the attempt sends Expect: 100-continue. The attempt calls
	// SendContinue after it has received a 100 response or after ContinueWait, but not after a final response.
	SendContinue func() bool
}

func (r *Request) notifyRead(n int64) {
	if r.AfterRead != nil {
		r.AfterRead(n)
	}
}

// isUnrepeatable reports whether the request must not be sent again on another connection.
func (r *Request) isUnrepeatable() bool {
	return !r.Idempotent || r.Remainder != nil && r.SendContinue == nil
}

// isTrace reports whether the method is TRACE. The response to a TRACE shows the request to the client, so a TRACE is
// sent without credentials (RFC 9110 section 9.3.8).
func (r *Request) isTrace() bool { return string(r.Method) == "TRACE" }

// canResend reports whether the request can be sent again: no part of Remainder has been read.
func (r *Request) canResend() bool { return r.Remainder == nil || r.SendContinue != nil }

// maxInline is the maximum length of a body that is sent in one write with the head.
const maxInline = 16 << 10

// inlineBody returns Prefix if it can be sent in one write with the head. It returns false if Prefix is longer than
// maxInline or has several pieces.
func (r *Request) inlineBody() ([]byte, bool) {
	switch {
	case len(r.Prefix) == 0:
		return nil, true
	case len(r.Prefix) == 1 && len(r.Prefix[0]) <= maxInline:
		return r.Prefix[0], true
	}
	return nil, false
}
