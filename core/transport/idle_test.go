package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/internal/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// way is one kind of connection that may be kept.
type route struct {
	u      *upstream.Upstream
	roots  *x509.CertPool
	tls    bool          // the target's
	conns  chan net.Conn // each as the proxy got it
	opened atomic.Int32
}

// ways leads to what answers in the place of proxy or origin, over every kind
// of connection. What the proxy's side has to say it says at once.
func routes(t *testing.T, answer func(net.Conn)) map[string]*route {
	secure, roots := serveTLS(t, answer)
	through := func(serve func(net.Conn)) func(net.Conn) { // a tunnel to it
		return func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			serve(c)
		}
	}
	doubly, _ := serveTLS(t, through(secure)) // with the same certificate
	to := func(scheme string, tls bool, serve func(net.Conn)) *route {
		w := &route{roots: roots, tls: tls, conns: make(chan net.Conn, 10)}
		w.u = proxyAt(t, scheme+"://"+coretest.Serve(t, func(c net.Conn) {
			w.opened.Add(1)
			w.conns <- c
			g := &bufferedConn{Conn: c}
			defer g.Close()
			serve(g)
		}))
		return w
	}
	return map[string]*route{
		"http by http":   to("http", false, answer),
		"http by https":  to("https", false, secure),
		"https by http":  to("http", true, through(secure)),
		"https by https": to("https", true, doubly),
	}
}

func (w *route) request() *Request {
	q := getRequest()
	if q.TLS = w.tls; q.TLS {
		q.Authority = "127.0.0.1:443"
	}
	return q
}

// do sends a request and returns its answer's body.
func (w *route) do(t *testing.T, tr *Transport) string {
	t.Helper()
	q := w.request()
	c := &Control{Deadline: time.Now().Add(5 * time.Second)}
	var resp Response
	verr := tr.RoundTrip(t.Context(), w.u, c, q, &resp)
	require.Nil(t, verr)
	body, err := io.ReadAll(&resp.Body)
	require.NoError(t, err)
	resp.Finish(c, time.Now())
	return string(body)
}

// gathering is a connection that sends all at once, before it reads or closes.
type bufferedConn struct {
	net.Conn
	out bytes.Buffer
}

func (g *bufferedConn) Write(p []byte) (int, error) { return g.out.Write(p) }

func (g *bufferedConn) Read(p []byte) (int, error) {
	g.flush()
	return g.Conn.Read(p)
}

func (g *bufferedConn) Close() error {
	g.SetWriteDeadline(time.Time{}) // TLS has set one
	g.flush()
	return g.Conn.Close()
}

func (g *bufferedConn) flush() {
	g.Conn.Write(g.out.Bytes())
	g.out.Reset()
}

// flush sends what the gathering connection below c holds.
func flush(c net.Conn) {
	for {
		switch above := c.(type) {
		case *tls.Conn:
			c = above.NetConn()
		case *bufferedConn:
			above.flush()
			return
		}
	}
}

// newest returns the connection that was put back last.
func (p *idlePool) newest() *persistConn {
	for _, list := range p.toTarget {
		return list[len(list)-1]
	}
	return p.toProxy[len(p.toProxy)-1]
}

// Connections are kept, whatever they lie on, and none is used again whose
// other side is seen to have closed it.
func TestWhatIsKept(t *testing.T) {
	for name, w := range routes(t, func(c net.Conn) {
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}) {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{RootCAs: w.roots})
			defer tr.Close()
			for range 3 {
				w.do(t, tr)
			}
			require.EqualValues(t, 1, w.opened.Load())
			(<-w.conns).(*net.TCPConn).CloseWrite()
			kept := tr.pool(w.u).newest()
			require.Eventually(t, func() bool { return !kept.alive() }, 5*time.Second, time.Millisecond)
			w.do(t, tr)
			require.EqualValues(t, 2, w.opened.Load())
		})
	}
}

// A proxy that sends more than was asked for: no later request gets that for
// an answer, be it taken off the wire by whichever layer.
func TestAnAnswerNobodyAskedFor(t *testing.T) {
	for name, w := range routes(t, func(c net.Conn) {
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfor")
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
		}
	}) {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{RootCAs: w.roots})
			defer tr.Close()
			for range 3 {
				assert.Equal(t, "for", w.do(t, tr))
			}
			assert.EqualValues(t, 3, w.opened.Load())
		})
	}
}

