package http1

import (
	"bytes"
	"math"
	"strconv"
)

// ReadRequest reads the head of a request into q. It reuses the slices of q. It returns io.EOF if the connection has
// ended between two messages, io.ErrUnexpectedEOF if the connection has ended inside a head, and a *ProtocolError for
// an invalid head.
func (r *Reader) ReadRequest(q *Request) error {
	if err := r.fillIfEmpty(); err != nil {
		return err
	}
	if rest, err := q.parse(r.Buffered()); err == nil { // usually the whole head has arrived, and is valid
		r.r = r.w - len(rest)
		return nil
	}
	head, err := r.readHead()
	if err == nil {
		_, err = q.parse(head)
	}
	return err
}

// parse parses the head at the beginning of b, with its final empty line. It returns the bytes after the empty line.
func (q *Request) parse(b []byte) (rest []byte, err error) {
	fields := q.Fields[:0]
	*q = Request{} // a composite literal with values would be copied on the stack
	q.Fields = fields
	line, rest, _ := cutLine(b)
	if q.Method, q.Target, q.Minor, err = requestLine(line); err != nil {
		return nil, err
	}
	s := scan{values: valueChar, limit: MaxFields}
	q.Fields, rest, err = s.fields(rest, fields)
	if q.kinds = s.kinds; err != nil {
		return nil, err
	}
	switch {
	case s.hosts > 1:
		return nil, malformed("more than one Host field")
	case s.hosts == 0 && q.Minor == 1:
		return nil, malformed("an HTTP/1.1 request without a Host field")
	}
	q.Host = s.host
	q.Close = s.close || q.Minor == 0 && !s.keepAlive
	q.Continue = s.expect100 && q.Minor == 1
	switch {
	case s.chunked && s.hasLength:
		return nil, malformed(bothFramings)
	case s.chunked && q.Minor == 0:
		return nil, malformed("Transfer-Encoding in an HTTP/1.0 request")
	case s.chunked:
		q.Framing = Chunked
	case s.length > 0:
		q.Framing, q.Length = Length, s.length
	case !s.hasLength:
		q.Length = -1
	}
	return rest, nil
}

const bothFramings = "both Content-Length and Transfer-Encoding"

// cutLine cuts b around its first CRLF. For most lines it is several times as fast as bytes.Cut.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	if i := bytes.IndexByte(b, '\n'); i > 0 && b[i-1] == '\r' {
		return b[:i-1], b[i+1:], true
	}
	return bytes.Cut(b, crlf)
}

// requestLine parses METHOD SP TARGET SP VERSION. A minor version above 1 counts as 1 (RFC 9110 section 2.5).
func requestLine(line []byte) (method, target []byte, minor int, err error) {
	sp := bytes.IndexByte(line, ' ')
	last := bytes.LastIndexByte(line, ' ')
	if sp <= 0 || last == sp {
		return nil, nil, 0, malformed("the request line is not METHOD SP TARGET SP VERSION")
	}
	method, target = line[:sp], line[sp+1:last]
	if !isToken(method) {
		return nil, nil, 0, malformed(badMethod)
	}
	if !isTarget(target) {
		return nil, nil, 0, malformed("the request target has a space or control character, or is empty")
	}
	if minor = version(line[last+1:]); minor < 0 {
		return nil, nil, 0, malformed(badVersion)
	}
	return method, target, min(minor, 1), nil
}

const (
	badMethod  = "the method is not a token"
	badVersion = "the version is not HTTP/1.x"
	badName    = "a field name is not a token: white space before it or before its colon is refused"
	badValue   = "a field value has a control character"
	bareLF     = "a line ends in LF without CR"
)

// ReadResponse reads the head of the final response to a request with the given method into p. It skips interim
// responses (1xx). RFC 9110 section 15.2 requires a proxy to forward them, but Python's http.client treats every
// interim response except 100 as the final response. If the response is a 2xx to a CONNECT, the bytes after the head
// are not a body: they belong to the tunnel. The errors are those of ReadRequest. After an error, p.Status is 0
// unless a part of a response has arrived.
//
// ReadResponse makes the repairs that RFC 9112 permits. It drops white space before a colon (section 5.1) and joins
// folded lines (5.2). It accepts a bare LF as the end of a line (2.2), and treats equal Content-Lengths as one (6.3).
// If the head has both a Transfer-Encoding and a Content-Length, it ignores the Content-Length and sets p.Close
// (6.3). It accepts chunks in HTTP/1.0 and sets p.Close (6.1), but not with a Content-Length. A field value may contain
// control characters other than CR, LF and NUL. ReadResponse does not remove them (RFC 9110 section 5.5).
func (r *Reader) ReadResponse(p *Response, method []byte) error {
	return r.readFinal(p, method, 0)
}

