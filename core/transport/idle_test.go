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

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// route is a kind of connection: to a proxy, or through one to a target.
type route struct {
	u      *upstream.Upstream
	roots  *x509.CertPool
	tls    bool          // the target is https://
	conns  chan net.Conn // the connections accepted by the proxy
	opened atomic.Int32
}

// routes returns a route of every kind to a server. respond is the server: it serves one connection, of the proxy or of
// the target. Everything that it writes before it reads again is sent at once.
func routes(t *testing.T, respond func(net.Conn)) map[string]*route {
	secure, roots := serveTLS(t, respond)
	through := func(serve func(net.Conn)) func(net.Conn) { // opens a tunnel to serve
		return func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			serve(c)
		}
	}
	twice, _ := serveTLS(t, through(secure)) // with the same certificate
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
		"http by http":   to("http", false, respond),
		"http by https":  to("https", false, secure),
		"https by http":  to("http", true, through(secure)),
		"https by https": to("https", true, twice),
	}
}

func (r *route) request() *Request {
	q := getRequest()
	if q.TLS = r.tls; q.TLS {
		q.Authority = "127.0.0.1:443"
	}
	return q
}

// do sends a request and returns the response's body.
func (r *route) do(t *testing.T, tr *Transport) string {
	t.Helper()
	q := r.request()
	c := &Control{Deadline: time.Now().Add(plenty)}
	var resp Response
	verr := tr.RoundTrip(t.Context(), r.u, c, q, &resp)
	require.Nil(t, verr)
	body, err := io.ReadAll(&resp.Body)
	require.NoError(t, err)
	resp.Finish(c, time.Now())
	return string(body)
}

// bufferedConn buffers writes until it reads or closes.
type bufferedConn struct {
	net.Conn
	out bytes.Buffer
}

func (b *bufferedConn) Write(p []byte) (int, error) { return b.out.Write(p) }

func (b *bufferedConn) Read(p []byte) (int, error) {
	b.flush()
	return b.Conn.Read(p)
}

func (b *bufferedConn) Close() error {
	b.SetWriteDeadline(time.Time{}) // TLS has set a deadline
	b.flush()
	return b.Conn.Close()
}

func (b *bufferedConn) flush() {
	b.Conn.Write(b.out.Bytes())
	b.out.Reset()
}

// flush sends the buffered bytes of the bufferedConn below c.
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

// newest returns the connection that became idle last.
func (p *idlePool) newest() *persistConn {
	for _, list := range p.keyed {
		return list[len(list)-1]
	}
	return p.unkeyed[len(p.unkeyed)-1]
}

// Connections of every kind are reused, unless the peer has closed them.
func TestReuseByRoute(t *testing.T) {
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
			idle := tr.pool(w.u).newest()
			require.Eventually(t, func() bool { return !idle.isAlive() }, plenty, time.Millisecond)
			w.do(t, tr)
			require.EqualValues(t, 2, w.opened.Load())
		})
	}
}

