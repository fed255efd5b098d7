package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// stream is one request on a sharedConn. As a net.Conn, it returns the bytes of the response's body from Read, and
// its read deadline limits the wait for these bytes.
type stream struct {
	shared                 *sharedConn
	ctx                    context.Context // cancelled when the stream is closed or the attempt is interrupted
	cancel                 context.CancelFunc
	bodyReader, bodyWriter net.Conn // the ends of a pipe: the response's body is written to bodyWriter
	now                    func() time.Time
	sent                   bool // the request has been passed to the client of net/http
	meters                 traffic.Meters
	closed                 atomic.Bool

	// The next two fields are set before the writing end of the pipe (the field bodyWriter) is closed.
	trailers http.Header
	bodyErr  error // the error that ended the body early
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.bodyReader.Read(p)
	if err == io.EOF && s.bodyErr != nil {
		err = s.bodyErr
	}
	return n, err
}

// Write implements io.Writer. It always fails.
func (s *stream) Write([]byte) (int, error) { return 0, errNotHTTP }

// Close ends the stream. The connection stays open for other requests.
func (s *stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.cancel()
	if !s.sent {
		s.shared.client.Release()
	}
	s.bodyReader.Close()
	s.shared.pool.streamEnded(s.shared, s.now())
	return nil
}

