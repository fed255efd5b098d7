package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// serveTLS wraps serve in TLS with a certificate for 127.0.0.1, which roots contains.
func serveTLS(t testing.TB, serve func(net.Conn)) (with func(net.Conn), roots *x509.CertPool) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots = x509.NewCertPool()
	roots.AddCert(s.Certificate())
	cfg := &tls.Config{Certificates: s.TLS.Certificates}
	return func(c net.Conn) {
		tc := tls.Server(c, cfg)
		defer tc.Close()
		if tc.Handshake() == nil {
			serve(tc)
		}
	}, roots
}

// dialSmallBuffer opens connections with a small send buffer.
func dialSmallBuffer(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return c, c.(*net.TCPConn).SetWriteBuffer(4096)
}

// If the proxy does not read, the request is sent only in part. The attempt ends at its deadline, and OnSlow is
// called.
func TestProxyDoesNotRead(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		for name, body := range map[string]func(*Request){
			"no body":     func(*Request) {},
			"a body":      func(q *Request) { q.Prefix = [][]byte{make([]byte, 100<<10)} },
			"a long body": func(q *Request) { q.Remainder = bodyOf(make([]byte, 100<<10)) },
		} {
			t.Run(scheme+" "+name, func(t *testing.T) {
				hung, watched := make(chan struct{}), 1
				defer close(hung)
				serve, roots := func(net.Conn) { <-hung }, (*x509.CertPool)(nil)
				if scheme == "https" {
					serve, roots = serveTLS(t, serve)
					watched = 2 // also for the handshake
				}
				u := proxyAt(t, scheme+"://"+coretest.Serve(t, func(c net.Conn) {
					c.(*net.TCPConn).SetReadBuffer(4096)
					serve(c)
				}))
				verr, slow := (*verdict.Error)(nil), 0
				growing(300*time.Millisecond, func(limit time.Duration) bool {
					verr, slow = sendToHung(t, u, roots, body, limit)
					return verr.Cause != verdict.ProxyConnectTimeout && slow == watched
				})
				assert.Contains(t, []core.Cause{verdict.NoAnswerInTime, verdict.RequestTimeout}, verr.Cause)
				assert.Equal(t, "connection_write_timeout", verr.Reason)
				assert.Equal(t, watched, slow)
			})
		}
	}
}

// sendToHung sends a request with a head of 1 MiB through u, which does not read it. body sets the request's body. The
// attempt's deadline is limit after its connection was opened. sendToHung returns the error and the number of calls of
// OnSlow since the connection was opened.
func sendToHung(t *testing.T, u *upstream.Upstream, roots *x509.CertPool, body func(*Request),
	limit time.Duration) (verr *verdict.Error, calls int) {
	q := getRequest()
	body(q)
	if q.Prefix != nil {
		q.Framing, q.Length = http1.Length, 100<<10
	}
	if q.Remainder != nil {
		q.Framing, q.BeforeRead, q.StopRead = http1.Chunked, func() {}, func() {}
	}
	q.Fields = append(q.Fields, http1.Field{Name: []byte("X-Long"), Value: bytes.Repeat([]byte("x"), 1<<20)})
	var slow atomic.Int32
	c := &Control{Deadline: time.Now().Add(time.Minute), BodyIdle: time.Minute, OnSlow: func() { slow.Add(1) }}
	tr := New(Config{RootCAs: roots, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		defer func() { // set the deadline now: the time until here depends on the load
			slow.Store(0)
			c.Deadline = time.Now().Add(limit)
		}()
		return dialSmallBuffer(ctx, network, address)
	}})
	defer tr.Close()
	done := make(chan *verdict.Error, 1)
	go func() { done <- tr.RoundTrip(t.Context(), u, c, q, &Response{}) }()
	select {
	case verr := <-done:
		require.NotNil(t, verr)
		return verr, int(slow.Load())
	case <-time.After(limit + time.Minute):
		c.Interrupt.Cancel()
		<-done
		t.Fatal("the attempt does not end")
	}
	return nil, 0
}

// The same holds for a CONNECT, which must be long enough to fill the buffer.
func TestProxyDoesNotReadConnect(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			hung := make(chan struct{})
			defer close(hung)
			serve, roots := func(net.Conn) { <-hung }, (*x509.CertPool)(nil)
			if scheme == "https" {
				serve, roots = serveTLS(t, serve)
			}
			u := proxyAt(t, scheme+"://"+coretest.Serve(t, serve))
			c := &Control{Deadline: time.Now().Add(300 * time.Millisecond)}
			tr := New(Config{Dial: dialSmallBuffer, RootCAs: roots})
			done := make(chan *verdict.Error, 1)
			go func() {
				_, verr := tr.OpenTunnel(t.Context(), u, c, strings.Repeat("a", 8<<20)+".test:443")
				done <- verr
			}()
			select {
			case verr := <-done:
				require.NotNil(t, verr)
				assert.Equal(t, "connection_timeout", verr.Reason)
			case <-time.After(time.Minute):
				c.Interrupt.Cancel()
				<-done
				t.Fatal("the attempt does not end")
			}
		})
	}
}

// OnSlow is called if the proxy has read a body but does not respond.
func TestNoResponseAfterBody(t *testing.T) {
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) { io.Copy(io.Discard, c) }))
	tr := New(Config{})
	defer tr.Close()
	q := getRequest()
	q.Prefix = [][]byte{make([]byte, 100<<10)}
	q.Framing, q.Length = http1.Length, 100<<10
	var slow atomic.Int32
	var verr *verdict.Error
	growing(300*time.Millisecond, func(limit time.Duration) bool {
		slow.Store(0)
		verr = tr.RoundTrip(t.Context(), u, &Control{Deadline: time.Now().Add(limit),
			BodyIdle: time.Minute, OnSlow: func() { slow.Add(1) }}, q, &Response{})
		require.NotNil(t, verr)
		return slow.Load() > 0
	})
	assert.Equal(t, "http_response_timeout", verr.Reason)
	assert.EqualValues(t, 1, slow.Load())
}

// The end of a body has the same time limit as each piece of it.
func TestLateEndOfBody(t *testing.T) {
	const idle = 200 * time.Millisecond
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%s", body)
		}
	}))
	tr := New(Config{})
	defer tr.Close()
	in, out := io.Pipe()
	go func() {
		io.WriteString(out, "1\r\na\r\n")
		time.Sleep(idle / 5)
		io.WriteString(out, "1\r\nb\r\n")
		time.Sleep(idle * 19 / 20)
		io.WriteString(out, "0\r\n\r\n")
	}()
	q := getRequest()
	q.Framing, q.Length, q.Remainder = http1.Chunked, -1, &http1.Body{}
	q.Remainder.Start(http1.NewReader(in), http1.Chunked, -1)
	q.BeforeRead, q.StopRead = func() {}, func() {}
	c := &Control{Deadline: time.Now().Add(plenty), BodyIdle: idle}
	var resp Response
	require.Nil(t, tr.RoundTrip(t.Context(), u, c, q, &resp))
	got, err := io.ReadAll(&resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "ab", string(got))
	require.Eventually(t, func() bool { return len(resp.uploadDone) == 1 }, plenty,
		time.Millisecond) // the response may arrive before the sender has finished
	assert.True(t, resp.Finish(c, time.Now()), "the body was sent completely")
}

// bodyOf returns a body that can be read once.
func bodyOf(b []byte) *http1.Body {
	body := &http1.Body{}
	body.Start(http1.NewReader(io.Reader(bytes.NewReader(b))), http1.Length, int64(len(b)))
	return body
}
