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

// headTimeout is the maximum time for the head of a request, from its first byte.
const headTimeout = 30 * time.Second

// strictReader reads requests with the parser of the gateway's port, and returns them to fasthttp in a canonical form.
// fasthttp itself accepts bare LF, folded fields and other deviations from the standard, which a proxy in front of the
// API may interpret differently. A malformed request gets an error response, and the connection ends.
type strictReader struct {
	conn        net.Conn
	now         func() time.Time
	reader      *http1.Reader
	head        http1.Request
	body        http1.Body
	bodyPending bool   // a part of the body has not been read
	canonical   []byte // the part of the canonical form that Read has not returned yet
	err         error
}

func newStrictReader(c net.Conn, now func() time.Time) *strictReader {
	return &strictReader{conn: c, now: now, reader: http1.NewReader(c)}
}

// Read implements io.Reader.
func (s *strictReader) Read(p []byte) (int, error) {
	for len(s.canonical) == 0 && s.err == nil {
		if s.bodyPending {
			s.err = s.readBody()
		} else {
			s.err = s.readHead()
		}
		if malformed := (*http1.ProtocolError)(nil); errors.As(s.err, &malformed) {
			s.sendProblem(malformed)
			s.err = io.EOF
		}
	}
	if len(s.canonical) == 0 {
		return 0, s.err
	}
	n := copy(p, s.canonical)
	s.canonical = s.canonical[n:]
	return n, nil
}

func (s *strictReader) readHead() error {
	if len(s.reader.Buffered()) == 0 {
		if err := s.reader.ReadAhead(); err != nil { // waits until the idle timeout at most
			return err
		}
		s.conn.SetReadDeadline(s.now().Add(headTimeout))
	}
	if err := s.reader.ReadRequest(&s.head); err != nil {
		return err
	}
	q := &s.head
	// fasthttp would parse //host/path as an absolute form.
	if bytes.HasPrefix(q.Target, []byte("//")) {
		return &http1.ProtocolError{Status: http.StatusBadRequest, Detail: "the target begins with //"}
	}
	s.canonical = fmt.Appendf(s.canonical[:0], "%s %s HTTP/1.%d\r\n", q.Method, q.Target, q.Minor)
	for i := range q.Fields {
		if f := &q.Fields[i]; f.Kind != http1.ContentLength && f.Kind != http1.TransferEncoding {
			s.canonical = http1.AppendField(s.canonical, string(f.Name), f.Value)
		}
	}
	s.canonical = append(http1.AppendFraming(s.canonical, q.Framing, q.Length), "\r\n"...)
	s.body.Start(s.reader, q.Framing, q.Length)
	s.bodyPending = q.Framing != http1.NoBody
	return nil
}

func (s *strictReader) readBody() error {
	piece, err := s.body.Next()
	switch {
	case err == io.EOF:
		s.bodyPending = false
		if s.canonical = s.canonical[:0]; s.head.Framing == http1.Chunked {
			s.canonical = append(s.canonical, http1.LastChunk...)
		}
		return nil
	case err != nil:
		return err
	}
	s.canonical = appendPiece(s.canonical[:0], s.head.Framing, piece)
	return nil
}

func appendPiece(b []byte, f http1.Framing, piece []byte) []byte {
	if f == http1.Chunked {
		return http1.AppendChunk(b, piece)
	}
	return append(b, piece...)
}

func (s *strictReader) sendProblem(malformed *http1.ProtocolError) {
	body, _ := json.Marshal(Error{Error: "bad_request", Message: "the request is not valid HTTP: " + malformed.Detail})
	body = append(body, '\n')
	s.conn.SetWriteDeadline(s.now().Add(time.Second))
	fmt.Fprintf(s.conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s",
		malformed.Status, http.StatusText(malformed.Status), len(body), body)
}
