package http1

import (
	"bytes"
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
	if len(head) > len(buffered) { // without more bytes, another parse would have the same result
		if _, err := p.parse(head, method, false); err == nil {
			return len(head), nil
		}
	}
	// The head is malformed or needs a repair. If lines end in bare LFs, the head may end before the end that readHead
	// has found.
	end, next := endWithBareLF(head, 0)
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
	if status < 100 { // a status above 599 is accepted, because some servers send one, such as 999
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
	s := fieldScanner{
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
		// A 204 has no length (RFC 9110 section 8.6). If the response has a length nevertheless, a body may follow, and
		// the connection cannot be used again.
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