// A kept connection that is closed between the look at it and its next use: it is
// seen whether nothing of the request can have come to the other side, so that the
// request may go out again on another connection. Else the fault is Stale, whatever
// shows it, and whenever. Once a byte of an answer has come it is not.
func TestAConnectionClosedInBetweenIsStale(t *testing.T) {
	answer := func(c net.Conn) {
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
	for how, end := range map[string]func(*net.TCPConn){
		"closed":      func(c *net.TCPConn) { c.Close() },
		"reset":       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"half-closed": func(c *net.TCPConn) { c.CloseWrite() },
	} {
		for name, w := range routes(t, answer) {
			for _, size := range []int{0, 100, 100 << 10} {
				t.Run(fmt.Sprint(name, " ", how, " ", size), func(t *testing.T) {
					tr := New(Config{RootCAs: w.roots})
					defer tr.Close()
					w.do(t, tr)
					kept := tr.pool(w.u).newest()
					end((<-w.conns).(*net.TCPConn))
					require.Eventually(t, func() bool { return !kept.alive() }, 5*time.Second, time.Millisecond)
					q := w.request()
					if size > 0 {
						q.Prefix, q.Framing, q.Length = make([]byte, size), http1.Length, int64(size)
					}
					c := &Control{Deadline: time.Now().Add(5 * time.Second), BodyIdle: time.Second}
					pool := tr.pool(w.u)
					resp := &Response{t: tr, pool: pool, pc: pool.pop(kept.key, time.Now(), false)}
					resp.pc.reused = true
					verr := tr.attempt(w.u, c, q, resp)
					require.NotNil(t, verr)
					assert.Equal(t, verdict.StaleConnection, verr.Cause, "%+v", verr)
					refused := how == "closed" || how == "reset" && name == "http by http"
					unseen := size < 1000 && runtime.GOOS == "linux" && refused
					assert.Equal(t, unseen, resp.notReceived)
				})
			}
		}
	}
	for said, stale := range map[string]bool{"": true, "H": false, "HTTP/1.1 103 Early Hints\r\n\r\n": false} {
		for name, w := range routes(t, func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			readRequest(c)
			io.WriteString(c, said)
		}) {
			t.Run(fmt.Sprintf("%s says %q", name, said), func(t *testing.T) {
				tr := New(Config{RootCAs: w.roots})
				defer tr.Close()
				w.do(t, tr)
				verr := tr.RoundTrip(t.Context(), w.u, &Control{Deadline: time.Now().Add(5 * time.Second)}, w.request(),
					&Response{})
				require.NotNil(t, verr)
				assert.Equal(t, stale, verr.Cause == verdict.StaleConnection, "%+v", verr)
			})
		}
	}
}

// A second answer on a kept connection is never the next request's: it is there when
// the connection is to be used again, so that connection is closed.
func TestASecondAnswerIsNobodys(t *testing.T) {
	say := make(chan struct{})
	for name, w := range routes(t, func(c net.Conn) {
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
			flush(c)
			<-say
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
			flush(c)
		}
	}) {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{RootCAs: w.roots})
			defer tr.Close()
			for range 5 {
				require.Equal(t, "first", w.do(t, tr))
				kept := tr.pool(w.u).newest()
				say <- struct{}{}
				require.Eventually(t, func() bool { return !kept.alive() }, 5*time.Second, time.Millisecond)
			}
			require.EqualValues(t, 5, w.opened.Load())
		})
	}
}

// What was left over from the answer before, and came after the look at a kept
// connection, is not taken for an answer: the request may go out again.
func TestBytesLeftOver(t *testing.T) {
	for left, leftover := range map[string]bool{
		"a body behind a 204":                          true,
		"a body behind a 204\r\n":                      true,
		"HTTP/1.1 103 Early Hints\r\n\r\nbody\r\n\r\n": false,
		"<p>":                                 true,
		"\x00":                                true,
		"bodyHTTP/1.1 200 OK\r\n\r\n":         true,
		"HTTP/1.1 2000 OK\r\n\r\n":            true,
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n": false, // an answer, and malformed
	} {
		t.Run(left, func(t *testing.T) {
			u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
				readRequest(c)
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				readRequest(c)
				io.WriteString(c, left)
				io.Copy(io.Discard, c)
			}))
			tr := New(Config{})
			defer tr.Close()
			c := &Control{Deadline: time.Now().Add(5 * time.Second)}
			var resp Response
			require.Nil(t, tr.RoundTrip(t.Context(), u, c, getRequest(), &resp))
			resp.Finish(c, time.Now())
			verr := tr.RoundTrip(t.Context(), u, c, getRequest(), &resp)
			require.NotNil(t, verr)
			require.Equal(t, "http_protocol_error", verr.Reason)
			require.Equal(t, leftover, verr.Cause == verdict.Leftover)
		})
	}
}