// If a proxy sends a second response with the first one, no later request gets it, whether TLS or the reader has read
// it.
func TestUnrequestedResponse(t *testing.T) {
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

// The peer closes an idle connection after isAlive has checked it. The cause is StaleConnection, and notReceived is set
// if the peer cannot have received any part of the request. After a byte of a response the cause is another one.
func TestStaleConnection(t *testing.T) {
	respond := func(c net.Conn) {
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
	for how, end := range map[string]func(*net.TCPConn){
		"closed":      func(c *net.TCPConn) { c.Close() },
		"reset":       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"half-closed": func(c *net.TCPConn) { c.CloseWrite() },
	} {
		for name, w := range routes(t, respond) {
			for _, size := range []int{0, 100, 100 << 10} {
				t.Run(fmt.Sprint(name, " ", how, " ", size), func(t *testing.T) {
					tr := New(Config{RootCAs: w.roots})
					defer tr.Close()
					w.do(t, tr)
					idle := tr.pool(w.u).newest()
					end((<-w.conns).(*net.TCPConn))
					require.Eventually(t, func() bool { return !idle.isAlive() }, plenty, time.Millisecond)
					q := w.request()
					if size > 0 {
						q.Prefix, q.Framing, q.Length = [][]byte{make([]byte, size)}, http1.Length, int64(size)
					}
					c := &Control{Deadline: time.Now().Add(plenty), BodyIdle: time.Second}
					pool := tr.pool(w.u)
					resp := &Response{t: tr, pool: pool, pc: pool.pop(idle.key, idle.target, time.Now(), false)}
					resp.pc.reused = true
					verr := tr.sendOnConn(w.u, c, q, resp)
					require.NotNil(t, verr)
					assert.Equal(t, verdict.StaleConnection, verr.Cause, "%+v", verr)
					refused := how == "closed" || how == "reset" && name == "http by http"
					notReceived := size < 1000 && runtime.GOOS == "linux" && refused
					assert.Equal(t, notReceived, resp.notReceived)
				})
			}
		}
	}
	for reply, stale := range map[string]bool{"": true, "H": false, "HTTP/1.1 103 Early Hints\r\n\r\n": false} {
		for name, w := range routes(t, func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			readRequest(c)
			io.WriteString(c, reply)
		}) {
			t.Run(fmt.Sprintf("%s replies %q", name, reply), func(t *testing.T) {
				tr := New(Config{RootCAs: w.roots})
				defer tr.Close()
				w.do(t, tr)
				verr := tr.RoundTrip(t.Context(), w.u, &Control{Deadline: time.Now().Add(plenty)}, w.request(),
					&Response{})
				require.NotNil(t, verr)
				assert.Equal(t, stale, verr.Cause == verdict.StaleConnection, "%+v", verr)
			})
		}
	}
}

// The peer closes an idle connection with a 408 (RFC 9110 section 15.5.9). The request can be repeated on a new
// connection, unless that could repeat its effect. A 408 that closes no idle connection is a response.
func TestIdleTimeout408(t *testing.T) {
	const closes = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
	for name, tc := range map[string]struct {
		first, reply string
		post, stale  bool
	}{
		"GET":              {"", closes, false, true},
		"HTTP/1.0":         {"", "HTTP/1.0 408 Request Timeout\r\n\r\n", false, true},
		"POST":             {"", closes, true, false},
		"stays open":       {"", "HTTP/1.1 408 Request Timeout\r\nContent-Length: 2\r\n\r\nno", false, false},
		"a new connection": {closes, "", false, false},
	} {
		for kind, w := range routes(t, func(c net.Conn) {
			readRequest(c)
			if tc.first == "" {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				readRequest(c)
			}
			io.WriteString(c, tc.first+tc.reply)
		}) {
			t.Run(name+" "+kind, func(t *testing.T) {
				tr := New(Config{RootCAs: w.roots})
				defer tr.Close()
				if tc.first == "" {
					w.do(t, tr)
				}
				q, c, resp := w.request(), &Control{Deadline: time.Now().Add(plenty)}, &Response{}
				if tc.post {
					q.Method, q.Idempotent = []byte("POST"), false
				}
				verr := tr.RoundTrip(t.Context(), w.u, c, q, resp)
				if tc.stale {
					require.NotNil(t, verr)
					require.Equal(t, verdict.StaleConnection, verr.Cause)
					require.Equal(t, 1, int(w.opened.Load()))
					return
				}
				require.Nil(t, verr)
				require.Equal(t, 408, resp.Status)
				body, err := io.ReadAll(&resp.Body)
				require.NoError(t, err)
				require.Equal(t, "no", string(body))
				resp.Finish(c, time.Now())
			})
		}
	}
}

// A 408 that crosses a request which the peer does not receive permits a replay of every request. A request with a
// streamed body is not replayed.
func TestIdleTimeout408CrossesAPost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux reports what the peer has received")
	}
	next := make(chan struct{})
	for name, w := range routes(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		flush(c)
		<-next
		io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		flush(c)
	}) {
		for _, streams := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " streams ", streams), func(t *testing.T) {
				tr := New(Config{RootCAs: w.roots})
				defer tr.Close()
				w.do(t, tr)
				pool := tr.pool(w.u)
				idle := pool.newest()
				next <- struct{}{}
				closed := func() bool { return socket.PeerClosed(idle.tcp) }
				require.Eventually(t, closed, plenty, time.Millisecond)
				pc := pool.pop(idle.key, idle.target, time.Now(), false)
				q, resp := w.request(), &Response{t: tr, pool: pool, pc: pc}
				q.Method, q.Idempotent, q.Framing, q.Length = []byte("POST"), false, http1.Length, 3
				q.Prefix = [][]byte{[]byte("one")}
				if streams {
					q.Prefix, q.Remainder, q.BeforeRead = nil, bodyOf([]byte("one")), func() {}
				}
				resp.pc.reused = true
				c := &Control{Deadline: time.Now().Add(plenty), BodyIdle: time.Second}
				verr := tr.sendOnConn(w.u, c, q, resp)
				require.Equal(t, streams, !resp.notReceived)
				if streams {
					return
				}
				require.NotNil(t, verr)
				require.Equal(t, verdict.StaleConnection, verr.Cause)
			})
		}
	}
}