// ReadContinue is like ReadResponse, but also returns a 100 (Continue).
func (r *Reader) ReadContinue(p *Response, method []byte) error {
	return r.readFinal(p, method, 100)
}

// ReadUpgrade is like ReadResponse, but also returns a 101 (Switching Protocols), for a request
// with an Upgrade field. The bytes after a 101 belong to the new protocol.
func (r *Reader) ReadUpgrade(p *Response, method []byte) error {
	return r.readFinal(p, method, 101)
}

// ReadInterim is like ReadResponse, but also returns each interim response except 101, which is an error.
func (r *Reader) ReadInterim(p *Response, method []byte) error {
	return r.readFinal(p, method, everyInterim)
}

// everyInterim stands for all interim responses except 101 (readFinal).
const everyInterim = -1

// readFinal reads responses until one of them is final. It also stops at an interim response whose status equals the
// argument until. The value everyInterim makes it stop at every interim response except 101.
func (r *Reader) readFinal(p *Response, method []byte, until int) error {
	r.responses = true
	for interim := 0; interim <= maxHead; {
		size, err := r.readResponse(p, method)
		if err != nil {
			return err
		}
		if p.Status >= 200 || p.Status == until || until == everyInterim && p.Status != 101 {
			return nil
		}
		if p.Status == 101 {
			return malformed("101 Switching Protocols, which was not asked for")
		}
		interim += size
	}
	return malformed("more than 64 KiB of interim (1xx) responses")
}

// readResponse reads the head of one interim or final response, and returns the size of the head in bytes.
func (r *Reader) readResponse(p *Response, method []byte) (size int, err error) {
	if err := r.fillIfEmpty(); err != nil {
		return 0, err
	}
	buffered, before := r.Buffered(), p.Status
	if rest, err := p.parse(buffered, method, false); err == nil { // usually the whole head has arrived, and is valid
		r.r = r.w - len(rest)
		return len(buffered) - len(rest), nil
	}
	p.Status = before
	head, err := r.readHead()
	if err != nil {
		return 0, err
	}
	if len(head) > len(buffered) { // otherwise the result would be the same error
		if _, err := p.parse(head, method, false); err == nil {
			return len(head), nil
		}
	}
	// The head is malformed or needs a repair. If lines end in bare LFs, the head may end before the end that readHead
	// has found.
	end, next := looseEnd(head, 0)
	r.r -= len(head) - next
	_, err = p.parse(head[:end], method, true)
	return next, err
}

// statusLine reads VERSION SP STATUS SP REASON. Like Go's and curl's clients, it accepts several spaces before
// STATUS. The reason may be missing. A minor version above 1 counts as 1 (RFC 9110 section 2.5).
func statusLine(line []byte) (minor, status int, reason []byte, err error) {
	if len(line) < 9 || line[8] != ' ' {
		return 0, 0, nil, malformed(badStatusLine)
	}
	if minor = version(line[:8]); minor < 0 {
		return 0, 0, nil, malformed(badVersion)
	}
	line = bytes.TrimLeft(line[9:], " ")
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' {
		return 0, 0, nil, malformed(badStatusLine)
	}
	for _, d := range line[:3] {
		if d < '0' || d > '9' {
			return 0, 0, nil, malformed("the status is not a number of three digits")
		}
		status = 10*status + int(d-'0')
	}
	if status < 100 { // a status above 599 is accepted: some servers send one, for example LinkedIn (999)
		return 0, 0, nil, malformed("the status is below 100")
	}
	if reason = trim(line[3:]); !allInClass(reason, responseChar) {
		return 0, 0, nil, malformed("the reason phrase has a CR, LF or NUL")
	}
	return min(minor, 1), status, reason, nil
}

const badStatusLine = "the status line is not VERSION SP STATUS SP REASON"

