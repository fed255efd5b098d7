package http1

// Kind identifies a header field that a proxy has to interpret.
type Kind uint8

// The kinds. A field that is not listed here has the kind Other, or Nominated if the message's Connection field names
// it. A nominated field is hop-by-hop (RFC 9110 section 7.6.1).
const (
	Other Kind = iota
	Nominated
	Host
	ContentLength
	TransferEncoding
	Connection
	KeepAlive
	ProxyConnection
	ProxyAuthorization
	ProxyAuthenticate
	ProxyAuthenticationInfo
	TE
	Trailer
	Upgrade
	Expect
	Via
	RetryAfter
	MaxForwards
	ProxyLoop // tokens of package loop
	Whirlpool // any X-Whirlpool-* field
	RequestID // X-Request-Id, which is interpreted only for the log
)

// isOther reports whether a field of the kind can become hop-by-hop because Connection names it, and can be a trailer.
func (k Kind) isOther() bool { return k == Other || k == RequestID }

// kinds is a set of kinds: bit n is set if the set has Kind(n).
type kinds uint32

// Field is one header field. Name and Value are views of the reader's buffer.
type Field struct {
	Name, Value []byte
	Kind        Kind
}

// HopByHop reports whether the field is meant for the next recipient only and is not forwarded (RFC 9110 section
// 7.6.1). It also returns true for X-Whirlpool-* fields, and for Content-Length and Transfer-Encoding, because the
// forwarded message gets its own framing.
func (f *Field) HopByHop() bool {
	switch f.Kind {
	case Other, Host, Expect, Via, RetryAfter, MaxForwards, RequestID:
		return false
	}
	return true
}

// Framing is the way in which a body is delimited (RFC 9112 section 6).
type Framing uint8

// The framings. The zero value is a message without a body.
const (
	NoBody Framing = iota
	Length
	Chunked
	UntilClose
)

// Request is the head of a request.
type Request struct {
	Method, Target []byte
	Minor          int // minor version: HTTP/1.Minor
	Fields         []Field
	Host           []byte // value of the Host field; nil without one
	Framing        Framing
	Length         int64 // the body's length if Framing is Length; if NoBody: 0 if Content-Length is 0, otherwise -1
	Close          bool  // the connection ends after this message
	Continue       bool  // the client waits for 100 Continue

	kinds kinds // the kinds of Fields, except Other and Nominated
}

// Has reports whether the head has a field of the given kind, which must not be Other or Nominated.
func (r *Request) Has(k Kind) bool { return r.kinds&(1<<k) != 0 }

// Response is the head of a response.
type Response struct {
	Status     int
	Reason     []byte
	Minor      int
	Fields     []Field
	Framing    Framing
	Length     int64 // the body's length if Framing is Length; if NoBody (HEAD, 304, empty): Content-Length, or -1
	Close      bool
	RetryAfter []byte // value of the Retry-After field; nil without one
}

// ProtocolError reports that a message violates the protocol. Detail contains no part of the message, so Detail may
// appear in a response.
type ProtocolError struct {
	Detail string
	Status int // status of the error response if the message is a request: 400, 414 or 431
}

func (e *ProtocolError) Error() string { return "malformed HTTP message: " + e.Detail }

func malformed(detail string) error { return &ProtocolError{Detail: detail, Status: 400} }
