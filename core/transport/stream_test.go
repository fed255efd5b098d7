package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

const plenty = time.Minute

// streaming is a Transport with a proxy that opens tunnels to one target.
type streaming struct {
	*Transport
	t       *testing.T
	u       *upstream.Upstream
	address atomic.Value // string: of the target
	tunnels atomic.Int64 // opened by the proxy
	roots   *x509.CertPool
	cert    tls.Certificate
}

func newStreaming(t *testing.T, change func(*upstream.Spec)) *streaming {
	a := testcert.NewAuthority(t)
	s := &streaming{t: t, roots: a.Pool(), cert: a.Pair(t, "target", "a.test")}
	s.u = proxyWith(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		if !strings.HasPrefix(readRequest(c), "CONNECT a.test:443 ") {
			return
		}
		to, err := net.Dial("tcp", s.address.Load().(string))
		if err != nil {
			return
		}
		defer to.Close()
		s.tunnels.Add(1)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(to, c)
			to.Close()
		}()
		io.Copy(c, to)
	}), change)
	s.Transport = New(Config{RootCAs: s.roots})
	t.Cleanup(s.Close)
	return s
}

// serve makes a server of net/http the target. change may change it before it starts.
func (s *streaming) serve(h http.HandlerFunc, change ...func(*httptest.Server)) {
	target := httptest.NewUnstartedServer(h)
	target.EnableHTTP2 = true
	for _, f := range change {
		f(target)
	}
	target.TLS = &tls.Config{Certificates: []tls.Certificate{s.cert}}
	target.Config.ErrorLog = log.New(io.Discard, "", 0)
	target.StartTLS()
	s.t.Cleanup(target.Close)
	s.address.Store(target.Listener.Addr().String())
}

// frames makes a function the target, which speaks HTTP/2 frame by frame.
func (s *streaming) frames(f func(fr *http2.Framer)) {
	s.address.Store(coretest.Serve(s.t, func(raw net.Conn) {
		c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{"h2"}})
		io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		fr := http2.NewFramer(c, c)
		fr.WriteSettings()
		f(fr)
	}))
}

// readHeaders reads frames until a stream begins, and returns its number; 0 after the end of the connection.
func readHeaders(fr *http2.Framer) uint32 {
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				fr.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			return f.StreamID
		}
	}
}

// respond sends a response without a body.
func respond(fr *http2.Framer, stream uint32, status string) {
	var b bytes.Buffer
	hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: status})
	fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: b.Bytes(), EndStream: true, EndHeaders: true,
	})
}

func http2Request() *Request {
	q := getRequest()
	q.Authority, q.TLS, q.HTTP2 = "a.test:443", true, true
	return q
}

func (s *streaming) try(q *Request, c *Control) (*Response, *verdict.Error) {
	if c.Deadline.IsZero() {
		c.Deadline = time.Now().Add(plenty)
	}
	resp := &Response{}
	verr := s.RoundTrip(context.Background(), s.u, c, q, resp)
	return resp, verr
}

func (s *streaming) get(q *Request) (status int, body string) {
	s.t.Helper()
	c := &Control{}
	resp, verr := s.try(q, c)
	require.Nil(s.t, verr, "%v", verr)
	all, err := io.ReadAll(&resp.Body)
	require.NoError(s.t, err)
	resp.Finish(c, time.Now())
	return resp.Status, string(all)
}

// Requests share a connection, one after another and at the same time, until the connection has been idle for too long.
func TestStreamsShareAConnection(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	s.serve(func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, q.Proto+" "+q.RequestURI) })
	for range 3 {
		_, body := s.get(http2Request())
		require.Equal(t, "HTTP/2.0 /", body)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c := &Control{}
			resp, verr := s.try(http2Request(), c)
			if verr != nil {
				t.Error(verr)
				return
			}
			io.Copy(io.Discard, &resp.Body)
			resp.Finish(c, time.Now())
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, s.tunnels.Load())
	p := s.pool(s.u)
	require.Len(t, p.appendIdleTimes(nil), 1)
	require.True(t, s.CloseOldestIdle(), "at the limit of open files")
	require.Empty(t, p.shared)
	s.get(http2Request())
	require.EqualValues(t, 2, s.tunnels.Load())
	p.shared["tls a.test:443"][0].idleAt = time.Now().Add(-2 * idleTimeout)
	s.get(http2Request())
	require.EqualValues(t, 3, s.tunnels.Load())
}