// parse parses the head of a response at the beginning of b, including the final empty line, and returns the bytes
// after that line. If the argument loose is true, it makes the repairs that ReadResponse lists; b must then be the head
// without the empty line.
func (r *Response) parse(b, method []byte, loose bool) (rest []byte, err error) {
	line, rest, ok := cutLine(b)
	if loose {
		line, rest, ok = bytes.Cut(b, lf)
		line = bytes.TrimSuffix(line, cr)
	}
	if !ok {
		return nil, malformed(bareLF)
	}
	minor, status, reason, err := statusLine(line)
	if err != nil {
		return nil, err
	}
	fields := r.Fields[:0]
	*r = Response{}
	r.Status, r.Reason, r.Minor, r.Length = status, reason, minor, -1
	s := scan{
		values: responseChar, limit: MaxResponseFields, response: true,
		unframed: status/100 == 2 && string(method) == "CONNECT",
		bodiless: status < 200 || status == 204 || status == 304 || string(method) == "HEAD",
	}
	if loose {
		r.Fields, err = s.looseFields(rest, fields)
	} else {
		r.Fields, rest, err = s.fields(rest, fields)
	}
	if err != nil {
		return nil, err
	}
	r.RetryAfter = s.retryAfter
	r.Close = s.close || minor == 0 && !s.keepAlive
	switch {
	case s.unframed:
	case s.bodiless && status == 204:
		// A 204 has no length (RFC 9110 section 8.6). If the response has a length nevertheless, a body may follow.
		r.Close = r.Close || s.chunked || s.hasLength && s.length > 0
	case s.bodiless:
		if s.hasLength && !s.chunked && !s.noLength {
			r.Length = s.length
		}
	case s.chunked && minor == 0 && s.hasLength:
		return nil, malformed("Transfer-Encoding and Content-Length in an HTTP/1.0 response")
	case s.chunked:
		r.Framing, r.Close = Chunked, r.Close || s.hasLength || minor == 0
	case s.hasLength && s.length == 0:
		r.Length = 0
	case s.hasLength:
		r.Framing, r.Length = Length, s.length
	default:
		r.Framing, r.Close = UntilClose, true
	}
	return rest, nil
}

// scan collects data about the framing of a message from the header fields.
type scan struct {
	host, retryAfter []byte
	hosts            int
	length           int64
	hasLength        bool
	chunked          bool
	close, keepAlive bool
	expect100        bool
	nominated        int // number of field names in Connection
	kinds            kinds

	values   uint8 // bit of the table class that stands for the bytes of a value
	limit    int   // maximum number of fields
	response bool  // the message is a response, so equal lengths count as one
	unframed bool  // Content-Length and Transfer-Encoding have no meaning (RFC 9110 section 9.3.6)
	bodiless bool  // the message has no body, whatever its fields (RFC 9112 section 6.3)
	noLength bool  // the message has no body and no valid length
}

// The method fields parses the header fields at the beginning of b, up to an empty line, and appends them to list. It
// returns the extended list, and the bytes after the empty line.
func (s *scan) fields(b []byte, list []Field) (fields []Field, rest []byte, err error) {
	values, limit := s.values, s.limit
	for len(b) < 2 || b[0] != '\r' || b[1] != '\n' {
		i := bytes.IndexByte(b, '\n')
		if i < 1 || b[i-1] != '\r' {
			return list, nil, malformed(bareLF)
		}
		line := b[:i-1]
		b = b[i+1:]
		colon := tokenLen(line)
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			return list, nil, badLine(line)
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !allInClass(value, values) || len(list) == limit {
			return list, nil, s.lineError(name, value)
		}
		kind := kindOf(name)
		if kind != Other {
			s.kinds |= 1 << kind
			if err := s.addField(kind, value); err != nil {
				return list, nil, err
			}
		}
		list = append(list, Field{Name: name, Value: value, Kind: kind})
	}
	if s.nominated > 0 {
		markNominated(list)
	}
	return list, b[2:], nil
}

// looseFields is like the method fields, but makes the repairs of a response that ReadResponse lists.
func (s *scan) looseFields(block []byte, fields []Field) ([]Field, error) {
	for len(block) > 0 {
		end := bytes.IndexByte(block, '\n')
		folded := false
		for end+1 < len(block) && isBlank(block[end+1]) { // RFC 9112 section 5.2
			folded = true
			block[end] = ' '
			if end > 0 && block[end-1] == '\r' {
				block[end-1] = ' '
			}
			end += 1 + bytes.IndexByte(block[end+1:], '\n')
		}
		line := bytes.TrimSuffix(block[:end], cr)
		block = block[end+1:]
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return fields, badLine(line)
		}
		name := line[:colon]
		for len(name) > 0 && isBlank(name[len(name)-1]) { // RFC 9112 section 5.1
			name = name[:len(name)-1]
		}
		value := trim(line[colon+1:])
		if !isToken(name) || !allInClass(value, s.values) || len(fields) == s.limit {
			return fields, s.lineError(name, value)
		}
		kind := kindOf(name)
		if folded && kind == TransferEncoding && !s.bodiless {
			return fields, malformed("a folded Transfer-Encoding")
		}
		if kind != Other {
			if err := s.addField(kind, value); err != nil {
				return fields, err
			}
		}
		fields = append(fields, Field{Name: name, Value: value, Kind: kind})
	}
	if s.nominated > 0 {
		markNominated(fields)
	}
	return fields, nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// badLine returns the error for a line that does not begin with a name and a colon.