// A connection that cannot be looked at without reading is read before it is used
// again.
func TestAConnectionOfAnotherKind(t *testing.T) {
	say := make(chan struct{})
	var opened atomic.Int32
	tr := New(Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		opened.Add(1)
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			for readRequest(far) != "" {
				io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
				if _, more := <-say; more {
					far.SetWriteDeadline(time.Now().Add(5 * time.Second))
					io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
				}
			}
		}()
		return near, nil
	}})
	defer tr.Close()
	w := &route{u: proxyAt(t, "http://p.test:1")}
	require.Equal(t, "first", w.do(t, tr))
	say <- struct{}{}
	require.Eventually(t, func() bool { return !tr.pool(w.u).newest().alive() }, 5*time.Second, time.Millisecond)
	require.Equal(t, "first", w.do(t, tr))
	require.EqualValues(t, 2, opened.Load())
	close(say)
	for range 3 {
		require.Equal(t, "first", w.do(t, tr))
	}
	require.EqualValues(t, 2, opened.Load())
}

// A proxy that closes every second kept connection when it reads a POST on it loses
// one POST; for ten minutes after that a POST goes to it on a new connection only,
// while what can be repeated goes on using those that are kept.
func TestAPostLostOnAKeptConnection(t *testing.T) {
	var opened, onKept atomic.Int32
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		opened.Add(1)
		for n := 0; ; n++ {
			head := readRequest(c)
			if head == "" || n > 0 && strings.HasPrefix(head, "POST") && onKept.Add(1)%2 == 1 {
				return
			}
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}))
	now := time.Now()
	tr := New(Config{Now: func() time.Time { return now }})
	defer tr.Close()
	ask := func(method string, idempotent bool) bool {
		q := getRequest()
		q.Method, q.Idempotent = []byte(method), idempotent
		c := &Control{Deadline: time.Now().Add(5 * time.Second)}
		var resp Response
		if verr := tr.RoundTrip(t.Context(), u, c, q, &resp); verr != nil {
			require.Equal(t, verdict.StaleConnection, verr.Cause, "%v", verr)
			return false
		}
		resp.Finish(c, now)
		return true
	}
	failed := 0
	for range 100 {
		if !ask("POST", false) {
			failed++
		}
	}
	require.Equal(t, 1, failed)
	before := opened.Load()
	for range 10 {
		require.True(t, ask("GET", true))
	}
	require.Equal(t, before, opened.Load())
	now = now.Add(lossyFor)
	failed = 0
	for range 10 {
		if !ask("POST", false) {
			failed++
		}
	}
	require.Equal(t, 1, failed, "it is forgotten, and learnt again")
}

// What is remembered of losses is bounded.
func TestLossesAreBounded(t *testing.T) {
	p, now := &idlePool{}, time.Now()
	for i := range 2 * maxLossy {
		p.noteLoss(fmt.Sprint(i), now)
	}
	require.Len(t, p.lossy, maxLossy)
	p.noteLoss("late", now.Add(lossyFor))
	require.Len(t, p.lossy, 1)
}

// A proxy that reads nothing more holds up neither whoever closes the idle
// connections nor whoever looks for one among them: TLS's farewell would.
func TestAStuckIdleConnection(t *testing.T) {
	hung := make(chan struct{})
	defer close(hung)
	serve, roots := serveTLS(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		<-hung
	})
	w := &route{u: proxyAt(t, "https://"+coretest.Serve(t, serve))}
	for name, end := range map[string]func(*idlePool){
		"prune": func(p *idlePool) { p.prune(time.Now().Add(time.Hour)) },
		"get":   func(p *idlePool) { p.get("", time.Now().Add(time.Hour), false) },
		"close": (*idlePool).close,
	} {
		tr := New(Config{RootCAs: roots})
		defer tr.Close()
		w.do(t, tr)
		pool := tr.pool(w.u)
		raw := pool.newest().tcp
		raw.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := raw.Write(make([]byte, 64<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		begun := time.Now()
		end(pool)
		require.Less(t, time.Since(begun), 4*time.Second, name) // crypto/tls waits for 5
	}
}