// LocalAddr implements net.Conn.
func (s *stream) LocalAddr() net.Addr { return s.shared.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *stream) RemoteAddr() net.Addr { return s.shared.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (s *stream) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// SetReadDeadline implements net.Conn. If the deadline is aLongTimeAgo, with which Interrupt ends an attempt,
// SetReadDeadline ends the stream.
func (s *stream) SetReadDeadline(t time.Time) error {
	if t.Equal(aLongTimeAgo) {
		s.cancel()
	}
	return s.bodyReader.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

// sendStream sends q as a stream of HTTP/2 and reads the head of the response.
func (t *Transport) sendStream(c *Control, q *Request, resp *Response, s *stream) *verdict.Error {
	if q.SendContinue != nil && !q.SendContinue() {
		verr := newError(stepWait, errCancelled)
		verr.Cause = verdict.RequestBroke
		return verr
	}
	s.meters = c.Meters
	body := newUpload(q, t.cfg.Now, s.meters)
	out, err := s.request(q, body)
	if err != nil {
		return newError(stepSend, err)
	}
	if _, inline := q.inlineBody(); body != nil && (q.Remainder != nil || !inline) {
		resp.uploadDone, resp.stopReadingBody = body.done, q.StopRead
	} else {
		body = nil
	}
	s.sent = true
	s.meters.CountBytes(len(q.Path)+headBytes(out.Header), 0)
	results := make(chan streamResult, 1)
	go func() {
		in, err := s.shared.client.RoundTrip(out)
		results <- streamResult{in, err}
	}()
	result, timedOut := t.awaitStream(c, body, s, results)
	switch {
	case timedOut:
		verr := newError(stepWait, os.ErrDeadlineExceeded)
		verr.BodyUnsent = body != nil && !body.allSent.Load()
		return verr
	case result.err != nil:
		return s.attemptError(result.err, resp, body)
	}
	s.startResponse(result.in, q, resp)
	return nil
}

type streamResult struct {
	in  *http.Response
	err error
}

// awaitStream waits for the head of the response, and reports whether the wait has timed out. For a request without a
// body, or with a short one, the caller passes nil as the body, and the wait ends at the deadline of the attempt. With
// a longer body, the wait ends after too long a time without progress (upload.deadline), and at c.RequestDeadline.
func (t *Transport) awaitStream(c *Control, body *upload, s *stream, results <-chan streamResult) (
	r streamResult, timedOut bool) {
	start := t.cfg.Now()
	headTimeout := c.Deadline.Sub(start)
	timer := time.NewTimer(min(SlowAfter, max(headTimeout, 0)))
	defer timer.Stop()
	for slow := false; ; slow = true {
		select {
		case r = <-results:
			return r, false
		case <-timer.C:
		}
		if !slow {
			c.callOnSlow()
		}
		now := t.cfg.Now()
		until := c.nextDeadline(now)
		end := c.Deadline
		if body != nil {
			end = body.deadline(headTimeout, c.BodyIdle)
			if !c.RequestDeadline.IsZero() && (end.IsZero() || c.RequestDeadline.Before(end)) {
				end = c.RequestDeadline
			}
			until = now.Add(recheckEvery)
		}
		if !end.IsZero() && !now.Before(end) {
			break
		}
		timer.Reset(max(until.Sub(now), time.Millisecond))
	}
	s.cancel()
	if r = <-results; r.err == nil {
		r.in.Body.Close()
	}
	return r, true
}

// request returns q as a request of net/http.
func (s *stream) request(q *Request, body *upload) (*http.Request, error) {
	to, err := url.ParseRequestURI(string(q.Path))
	if err != nil || to.RequestURI() != string(q.Path) {
		to = &url.URL{Opaque: string(q.Path)}
	}
	to.Scheme, to.Host = "https", q.Authority
	out := &http.Request{
		Method: string(q.Method), URL: to, Header: make(http.Header, len(q.Fields)), Proto: "HTTP/2.0", ProtoMajor: 2,
	}
	for i := range q.Fields {
		f := &q.Fields[i]
		switch {
		case f.Kind == http1.Host:
			out.Host = string(f.Value)
		case !f.HopByHop():
			out.Header.Add(string(f.Name), string(f.Value))
		}
	}
	if _, set := out.Header["User-Agent"]; !set {
		out.Header.Set("User-Agent", "") // net/http then sends none
	}
	if strings.HasPrefix(out.Header.Get("Content-Type"), "application/grpc") {
		out.Header.Set("Te", "trailers") // servers of gRPC require it
	}
	switch {
	case body == nil:
		if q.Framing == http1.NoBody && q.Length == 0 {
			out.Header.Set("Content-Length", "0")
		}
	case q.Framing == http1.Length:
		out.Body, out.ContentLength = body, q.Length
	default:
		out.Body, out.ContentLength = body, -1
		out.Trailer = body.trailer
	}
	return out.WithContext(s.ctx), nil
}

// startResponse copies the head of the response to resp, and prepares resp to read the body.
func (s *stream) startResponse(in *http.Response, q *Request, resp *Response) {
	resp.Status, resp.Minor = in.StatusCode, 1
	resp.Reason = []byte(http.StatusText(in.StatusCode))
	names := make([]string, 0, len(in.Header))
	for name := range in.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range in.Header[name] {
			resp.Fields = append(resp.Fields, http1.Field{Name: []byte(name), Value: []byte(value)})
		}
	}
	for name := range in.Trailer {
		resp.Fields = append(resp.Fields, http1.Field{Name: []byte("Trailer"), Value: []byte(name)})
	}
	http1.Classify(resp.Fields)
	if after := in.Header.Get("Retry-After"); after != "" {
		resp.RetryAfter = []byte(after)
	}
	switch {
	case in.Body == http.NoBody || string(q.Method) == http.MethodHead || in.StatusCode == http.StatusNoContent ||
		in.StatusCode == http.StatusNotModified:
		resp.Framing, resp.Length = http1.NoBody, in.ContentLength
		if in.StatusCode == http.StatusNoContent || in.Header.Get("Content-Length") == "" && in.ContentLength == 0 &&
			string(q.Method) == http.MethodHead {
			resp.Length = -1
		}
		in.Body.Close()
		s.bodyWriter.Close()
	case in.ContentLength >= 0 && len(in.Trailer) == 0: // trailers that the head does not announce are dropped
		resp.Framing, resp.Length = http1.Length, in.ContentLength
		go s.copyBody(in)
	default:
		resp.Framing, resp.Length = http1.UntilClose, -1
		go s.copyBody(in)
	}
	s.meters.CountBytes(0, headBytes(in.Header))
	resp.stream = s
	resp.startBody()
	resp.reusable = false // the stream is not used again
}

// copyBody writes the body of the response to the pipe.
func (s *stream) copyBody(in *http.Response) {
	_, err := io.Copy(meteredWriter{s}, in.Body)
	s.bodyErr, s.trailers = err, in.Trailer
	in.Body.Close()
	s.bodyWriter.Close()
}

// meteredWriter writes to the pipe of a stream, and counts the bytes.
type meteredWriter struct{ s *stream }

// Write implements io.Writer.
func (w meteredWriter) Write(p []byte) (int, error) {
	w.s.meters.CountBytes(0, len(p))
	return w.s.bodyWriter.Write(p)
}

// headBytes returns the number of bytes of a head, without compression.
func headBytes(h http.Header) (n int) {
	for name, values := range h {
		for _, value := range values {
			n += len(name) + len(value) + 4
		}
	}
	return n
}

// streamError has the fields of the error that net/http returns for a stream that the peer has reset (RFC 9113
// section 7). errors.As therefore copies such an error to a streamError.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string {
	return fmt.Sprintf("the target has reset the stream: error %d", e.Code)
}

// refusedStream is the code with which a peer reports that it has not processed a stream (REFUSED_STREAM).
const refusedStream = 7

