package http1

import (
	"bytes"
	"math"
)

// ReadRequest reads the head of a request into q, reusing its slices. It
// returns io.EOF when the connection ended cleanly between messages,
// io.ErrUnexpectedEOF when it ended inside a head, and a *ProtocolError for a
// head that breaks the rules.
func (r *Reader) ReadRequest(q *Request) error {
	head, err := r.head()
	if err != nil {
		return err
	}
	*q = Request{Fields: q.Fields[:0]}
	line, rest, _ := bytes.Cut(head, crlf)
	sp := bytes.IndexByte(line, ' ')
	last := bytes.LastIndexByte(line, ' ')
	if sp <= 0 || last == sp {
		return malformed("the request line is not METHOD SP TARGET SP VERSION")
	}
	q.Method, q.Target = line[:sp], line[sp+1:last]
	if !isToken(q.Method) {
		return malformed("the method is not a token")
	}
	if !isTarget(q.Target) {
		return malformed("the request target has a space or control character, or is empty")
	}
	if q.Minor = version(line[last+1:]); q.Minor < 0 {
		return malformed("the version is not HTTP/1.0 or HTTP/1.1")
	}
	var s scan
	if q.Fields, err = s.fields(rest, q.Fields); err != nil {
		return err
	}
	switch {
	case s.hosts > 1:
		return malformed("more than one Host field")
	case s.hosts == 0 && q.Minor == 1:
		return malformed("an HTTP/1.1 request without a Host field")
	}
	q.Host = s.host
	q.Close = s.close || q.Minor == 0 && !s.keepAlive
	q.Continue = s.expect100 && q.Minor == 1
	switch {
	case s.chunked && q.Minor == 0:
		return malformed("Transfer-Encoding in an HTTP/1.0 request")
	case s.chunked:
		q.Framing = Chunked
	case s.length > 0:
		q.Framing, q.Length = Length, s.length
	case !s.hasLength:
		q.Length = -1
	}
	return nil
}

// ReadResponse reads the head of the final response to a request of that method
// into p. It skips interim ones (1xx), which RFC 9110 section 15.2 would have
// passed on: Python's http.client takes any but 100 for the final answer, and then
// gives each request the answer to the one before it. What follows a 2xx to CONNECT
// is no body but the tunnel's. Errors are as ReadRequest's.
func (r *Reader) ReadResponse(p *Response, method []byte) error {
	for range maxInterim {
		if err := r.readResponse(p, method); err != nil {
			return err
		}
		if p.Status >= 200 {
			return nil
		}
		if p.Status == 101 {
			return malformed("101 Switching Protocols, which nobody asked for")
		}
	}
	return malformed("too many interim (1xx) responses")
}

// maxInterim bounds how many 1xx responses may come before the final one.
const maxInterim = 32

func (r *Reader) readResponse(p *Response, method []byte) error {
	head, err := r.head()
	if err != nil {
		return err
	}
	*p = Response{Fields: p.Fields[:0]}
	line, rest, _ := bytes.Cut(head, crlf)
	// HTTP/1.1 200 Reason
	if len(line) < 12 || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return malformed("the status line is not VERSION SP STATUS SP REASON")
	}
	if p.Minor = version(line[:8]); p.Minor < 0 {
		return malformed("the version is not HTTP/1.0 or HTTP/1.1")
	}
	for _, d := range line[9:12] {
		if d < '0' || d > '9' {
			return malformed("the status is not a number of three digits")
		}
		p.Status = 10*p.Status + int(d-'0')
	}
	if p.Status < 100 { // above 599 there are some in the wild: LinkedIn's 999
		return malformed("the status is below 100")
	}
	if len(line) > 13 {
		p.Reason = line[13:]
		if !isValue(p.Reason) {
			return malformed("the reason phrase has a control character")
		}
	}
	s := scan{unframed: p.Status/100 == 2 && string(method) == "CONNECT"}
	if p.Fields, err = s.fields(rest, p.Fields); err != nil {
		return err
	}
	p.RetryAfter = s.retryAfter
	p.Close = s.close || p.Minor == 0 && !s.keepAlive
	p.Length = -1
	switch {
	case s.unframed || string(method) == "HEAD" || p.Status < 200 || p.Status == 204 || p.Status == 304:
		if s.hasLength && p.Status != 204 { // RFC 9110 section 8.6: no length there
			p.Length = s.length
		}
	case s.chunked && p.Minor == 0:
		return malformed("Transfer-Encoding in an HTTP/1.0 response")
	case s.chunked:
		p.Framing = Chunked
	case s.hasLength && s.length == 0:
		p.Length = 0
	case s.hasLength:
		p.Framing, p.Length = Length, s.length
	default:
		p.Framing, p.Close = UntilClose, true
	}
	return nil
}

// scan gathers what the fields of one head say about the message itself.
type scan struct {
	host, retryAfter []byte
	hosts            int
	length           int64
	hasLength        bool
	chunked          bool
	close, keepAlive bool
	expect100        bool
	nominated        bool
	unframed         bool // Content-Length and Transfer-Encoding mean nothing: RFC 9110 section 9.3.6
}