// A proxy with reuse = false gets a connection for each request, and a proxy that has left the pool keeps none.
func TestStreamsThatShareNothing(t *testing.T) {
	s := newStreaming(t, func(spec *upstream.Spec) { spec.Extras = &upstream.Extras{NoReuse: true} })
	ended := make(chan struct{}, 10)
	report := func(target *httptest.Server) {
		target.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				ended <- struct{}{}
			}
		}
	}
	s.serve(func(w http.ResponseWriter, q *http.Request) {}, report)
	for range 3 {
		s.get(http2Request())
		<-ended
	}
	require.EqualValues(t, 3, s.tunnels.Load())

	s = newStreaming(t, func(*upstream.Spec) {})
	release := make(chan struct{})
	s.serve(func(w http.ResponseWriter, q *http.Request) { <-release }, report)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.get(http2Request())
	}()
	for s.tunnels.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.CloseIdle(s.u)
	close(release)
	<-done
	<-ended
}

// A target that speaks HTTP/1.1 only, and a request with an Upgrade field, use HTTP/1.1.
func TestStreamsNeedTheTarget(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	proto := func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, q.Proto) }
	s.serve(proto)
	q := http2Request()
	q.HTTP2 = false
	_, body := s.get(q)
	require.Equal(t, "HTTP/1.1", body)
	_, body = s.get(http2Request())
	require.Equal(t, "HTTP/1.1", body, "the idle connection is used")
	s.serve(proto, func(target *httptest.Server) { target.EnableHTTP2 = false })
	s.CloseAllIdle()
	_, body = s.get(http2Request())
	require.Equal(t, "HTTP/1.1", body)
}

// Bodies in both directions, trailers, and a response to HEAD.
func TestBodiesOfStreams(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	s.serve(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.Copy(w, q.Body)
		w.Header().Set("X-Sum", "7")
	})
	for name, body := range map[string][][]byte{
		"none": nil, "one": {[]byte("x")},
		"large": {bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 200_000)},
	} {
		for _, rest := range []string{"", strings.Repeat("rest", 30_000)} {
			q := http2Request()
			q.Method = []byte("POST")
			q.Prefix, q.Framing = body, http1.Length
			want := string(bytes.Join(body, nil)) + rest
			q.Length = int64(len(want))
			if rest != "" {
				q.Remainder, q.Framing = &http1.Body{}, http1.Chunked
				q.Remainder.Start(http1.NewReader(strings.NewReader(rest)), http1.UntilClose, 0)
				q.BeforeRead, q.StopRead = func() {}, func() {}
			}
			c := &Control{BodyIdle: plenty}
			resp, verr := s.try(q, c)
			require.Nil(t, verr, name)
			all, err := io.ReadAll(&resp.Body)
			require.NoError(t, err)
			require.Equal(t, want, string(all), name)
			require.Equal(t, "X-Sum: 7\r\n", string(resp.Trailers()))
			require.True(t, resp.Finish(c, time.Now()), name)
		}
	}
	q := http2Request()
	q.Method = []byte("HEAD")
	status, body := s.get(q)
	require.Equal(t, 200, status)
	require.Empty(t, body)
}

// The beginning of a body can be read twice, also if it arrives late: a wait that ends is not an error.
func TestPeekAtAStream(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	more := make(chan struct{})
	s.serve(func(w http.ResponseWriter, q *http.Request) {
		io.WriteString(w, "first ")
		w.(http.Flusher).Flush()
		<-more
		io.WriteString(w, "second")
	})
	c := &Control{}
	resp, verr := s.try(http2Request(), c)
	require.Nil(t, verr)
	peeked, whole := resp.Peek(c, nil, 100)
	require.False(t, whole)
	require.Equal(t, "first ", string(peeked))
	close(more)
	all, err := io.ReadAll(&resp.Body)
	require.NoError(t, err)
	require.Equal(t, "first second", string(all))
	resp.Finish(c, time.Now())
}