// attemptError returns the error of an attempt whose request got no response.
func (s *stream) attemptError(err error, resp *Response, body *upload) *verdict.Error {
	var reset streamError
	switch {
	case s.ctx.Err() != nil:
		return newError(stepWait, errCancelled)
	case body.isBroken():
		body.done <- <-body.done // the result is put back for RequestBodyBroken
		return newError(stepSend, err)
	case errors.As(err, &reset) && reset.Code != refusedStream:
		verr := newError(stepWait, err)
		verr.Reason = "http_protocol_error"
		return verr
	case reset.Code == refusedStream || s.shared.client.Err() != nil:
		resp.notReceived = reset.Code == refusedStream && (body == nil || !body.readBegun.Load())
		return newError(stepWait, fmt.Errorf("%w: %w", errNoResponse, err))
	}
	verr := newError(stepWait, err)
	verr.Reason = "http_protocol_error"
	return verr
}

// upload is the body of a request. The client of net/http reads the body from it.
type upload struct {
	q      *Request
	now    func() time.Time
	meters traffic.Meters
	done   chan error // receives the result once all reads of the body have ended

	readBegun    atomic.Bool
	awaitsClient atomic.Bool  // a Read waits for the client
	lastProgress atomic.Int64 // time of the last Read, in Unix nanoseconds
	allSent      atomic.Bool  // the whole body has been read

	mu     sync.Mutex // held during a Read
	pieces [][]byte   // the pieces of Prefix that have not been read; guarded by mu

	// trailer holds the trailer fields. If the request has Remainder, trailer has the announced fields only; their
	// values are set when Remainder has been read.
	trailer http.Header
	err     error // guarded by mu
	once    sync.Once
}

// newUpload returns the body of q; nil if q has no body.
func newUpload(q *Request, now func() time.Time, meters traffic.Meters) *upload {
	if q.Framing == http1.NoBody || len(q.Prefix) == 0 && q.Remainder == nil && q.Trailers == nil {
		return nil
	}
	b := &upload{q: q, now: now, meters: meters, done: make(chan error, 1), pieces: q.Prefix}
	b.lastProgress.Store(now().UnixNano())
	b.trailer = q.trailerHeader()
	return b
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (n int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.readBegun.Store(true)
	defer func() {
		u.meters.CountBytes(n, 0)
		u.lastProgress.Store(u.now().UnixNano())
	}()
	switch {
	case u.err != nil:
		return 0, u.err
	case len(u.pieces) > 0:
		n = copy(p, u.pieces[0])
		rest := u.pieces[0][n:]
		u.pieces = u.pieces[1:]
		if len(rest) > 0 {
			u.pieces = append([][]byte{rest}, u.pieces...)
		}
		return n, nil
	case u.q.Remainder == nil:
		err = io.EOF
	default:
		u.awaitsClient.Store(true)
		u.q.BeforeRead()
		n, err = u.q.Remainder.Read(p)
		u.q.notifyRead(int64(n))
		u.awaitsClient.Store(false)
	}
	if u.err = err; err == io.EOF {
		if u.q.Remainder != nil {
			setTrailers(u.trailer, u.q.Remainder.Trailers())
		}
		u.allSent.Store(true)
		u.once.Do(func() { u.done <- nil })
	}
	return n, err
}

// Close implements io.Closer. As soon as no Read is in progress, it sends the result of the upload to the channel done.
func (u *upload) Close() error {
	u.once.Do(func() {
		go func() {
			u.mu.Lock()
			defer u.mu.Unlock()
			if u.err == nil {
				u.err = errPartlySent
			}
			u.done <- u.err
		}()
	})
	return nil
}

// isBroken reports whether the client's part of the body (Remainder) ended early. It returns false while a Read waits
// for the client. u may be nil.
func (u *upload) isBroken() bool {
	if u == nil || u.awaitsClient.Load() {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.q.isBroken()
}

var errPartlySent = errors.New("the rest of the request's body was not sent")

// deadline returns the time at which the wait for a response ends; the zero time means no limit. If the whole body has
// been sent, the wait ends headTimeout after the last progress. Otherwise it ends bodyIdle after the last progress, and
// it has no limit while a Read waits for the client, or if bodyIdle is 0.
func (u *upload) deadline(headTimeout, bodyIdle time.Duration) time.Time {
	last := time.Unix(0, u.lastProgress.Load())
	switch {
	case u.allSent.Load():
		return last.Add(headTimeout)
	case u.awaitsClient.Load() || bodyIdle == 0:
		return time.Time{}
	}
	return last.Add(bodyIdle)
}