func badLine(line []byte) error {
	if bytes.IndexByte(line, ':') <= 0 {
		return malformed("a header line without a name and a colon")
	}
	return malformed(badName)
}

// lineError returns the error for an invalid field.
func (s *scan) lineError(name, value []byte) error {
	switch {
	case !isToken(name):
		// badName covers obs-fold (a line that begins with white space) and white space before a colon.
		return malformed(badName)
	case !allInClass(value, s.values):
		return malformed(badValue)
	}
	return tooManyFields(s.limit)
}

func tooManyFields(limit int) error {
	return &ProtocolError{Detail: "more than " + strconv.Itoa(limit) + " header fields", Status: 431}
}

// addField interprets a field whose kind is not Other.
func (s *scan) addField(kind Kind, value []byte) error {
	if kind == ContentLength || kind == TransferEncoding {
		err := s.addFraming(kind, value)
		if err != nil && s.bodiless {
			s.noLength, err = true, nil
		}
		return err
	}
	switch kind {
	case Host:
		s.hosts++
		s.host = value
	case Connection, ProxyConnection:
		for rest := value; len(rest) > 0; {
			var token []byte
			token, rest = nextToken(rest)
			switch {
			case len(token) == 0:
			case equalFold(token, "close"):
				s.close = true
			case equalFold(token, "keep-alive"):
				s.keepAlive = true
			case kind == Connection:
				if s.nominated++; s.nominated > maxNominated {
					return malformed("Connection names more than 100 fields")
				}
			}
		}
	case Expect:
		s.expect100 = equalFold(value, "100-continue")
	case RetryAfter:
		s.retryAfter = value
	}
	return nil
}

// addFraming interprets a Content-Length or Transfer-Encoding field.
func (s *scan) addFraming(kind Kind, value []byte) error {
	switch length := ParseLength(value); {
	case s.unframed:
	case kind == TransferEncoding:
		if s.chunked || !equalFold(value, "chunked") {
			return malformed("Transfer-Encoding is not exactly chunked")
		}
		s.chunked = true
	case !s.hasLength && length >= 0:
		s.length, s.hasLength = length, true
	case !s.response && s.hasLength:
		return malformed("more than one Content-Length")
	case !s.response:
		return malformed(badLength)
	default: // equal values count as one value, in one field or in several fields (RFC 9112 section 6.3)
		for rest, more := value, true; more; {
			var element []byte
			element, rest, more = bytes.Cut(rest, comma)
			n := ParseLength(withoutZeros(trim(element)))
			if n < 0 {
				return malformed(badLength)
			}
			if s.hasLength && n != s.length {
				return malformed("two Content-Lengths that differ")
			}
			s.length, s.hasLength = n, true
		}
	}
	return nil
}

const badLength = "Content-Length is not a number of digits"

// withoutZeros removes leading zeros. If all digits are zeros, it keeps the last one.
func withoutZeros(digits []byte) []byte {
	for len(digits) > 1 && digits[0] == '0' {
		digits = digits[1:]
	}
	return digits
}

// maxNominated is the maximum number of field names in Connection. It is limited because nominate compares each name
// with each field.
const maxNominated = 100

// markNominated marks the fields that Connection names as hop-by-hop. It changes only fields of the kinds Other and
// RequestID. A sender therefore cannot remove Host or the framing in this way.
func markNominated(fields []Field) {
	for i := range fields {
		if fields[i].Kind != Connection {
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var token []byte
			token, rest = nextToken(rest)
			for j := range fields {
				if fields[j].Kind.isOther() && len(token) > 0 && equalFoldBytes(fields[j].Name, token) {
					fields[j].Kind = Nominated
				}
			}
		}
	}
}

// Classify sets the kinds of fields that do not come from a Reader. The kinds include Nominated.
func Classify(fields []Field) {
	for i := range fields {
		fields[i].Kind = kindOf(fields[i].Name)
	}
	markNominated(fields)
}

func nextToken(list []byte) (token, rest []byte) {
	token, rest, _ = bytes.Cut(list, comma)
	return trim(token), rest
}