// The failures of a stream have the causes that they would have over HTTP/1.1, and end at the deadline.
func TestFailuresOfStreams(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	silent := func(fr *http2.Framer) {
		for readHeaders(fr) != 0 {
		}
	}
	for name, c := range map[string]struct {
		target func(fr *http2.Framer)
		cause  string
		reason string
	}{
		"silent": {silent, "no_answer_in_time", "http_response_timeout"},
		"closed": {func(fr *http2.Framer) { readHeaders(fr) }, "connection_closed", "connection_terminated"},
		"reset": {func(fr *http2.Framer) {
			fr.WriteRSTStream(readHeaders(fr), http2.ErrCodeInternal)
			silent(fr)
		}, "connection_closed", "http_protocol_error"},
		"refused": {func(fr *http2.Framer) {
			fr.WriteRSTStream(readHeaders(fr), http2.ErrCodeRefusedStream)
			silent(fr)
		}, "connection_closed", "connection_terminated"},
		"garbage": {func(fr *http2.Framer) {
			fr.WriteRawFrame(http2.FrameHeaders, 0, readHeaders(fr), []byte("garbage"))
			silent(fr)
		}, "", ""},
	} {
		s.CloseAllIdle()
		s.frames(c.target)
		limit := plenty
		if name == "silent" || name == "garbage" {
			limit = 300 * time.Millisecond
		}
		var verr *verdict.Error
		growing(limit, func(limit time.Duration) bool {
			_, verr = s.try(http2Request(), &Control{Deadline: time.Now().Add(limit)})
			require.NotNil(t, verr, name)
			return name != "silent" || verr.Reason == c.reason
		})
		if c.cause != "" {
			require.Equal(t, c.cause, verdict.CauseName(verr.Cause), name)
			require.Equal(t, c.reason, verr.Reason, name)
		}
	}
	s.frames(silent)
	begun := time.Now()
	control := &Control{Deadline: time.Now().Add(plenty)}
	control.OnSlow = func() { go control.Interrupt.Cancel() }
	_, verr := s.try(http2Request(), control)
	require.NotNil(t, verr)
	require.Less(t, time.Since(begun), plenty, "the interrupt ends the attempt")
}

// A reused connection that the target has closed, or on which it refuses a stream without processing it, is replaced. A
// refused request is sent again even if it is not idempotent.
func TestLostStreams(t *testing.T) {
	for name, end := range map[string]func(fr *http2.Framer, stream uint32){
		"closed":  func(*http2.Framer, uint32) {},
		"go away": func(fr *http2.Framer, _ uint32) { fr.WriteGoAway(1, http2.ErrCodeNo, nil) },
		"refused": func(fr *http2.Framer, stream uint32) {
			fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			readHeaders(fr)
		},
	} {
		for _, idempotent := range []bool{true, false} {
			s := newStreaming(t, func(*upstream.Spec) {})
			s.frames(func(fr *http2.Framer) {
				respond(fr, readHeaders(fr), "200")
				if s.tunnels.Load() > 1 {
					readHeaders(fr)
					return
				}
				end(fr, readHeaders(fr))
			})
			s.get(http2Request())
			q := http2Request()
			q.Idempotent = idempotent
			if name == "refused" {
				s.get(q)
				require.EqualValues(t, 2, s.tunnels.Load())
				continue
			}
			_, verr := s.try(q, &Control{})
			require.NotNil(t, verr, name)
			require.Equal(t, "stale_connection", verdict.CauseName(verr.Cause), name)
			s.get(q)
		}
	}
}

