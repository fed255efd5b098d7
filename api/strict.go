package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// headTime is the maximum time for the head of a request, from its first byte.
const headTime = 30 * time.Second

// strictReader reads requests from a connection with the parser of the gateway's port. It returns them to fasthttp in
// a canonical form, which permits only one interpretation. Without strictReader, fasthttp would accept bare LF,
// folded fields and other deviations from the standard. fasthttp and a proxy in front of the API may interpret these
// differently. A malformed request gets an error response, and the connection ends.
type strictReader struct {
	conn net.Conn
	now  func() time.Time
	src  *http1.Reader
	head http1.Request
	body http1.Body
	rest bool   // a part of the body has not been read
	out  []byte // the part of the canonical form that Read has not returned yet
	err  error
}

func newStrictReader(c net.Conn, now func() time.Time) *strictReader {
	return &strictReader{conn: c, now: now, src: http1.NewReader(c)}
}

// Read implements io.Reader.
func (s *strictReader) Read(p []byte) (int, error) {
	for len(s.out) == 0 && s.err == nil {
		if s.rest {
			s.err = s.readBody()
		} else {
			s.err = s.readHead()
		}
		if bad := (*http1.ProtocolError)(nil); errors.As(s.err, &bad) {
			s.refuse(bad)
			s.err = io.EOF
		}
	}
	if len(s.out) == 0 {
		return 0, s.err
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// readHead reads the head of the next request into out.
func (s *strictReader) readHead() error {
	if len(s.src.Buffered()) == 0 {
		if err := s.src.ReadAhead(); err != nil { // waits until the idle timeout at most
			return err
		}
		s.conn.SetReadDeadline(s.now().Add(headTime))
	}
	if err := s.src.ReadRequest(&s.head); err != nil {
		return err
	}
	q := &s.head
	// fasthttp would parse //host/path as an absolute form.
	if bytes.HasPrefix(q.Target, []byte("//")) {
		return &http1.ProtocolError{Status: http.StatusBadRequest, Detail: "the target begins with //"}
	}
	s.out = fmt.Appendf(s.out[:0], "%s %s HTTP/1.%d\r\n", q.Method, q.Target, q.Minor)
	for i := range q.Fields {
		if f := &q.Fields[i]; f.Kind != http1.ContentLength && f.Kind != http1.TransferEncoding {
			s.out = http1.AppendField(s.out, string(f.Name), f.Value)
		}
	}
	s.out = append(http1.AppendFraming(s.out, q.Framing, q.Length), "\r\n"...)
	s.body.Start(s.src, q.Framing, q.Length)
	s.rest = q.Framing != http1.NoBody
	return nil
}

// readBody reads the next piece of the body into out.
func (s *strictReader) readBody() error {
	piece, err := s.body.Next()
	switch {
	case err == io.EOF:
		s.rest = false
		if s.out = s.out[:0]; s.head.Framing == http1.Chunked {
			s.out = append(s.out, http1.LastChunk...)
		}
		return nil
	case err != nil:
		return err
	}
	s.out = appendPiece(s.out[:0], s.head.Framing, piece)
	return nil
}

func appendPiece(b []byte, f http1.Framing, piece []byte) []byte {
	if f == http1.Chunked {
		return http1.AppendChunk(b, piece)
	}
	return append(b, piece...)
}

// refuse sends the response to a malformed request.
func (s *strictReader) refuse(bad *http1.ProtocolError) {
	body, _ := json.Marshal(Error{Error: "bad_request", Message: "the request is not valid HTTP: " + bad.Detail})
	body = append(body, '\n')
	s.conn.SetWriteDeadline(s.now().Add(time.Second))
	fmt.Fprintf(s.conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s",
		bad.Status, http.StatusText(bad.Status), len(body), body)
}