func TestLateUnrequestedResponse(t *testing.T) {
	next := make(chan struct{})
	for name, w := range routes(t, func(c net.Conn) {
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
			flush(c)
			<-next
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
			flush(c)
		}
	}) {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{RootCAs: w.roots})
			defer tr.Close()
			for range 5 {
				require.Equal(t, "first", w.do(t, tr))
				idle := tr.pool(w.u).newest()
				next <- struct{}{}
				require.Eventually(t, func() bool { return !idle.isAlive() }, plenty, time.Millisecond)
			}
			require.EqualValues(t, 5, w.opened.Load())
		})
	}
}

// Bytes that were left over from the previous response, and arrive after isAlive has checked the connection, are not
// treated as a response. The cause is Leftover, so that the request may be repeated.
func TestLeftover(t *testing.T) {
	for left, leftover := range map[string]bool{
		"a body behind a 204":                          true,
		"a body behind a 204\r\n":                      true,
		"HTTP/1.1 103 Early Hints\r\n\r\nbody\r\n\r\n": false,
		"<p>":                                 true,
		"\x00":                                true,
		"bodyHTTP/1.1 200 OK\r\n\r\n":         true,
		"HTTP/1.1 2000 OK\r\n\r\n":            true,
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n": false, // a malformed response
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
			c := &Control{Deadline: time.Now().Add(plenty)}
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

// A connection that is not TCP is read before it is reused.
func TestReuseWithoutTCP(t *testing.T) {
	next := make(chan struct{})
	var opened atomic.Int32
	tr := New(Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		opened.Add(1)
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			for readRequest(far) != "" {
				io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
				if _, more := <-next; more {
					far.SetWriteDeadline(time.Now().Add(plenty))
					io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
				}
			}
		}()
		return near, nil
	}})
	defer tr.Close()
	w := &route{u: proxyAt(t, "http://p.test:1")}
	require.Equal(t, "first", w.do(t, tr))
	next <- struct{}{}
	require.Eventually(t, func() bool { return !tr.pool(w.u).newest().isAlive() }, plenty, time.Millisecond)
	require.Equal(t, "first", w.do(t, tr))
	require.EqualValues(t, 2, opened.Load())
	close(next)
	for range 3 {
		require.Equal(t, "first", w.do(t, tr))
	}
	require.EqualValues(t, 2, opened.Load())
}

// A proxy closes every second reused connection when it reads a POST. One POST is lost. For ten minutes after
// that, each POST gets a new connection, while requests that can be repeated still reuse connections.
func TestLostPost(t *testing.T) {
	var opened, onReused atomic.Int32
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		opened.Add(1)
		for n := 0; ; n++ {
			head := readRequest(c)
			if head == "" || n > 0 && strings.HasPrefix(head, "POST") && onReused.Add(1)%2 == 1 {
				return
			}
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}))
	now := time.Now()
	tr := New(Config{Now: func() time.Time { return now }})
	defer tr.Close()
	do := func(method string, idempotent bool) bool {
		q := getRequest()
		q.Method, q.Idempotent = []byte(method), idempotent
		c := &Control{Deadline: time.Now().Add(plenty)}
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
		if !do("POST", false) {
			failed++
		}
	}
	require.Equal(t, 1, failed)
	before := opened.Load()
	for range 10 {
		require.True(t, do("GET", true))
	}
	require.Equal(t, before, opened.Load())
	now = now.Add(noReuseTime)
	failed = 0
	for range 10 {
		if !do("POST", false) {
			failed++
		}
	}
	require.Equal(t, 1, failed, "the loss expires, and the next one is recorded")
}

