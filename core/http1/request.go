package http1

import (
	"bytes"
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
	s := fieldScanner{values: valueChar, limit: MaxFields}
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
