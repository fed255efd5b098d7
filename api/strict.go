package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// Limits limit how slowly a client of the API may send a request or read a response. The same values apply to the
// clients of the gateway.
type Limits struct {
	Head        time.Duration // maximum time from the first byte of a request's head to its last
	BodyIdle    time.Duration // maximum time without progress of a body
	MinBodyRate int64         // minimum bytes per second that a client must send or read; 0 for no limit
}

// The maximum times for which the API waits for the beginning of a request.
const (
	firstTimeout = 30 * time.Second // wait for the first request of a connection, with the TLS handshake
	idleTimeout  = 2 * time.Minute  // wait for each later request
)

// strictReader reads requests with the parser of the gateway's port, and returns them to fasthttp in a canonical form.
// fasthttp itself accepts bare LF, folded fields and other deviations from the standard, which a proxy in front of the
// API may interpret differently. A malformed request gets an error response, and the connection ends.
type strictReader struct {
	conn         net.Conn
	now          func() time.Time
	limits       func() Limits
	timeout      time.Duration // maximum time until the next request
	rate         socket.ReadRate
	reader       *http1.Reader
	head         http1.Request
	body         http1.Body
	bodyPending  bool   // a part of the body has not been read
	canonical    []byte // the part of the canonical form that Read has not returned yet
	err          error
	hasResponded atomic.Bool // sendProblem has sent the last response
}

func newStrictReader(c net.Conn, now func() time.Time, limits func() Limits) *strictReader {
	return &strictReader{conn: c, now: now, limits: limits, timeout: firstTimeout, reader: http1.NewReader(c)}
}

// Read implements io.Reader.
func (s *strictReader) Read(p []byte) (int, error) {
	for len(s.canonical) == 0 && s.err == nil {
		if s.bodyPending {
			s.err = s.readBody()
		} else {
			s.err = s.readHead()
		}
		if bad := (*http1.ProtocolError)(nil); errors.As(s.err, &bad) {
			s.sendProblem(bad.Status, "bad_request", "the request is not valid HTTP: "+bad.Detail)
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
		s.conn.SetReadDeadline(s.now().Add(s.timeout))
		if err := s.reader.ReadAhead(); err != nil {
			return err
		}
	}
	s.timeout = idleTimeout
	s.conn.SetReadDeadline(s.now().Add(s.limits().Head))
	if err := s.reader.ReadRequest(&s.head); err != nil {
		return s.timeoutError(err, "the request's head did not come within timeouts.head")
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
	s.rate.Start(s.limits().MinBodyRate, socket.RateGrace)
	return nil
}

func (s *strictReader) readBody() error {
	s.conn.SetReadDeadline(s.rate.BeginWait(s.now(), s.limits().BodyIdle))
	piece, err := s.body.Next()
	s.rate.EndWait(s.now(), int64(len(piece)))
	switch {
	case err == io.EOF:
		s.bodyPending = false
		if s.canonical = s.canonical[:0]; s.head.Framing == http1.Chunked {
			s.canonical = append(s.canonical, http1.LastChunk...)
		}
		return nil
	case err != nil && s.rate.TooSlow():
		return s.timeoutError(err, "the body is slower than gateway.min_body_rate")
	case err != nil:
		return s.timeoutError(err, "nothing of the body came within timeouts.body_idle")
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

// timeoutError returns the error that Read returns after a failed read of the request. If the read failed at a
// deadline, timeoutError also sends the client an error response with the given message.
func (s *strictReader) timeoutError(err error, message string) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	s.sendProblem(http.StatusRequestTimeout, "request_timeout", message)
	return io.EOF
}

func (s *strictReader) sendProblem(status int, code, message string) {
	body, _ := json.Marshal(Error{Error: code, Message: message})
	body = append(body, '\n')
	s.hasResponded.Store(true)
	s.conn.SetWriteDeadline(s.now().Add(time.Second))
	fmt.Fprintf(s.conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
}