func (s *scan) fields(block []byte, fields []Field) ([]Field, error) {
	for len(block) > 0 {
		i := bytes.IndexByte(block, '\n')
		if i < 1 || block[i-1] != '\r' {
			return fields, malformed("a line ends in LF without CR")
		}
		line := block[:i-1]
		block = block[i+1:]
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return fields, malformed("a header line without a name and a colon")
		}
		name := line[:colon]
		if !isToken(name) {
			// This covers obs-fold (a line that begins with white space) and
			// white space before the colon.
			return fields, malformed("a field name is not a token: white space before it or before its colon is refused")
		}
		value := trim(line[colon+1:])
		if !isValue(value) {
			return fields, malformed("a field value has a control character")
		}
		if len(fields) == MaxFields {
			return fields, &ProtocolError{Detail: "more than 200 header fields", Status: 431}
		}
		f := Field{Name: name, Value: value, Kind: kindOf(name)}
		if f.Kind != Other {
			if err := s.known(&f); err != nil {
				return fields, err
			}
		}
		fields = append(fields, f)
	}
	if s.chunked && s.hasLength {
		return fields, malformed("both Content-Length and Transfer-Encoding")
	}
	if s.nominated {
		nominate(fields)
	}
	return fields, nil
}

func (s *scan) known(f *Field) error {
	if s.unframed && (f.Kind == ContentLength || f.Kind == TransferEncoding) {
		return nil
	}
	switch f.Kind {
	case Host:
		s.hosts++
		s.host = f.Value
	case ContentLength:
		n := ParseLength(f.Value)
		switch {
		case n < 0:
			return malformed("Content-Length is not a number of digits")
		case s.hasLength:
			return malformed("more than one Content-Length")
		}
		s.length, s.hasLength = n, true
	case TransferEncoding:
		if s.chunked || !equalFold(f.Value, "chunked") {
			return malformed("Transfer-Encoding is not exactly chunked")
		}
		s.chunked = true
	case Connection, ProxyConnection:
		for rest := f.Value; len(rest) > 0; {
			var token []byte
			token, rest = nextToken(rest)
			switch {
			case len(token) == 0:
			case equalFold(token, "close"):
				s.close = true
			case equalFold(token, "keep-alive"):
				s.keepAlive = true
			case f.Kind == Connection:
				s.nominated = true
			}
		}
	case Expect:
		s.expect100 = equalFold(f.Value, "100-continue")
	case RetryAfter:
		s.retryAfter = f.Value
	}
	return nil
}

// nominate marks the fields that Connection names as hop-by-hop. Fields on
// which the message's meaning rests cannot be talked away like that.
func nominate(fields []Field) {
	for i := range fields {
		if fields[i].Kind != Connection {
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var token []byte
			token, rest = nextToken(rest)
			for j := range fields {
				if fields[j].Kind == Other && len(token) > 0 && equalFoldBytes(fields[j].Name, token) {
					fields[j].Kind = Nominated
				}
			}
		}
	}
}

func nextToken(list []byte) (token, rest []byte) {
	token, rest, _ = bytes.Cut(list, []byte(","))
	return trim(token), rest
}

// kindOf recognises a field name, in any case.
func kindOf(name []byte) Kind {
	switch len(name) {
	case 2:
		return is(name, "te", TE)
	case 3:
		return is(name, "via", Via)
	case 4:
		return is(name, "host", Host)
	case 6:
		return is(name, "expect", Expect)
	case 7:
		if k := is(name, "upgrade", Upgrade); k != Other {
			return k
		}
		return is(name, "trailer", Trailer)
	case 10:
		if k := is(name, "connection", Connection); k != Other {
			return k
		}
		return is(name, "keep-alive", KeepAlive)
	case 11:
		return is(name, "retry-after", RetryAfter)
	case 12:
		if k := is(name, "max-forwards", MaxForwards); k != Other {
			return k
		}
	case 14:
		if k := is(name, "content-length", ContentLength); k != Other {
			return k
		}
	case 16:
		if k := is(name, "proxy-connection", ProxyConnection); k != Other {
			return k
		}
	case 17:
		if k := is(name, "transfer-encoding", TransferEncoding); k != Other {
			return k
		}
	case 18:
		if k := is(name, "proxy-authenticate", ProxyAuthenticate); k != Other {
			return k
		}
	case 19:
		if k := is(name, "proxy-authorization", ProxyAuthorization); k != Other {
			return k
		}
	case 25:
		if k := is(name, "proxy-authentication-info", ProxyAuthenticationInfo); k != Other {
			return k
		}
	}
	if len(name) >= len(whirlpool) {
		return is(name[:len(whirlpool)], whirlpool, Whirlpool)
	}
	return Other
}

const whirlpool = "x-whirlpool-"

func is(name []byte, lower string, k Kind) Kind {
	if name[0]|0x20 == lower[0] && equalFold(name, lower) {
		return k
	}
	return Other
}

// equalFold compares ASCII without regard to case; lower is in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func equalFoldBytes(a, b []byte) bool {
	return len(a) == len(b) && bytes.EqualFold(a, b)
}

// EqualFold reports whether b is lower (given in lower case), in any case.
func EqualFold(b []byte, lower string) bool { return equalFold(b, lower) }

func version(b []byte) int {
	if len(b) == 8 && string(b[:7]) == "HTTP/1." {
		switch b[7] {
		case '0':
			return 0
		case '1':
			return 1
		}
	}
	return -1
}

// ParseLength reads a number, and returns -1 for anything but 1 to 18 digits.
func ParseLength(b []byte) int64 {
	if len(b) == 0 || len(b) > 18 {
		return -1
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// class holds, for each byte, what it may be part of.
var class = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0:
			t[c] |= tokenChar
		}
		if c > ' ' && c != 0x7f {
			t[c] |= targetChar
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= valueChar
		}
	}
	return t
}()

const (
	tokenChar = 1 << iota
	targetChar
	valueChar
)

func all(b []byte, bit uint8) bool {
	and := uint8(math.MaxUint8)
	for _, c := range b {
		and &= class[c]
	}
	return and&bit != 0
}

func isToken(b []byte) bool  { return len(b) > 0 && all(b, tokenChar) }
func isTarget(b []byte) bool { return len(b) > 0 && all(b, targetChar) }
func isValue(b []byte) bool  { return all(b, valueChar) }