// kindOf returns the kind of the field with the given name, which may be in upper or lower case.
func kindOf(name []byte) Kind {
	switch len(name) {
	case 2:
		return kindIf(name, "te", TE)
	case 3:
		return kindIf(name, "via", Via)
	case 4:
		return kindIf(name, "host", Host)
	case 6:
		return kindIf(name, "expect", Expect)
	case 7:
		if k := kindIf(name, "upgrade", Upgrade); k != Other {
			return k
		}
		return kindIf(name, "trailer", Trailer)
	case 10:
		if k := kindIf(name, "connection", Connection); k != Other {
			return k
		}
		if k := kindIf(name, "proxy-loop", ProxyLoop); k != Other {
			return k
		}
		return kindIf(name, "keep-alive", KeepAlive)
	case 11:
		return kindIf(name, "retry-after", RetryAfter)
	case 12:
		if k := kindIf(name, "max-forwards", MaxForwards); k != Other {
			return k
		}
		if k := kindIf(name, "x-request-id", RequestID); k != Other {
			return k
		}
	case 14:
		if k := kindIf(name, "content-length", ContentLength); k != Other {
			return k
		}
	case 16:
		if k := kindIf(name, "proxy-connection", ProxyConnection); k != Other {
			return k
		}
	case 17:
		if k := kindIf(name, "transfer-encoding", TransferEncoding); k != Other {
			return k
		}
	case 18:
		if k := kindIf(name, "proxy-authenticate", ProxyAuthenticate); k != Other {
			return k
		}
	case 19:
		if k := kindIf(name, "proxy-authorization", ProxyAuthorization); k != Other {
			return k
		}
	case 25:
		if k := kindIf(name, "proxy-authentication-info", ProxyAuthenticationInfo); k != Other {
			return k
		}
	}
	if len(name) >= len(whirlpool) {
		return kindIf(name[:len(whirlpool)], whirlpool, Whirlpool)
	}
	return Other
}

const whirlpool = "x-whirlpool-"

func kindIf(name []byte, lower string, k Kind) Kind {
	if name[0]|0x20 == lower[0] && equalFold(name, lower) {
		return k
	}
	return Other
}

// equalFold reports whether b equals lower, ignoring ASCII case. The argument lower must be in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c != lower[i] && (c < 'A' || c > 'Z' || c|0x20 != lower[i]) { // most letters are in lower case
			return false
		}
	}
	return true
}

func equalFoldBytes(a, b []byte) bool {
	return len(a) == len(b) && bytes.EqualFold(a, b)
}

// EqualFold reports whether b equals lower, ignoring ASCII case. The argument lower must be in lower case.
func EqualFold(b []byte, lower string) bool { return equalFold(b, lower) }

// version returns the x of HTTP/1.x, or -1 if b is no such version.
func version(b []byte) int {
	if len(b) == 8 && string(b[:7]) == "HTTP/1." && '0' <= b[7] && b[7] <= '9' {
		return int(b[7] - '0')
	}
	return -1
}

// ParseLength parses a number of 1 to 18 digits. For any other text it returns -1.
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

// The table class has a set of bits for each byte. Each bit stands for an element of a message in which the byte is
// permitted.
var class = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z',
			bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0:
			t[c] |= tokenChar
		}
		if c > ' ' && c != 0x7f {
			t[c] |= targetChar
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= valueChar
		}
		if c != 0 && c != '\r' && c != '\n' {
			t[c] |= responseChar
		}
	}
	return t
}()

const (
	tokenChar = 1 << iota
	targetChar
	valueChar    // the value of a field in a request
	responseChar // the value of a field in a response, with control characters (RFC 9110 section 5.5)
)

// allInClass reports whether every byte of b has the given bit in the table class. It checks eight bytes in each
// step.
func allInClass(b []byte, bit uint8) bool {
	and := uint8(math.MaxUint8)
	for ; len(b) >= 8; b = b[8:] {
		c := (*[8]byte)(b)
		and &= class[c[0]] & class[c[1]] & class[c[2]] & class[c[3]] &
			class[c[4]] & class[c[5]] & class[c[6]] & class[c[7]]
	}
	for _, c := range b {
		and &= class[c]
	}
	return and&bit != 0
}

// tokenLen returns the length of the token at the beginning of b.
func tokenLen(b []byte) int {
	for i, c := range b {
		if class[c]&tokenChar == 0 {
			return i
		}
	}
	return len(b)
}

func isToken(b []byte) bool  { return len(b) > 0 && allInClass(b, tokenChar) }
func isTarget(b []byte) bool { return len(b) > 0 && allInClass(b, targetChar) }
func isValue(b []byte) bool  { return allInClass(b, valueChar) }