// An upload that the target does not read ends after BodyIdle, and one that waits for the client does not.
func TestStalledUploads(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	s.frames(func(fr *http2.Framer) {
		for readHeaders(fr) != 0 {
		}
	})
	q := http2Request()
	q.Method, q.Framing, q.Length = []byte("PUT"), http1.Length, 10<<20
	q.Prefix = [][]byte{make([]byte, 10<<20)}
	start := time.Now()
	_, verr := s.try(q, &Control{BodyIdle: 300 * time.Millisecond})
	require.NotNil(t, verr)
	require.Equal(t, "no_answer_in_time", verdict.CauseName(verr.Cause))
	require.True(t, verr.BodyUnsent)
	require.Less(t, time.Since(start), plenty)

	s = newStreaming(t, func(*upstream.Spec) {})
	s.serve(func(w http.ResponseWriter, q *http.Request) { io.Copy(w, q.Body) })
	client, gateway := net.Pipe()
	q.Prefix, q.Length, q.Remainder = nil, 5, &http1.Body{}
	q.Remainder.Start(http1.NewReader(gateway), http1.Length, 5)
	q.BeforeRead, q.StopRead = func() {}, func() { gateway.Close() }
	time.AfterFunc(700*time.Millisecond, func() { io.WriteString(client, "hello") })
	_, body := func() (int, string) {
		c := &Control{BodyIdle: 200 * time.Millisecond}
		resp, verr := s.try(q, c)
		require.Nil(t, verr, "the wait is for the client")
		all, _ := io.ReadAll(bufio.NewReader(&resp.Body))
		resp.Finish(c, time.Now())
		return resp.Status, string(all)
	}()
	require.Equal(t, "hello", body)

	// A client that leaves while it sends is the reason of the failure.
	client, gateway = net.Pipe()
	q.Remainder = &http1.Body{}
	q.Remainder.Start(http1.NewReader(gateway), http1.Length, 5)
	go func() {
		io.WriteString(client, "he")
		client.Close()
	}()
	_, verr = s.try(q, &Control{BodyIdle: plenty})
	require.NotNil(t, verr)
	require.Equal(t, "request_broke", verdict.CauseName(verr.Cause))
}

// The bytes of requests that share a connection count for the meters of each request, and not for those of the request
// that opened the connection.
func TestStreamsAreMetered(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	s.serve(func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		w.Write(make([]byte, 200_000))
	})
	meters := make([]traffic.Meter, 3)
	for i := range meters {
		q := http2Request()
		q.Method, q.Framing, q.Length = []byte("PUT"), http1.Length, 100_000
		q.Prefix = [][]byte{make([]byte, 100_000)}
		c := &Control{BodyIdle: plenty}
		c.Meters.AddMeter(&meters[i])
		resp, verr := s.try(q, c)
		require.Nil(t, verr)
		io.Copy(io.Discard, &resp.Body)
		resp.Finish(c, time.Now())
	}
	require.EqualValues(t, 1, s.tunnels.Load())
	for i := range meters {
		total := meters[i].Total()
		overhead := int64(5_000) // the first request also opens the connection
		require.InDelta(t, 100_000+overhead/2, total.Up, float64(overhead)/2)
		require.InDelta(t, 200_000+overhead/2, total.Down, float64(overhead)/2)
	}
}

// If a response is not read, the target can send only as many bytes as the buffer of one stream holds.
func TestAResponseThatIsNotRead(t *testing.T) {
	s := newStreaming(t, func(*upstream.Spec) {})
	var written atomic.Int64
	s.serve(func(w http.ResponseWriter, _ *http.Request) {
		for range 8 << 20 / 4096 {
			n, err := w.Write(make([]byte, 4096))
			if err != nil {
				return
			}
			written.Add(int64(n))
		}
	})
	var resp Response
	c := &Control{Deadline: time.Now().Add(time.Minute)}
	verr := s.RoundTrip(t.Context(), s.u, c, http2Request(), &resp)
	require.Nil(t, verr)
	defer resp.Finish(c, time.Now())
	require.Eventually(t, func() bool { return written.Load() >= streamBuffer }, time.Minute, time.Millisecond)
	time.Sleep(noMore)
	require.Less(t, written.Load(), int64(2*streamBuffer))
}

// noMore is the time after which a target is assumed to send nothing more.
const noMore = 50 * time.Millisecond