func TestMaxLossy(t *testing.T) {
	p, now := &idlePool{}, time.Now()
	for i := range 2 * maxNoReuseKeys {
		p.recordLoss(fmt.Sprint(i), now)
	}
	require.Len(t, p.noReuseUntil, maxNoReuseKeys)
	p.recordLoss("late", now.Add(noReuseTime))
	require.Len(t, p.noReuseUntil, 1)
}

// Closing an idle TLS connection does not wait for a proxy that does not read. The close_notify of TLS would.
func TestCloseDoesNotWait(t *testing.T) {
	hung := make(chan struct{})
	defer close(hung)
	serve, roots := serveTLS(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		<-hung
	})
	w := &route{u: proxyAt(t, "https://"+coretest.Serve(t, serve))}
	for name, end := range map[string]func(*idlePool){
		"prune": func(p *idlePool) { p.closeIdleBefore(time.Now().Add(time.Hour)) },
		"get": func(p *idlePool) {
			pc := p.newest()
			require.Nil(t, p.get(pc.key, pc.target, time.Now().Add(time.Hour), false), "it has expired")
		},
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
		begun, late := time.Now(), coretest.MeasureTimerDelay(t)
		end(pool)
		require.Less(t, time.Since(begun), 4*time.Second+late(), name) // crypto/tls waits for 5
		require.Zero(t, pool.count, name)
	}
}

// isAlive checks a connection even if its idle time is 0. The clock of this test does not move. If a check depended on
// the idle time, the second POST would use the closed connection.
func TestAliveIsCheckedAtOnce(t *testing.T) {
	now := time.Now()
	conns := make(chan net.Conn, 2)
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		conns <- c
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}))
	tr := New(Config{Now: func() time.Time { return now }})
	defer tr.Close()
	post := func() *verdict.Error {
		q := getRequest()
		q.Method, q.Idempotent = []byte("POST"), false
		c := &Control{Deadline: time.Now().Add(plenty)}
		var resp Response
		verr := tr.RoundTrip(t.Context(), u, c, q, &resp)
		if verr == nil {
			resp.Finish(c, now)
		}
		return verr
	}
	require.Nil(t, post())
	idle := tr.pool(u).newest()
	require.Equal(t, now, idle.idleAt)
	(<-conns).(*net.TCPConn).CloseWrite()
	require.Eventually(t, func() bool { return !idle.isAlive() }, plenty, time.Millisecond)
	require.Nil(t, post(), "the second POST is sent on a new connection")
	require.Len(t, conns, 1)
}

func TestIdleTimeout(t *testing.T) {
	now := time.Now()
	var opened atomic.Int32
	w := &route{u: proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		opened.Add(1)
		for readRequest(c) != "" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}))}
	tr := New(Config{Now: func() time.Time { return now }})
	defer tr.Close()
	p := tr.pool(w.u)
	put := func() *persistConn {
		w.do(t, tr)
		p.newest().idleAt = now // do has set the real time
		return p.newest()
	}
	put()
	now = now.Add(idleTimeout - 1)
	pc := put()
	require.EqualValues(t, 1, opened.Load())
	now = now.Add(idleTimeout - 1)
	tr.CloseExpired()
	require.Same(t, pc, p.newest())
	now = now.Add(1)
	put()
	require.EqualValues(t, 2, opened.Load(), "the connection has expired")
	now = now.Add(idleTimeout + 1)
	tr.CloseExpired()
	require.Zero(t, p.count)
}

func TestMaxIdle(t *testing.T) {
	p := newIdlePool(upstream.Address{Scheme: upstream.HTTP})
	defer p.close()
	var peers []net.Conn
	for range maxIdle + 1 {
		near, far := net.Pipe()
		peers = append(peers, far)
		p.put(newPersistConn(near, "", "", false, ""), time.Now())
	}
	require.Len(t, p.unkeyed, maxIdle)
	_, err := peers[0].Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "the oldest one is closed")
	for _, i := range []int{1, maxIdle} {
		peers[i].SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err = peers[i].Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the others are open")
	}
	near, far := net.Pipe()
	p.put(newPersistConn(near, "a.test:443", "a.test:443", true, ""), time.Now())
	far.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err = far.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "an older one is closed, with another key")
	require.Equal(t, maxIdle, p.count)
	require.Len(t, p.unkeyed, maxIdle-1)
}
