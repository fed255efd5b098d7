package transport

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// proxyAt returns the proxy with that URL.
func proxyAt(t testing.TB, url string) *upstream.Upstream {
	return proxyWith(t, url, func(*upstream.Spec) {})
}

// proxyWith is like proxyAt, but changes the configuration.
func proxyWith(t testing.TB, url string, change func(*upstream.Spec)) *upstream.Upstream {
	a, err := upstream.ParseAddress(url)
	require.NoError(t, err)
	spec := upstream.Spec{Address: a}
	change(&spec)
	p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	require.NoError(t, p.Apply([]upstream.Spec{spec}))
	return p.Snapshot().All[0]
}

// getRequest returns a GET request for http://a.test/.
func getRequest() *Request {
	return &Request{Method: []byte("GET"), Target: []byte("http://a.test/"), Path: []byte("/"), Authority: "a.test:80",
		Idempotent: true,
		Fields:     []http1.Field{{Name: []byte("Host"), Value: []byte("a.test"), Kind: http1.Host}}}
}

// patient is a clock that is ahead of the system's by plenty. With it, the time limits of a Transport pass later by
// plenty, so that a busy machine does not exceed the short limits.
func patient() time.Time { return time.Now().Add(plenty) }

// growing calls f with a longer and longer limit, until f returns true or the limit would exceed a minute. A busy
// machine may need more than the first limits for the steps before the one that is tested.
func growing(limit time.Duration, f func(limit time.Duration) bool) {
	for ; limit <= time.Minute && !f(limit); limit *= 2 {
	}
}

// readRequest reads the head of a request.
func readRequest(c net.Conn) string {
	var head strings.Builder
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String()
		}
	}
}

// Each kind of failure ends before the deadline with an error that has a reason, and no goroutine remains.
func TestHostileProxies(t *testing.T) {
	send := func(s string) func(net.Conn) {
		return func(c net.Conn) { readRequest(c); io.WriteString(c, s) }
	}
	before := runtime.NumGoroutine()
	for name, c := range map[string]struct {
		serve  func(net.Conn)
		reason string // required, unless it is empty
		hangs  bool   // the deadline ends the attempt
	}{
		"closes at once":            {func(net.Conn) {}, "", false},
		"closes without a response": {func(c net.Conn) { readRequest(c) }, "", false},
		"resets": {func(c net.Conn) {
			readRequest(c)
			c.(*net.TCPConn).SetLinger(0)
		}, "", false},
		"garbage":        {send("hello there\r\n\r\n"), "http_protocol_error", false},
		"TLS":            {send("\x15\x03\x01\x00\x02\x02\x46\r\n\r\n"), "http_protocol_error", false},
		"half a head":    {send("HTTP/1.1 200 OK\r\nContent-Le"), "", false},
		"a head of 1 MB": {send("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 1<<20)), "", false},
		"two lengths": {send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
			"http_protocol_error", false},
		"an unrequested upgrade": {send("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "", false},
		"no response":            {func(c net.Conn) { io.Copy(io.Discard, c) }, "http_response_timeout", true},
		"an endless head, a byte at a time": {func(c net.Conn) {
			readRequest(c)
			for range 1000 {
				if _, err := io.WriteString(c, "H"); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{})
			defer tr.Close()
			var resp Response
			u, late := proxyAt(t, "http://"+coretest.Serve(t, c.serve)), coretest.MeasureTimerDelay(t)
			limit := plenty
			if c.hangs {
				limit = 300 * time.Millisecond
			}
			var verr *verdict.Error
			growing(limit, func(limit time.Duration) bool {
				begun := time.Now()
				verr = tr.RoundTrip(t.Context(), u, &Control{Deadline: begun.Add(limit)}, getRequest(), &resp)
				require.NotNil(t, verr)
				if c.hangs {
					limit += 5 * time.Second
				}
				assert.Less(t, time.Since(begun), limit+late())
				return !c.hangs || c.reason == "" || verr.Reason == c.reason
			})
			assert.NotEmpty(t, verr.Reason)
			if c.reason != "" {
				assert.Equal(t, c.reason, verr.Reason)
			}
			assert.NotEqual(t, verdict.StaleConnection, verr.Cause, "a new connection cannot be stale")
		})
	}
	verr := New(Config{}).RoundTrip(t.Context(), proxyAt(t, "http://127.0.0.1:1"),
		&Control{Deadline: time.Now().Add(plenty)}, getRequest(), &Response{})
	require.NotNil(t, verr)
	assert.Equal(t, "connection_refused", verr.Reason)
	assert.Equal(t, verdict.ProxyUnreachable, verr.Cause)
	for range 200 {
		if runtime.NumGoroutine() <= before+2 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}

func TestReuse(t *testing.T) {
	var accepted atomic.Int64
	drop := make(chan struct{})
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		accepted.Add(1)
		for range 2 {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		<-drop
	}))
	tr := New(Config{})
	defer tr.Close()
	do := func(fresh bool) bool {
		var resp Response
		c := &Control{Deadline: time.Now().Add(plenty), NewConnection: fresh}
		if verr := tr.RoundTrip(t.Context(), u, c, getRequest(), &resp); verr != nil {
			require.Equal(t, verdict.StaleConnection, verr.Cause, "%v", verr)
			return false
		}
		body, err := io.ReadAll(&resp.Body)
		require.NoError(t, err)
		require.Equal(t, "ok", string(body))
		resp.Finish(c, time.Now())
		return true
	}
	require.True(t, do(false))
	require.True(t, do(false))
	require.EqualValues(t, 1, accepted.Load())
	close(drop)     // the proxy closes the idle connection soon
	if !do(false) { // unless the close was detected before the attempt
		require.True(t, do(true))
	}
	require.EqualValues(t, 2, accepted.Load())
}

// Content-Length and Transfer-Encoding in a 2xx response to CONNECT are ignored, even if they are invalid (RFC 9110
// section 9.3.6). The bytes after the head are the target's.
func TestEarlyBytes(t *testing.T) {
	for _, framing := range []string{
		"", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
		"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
		"Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: x\r\nTransfer-Encoding: gzip\r\n",
	} {
		u := proxyAt(t, "http://me:secret@"+coretest.Serve(t, func(c net.Conn) {
			head := readRequest(c)
			if !strings.HasPrefix(head, "CONNECT a.test:443 HTTP/1.1\r\n") ||
				!strings.Contains(head, "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n") {
				io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+framing+"\r\nearly bytes")
			io.Copy(io.Discard, c)
		}))
		tr := New(Config{})
		tun, verr := tr.OpenTunnel(t.Context(), u, &Control{Deadline: time.Now().Add(plenty)}, "a.test:443")
		require.Nil(t, verr, framing)
		defer tun.Conn.Close()
		require.Zero(t, tun.Refused.Status, framing)
		rest := make([]byte, len("early bytes")-len(tun.Early))
		_, err := io.ReadFull(tun.Conn, rest)
		require.NoError(t, err, framing)
		assert.Equal(t, "early bytes", string(tun.Early)+string(rest), framing)
	}
}

// A web server may respond with 200 and a page to a CONNECT, too. It has opened no tunnel.
func TestAPageInPlaceOfATunnel(t *testing.T) {
	for response, isPage := range map[string]bool{
		"Content-Type: text/html; charset=utf-8\r\nContent-Length: 14\r\n\r\n<!doctype html": true,
		"content-type: TEXT/HTML\r\n\r\n\n <html>":                                           true,
		"Content-Type: text/html\r\n\r\nSSH-2.0-OpenSSH":                                     false,
		"Content-Type: text/plain\r\n\r\n<stream>":                                           false,
		"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nok":                            true,
		"Content-Length: 0\r\n\r\n220 smtp.test ESMTP\r\n":                                   false,
		"\r\n<stream>": false,
	} {
		u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+response)
			io.Copy(io.Discard, c)
		}))
		tr := New(Config{})
		tun, verr := tr.OpenTunnel(t.Context(), u, &Control{Deadline: time.Now().Add(plenty)}, "a.test:443")
		require.Equal(t, isPage, verr != nil, response)
		if isPage {
			require.Equal(t, verdict.ProxyProtocol, verr.Cause)
			continue
		}
		tun.Conn.Close()
	}
}

// scriptedConn is a connection that reads from in and records writes in out.
type scriptedConn struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (c *scriptedConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *scriptedConn) Write(p []byte) (int, error) { return c.out.Write(p) }

func TestSOCKS(t *testing.T) {
	address := upstream.Address{Scheme: upstream.SOCKS5, Host: "p.test:1080", Username: "me", Password: "secret"}
	ok := "\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
	c := &scriptedConn{in: strings.NewReader(ok + "early")}
	require.NoError(t, socksHandshake(c, address, "a.test:80", &tokenOffer{}))
	assert.Equal(t, "\x05\x02\x00\x02\x01\x02me\x06secret\x05\x01\x00\x03\x06a.test\x00\x50", c.out.String(),
		"the name is not resolved (RFC 1928, RFC 1929)")
	rest, _ := io.ReadAll(c.in)
	assert.Equal(t, "early", string(rest), "no further byte is read")
	for i := range len(ok) {
		assert.Error(t, socksHandshake(&scriptedConn{in: strings.NewReader(ok[:i])}, address, "a.test:80",
			&tokenOffer{}), "cut after %d bytes", i)
	}
	for name, reply := range map[string]string{
		"version 4": "\x04\x00", "no method": "\x05\xff", "a method not offered": "\x05\x01",
		"refused credentials": "\x05\x02\x01\x01",
		"a refusal":           "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00",
		"an unknown reply":    "\x05\x00\x05\x63\x00\x01\x00\x00\x00\x00\x00\x00",
		"an unknown address":  "\x05\x00\x05\x00\x00\x09\x00\x00",
	} {
		err := socksHandshake(&scriptedConn{in: strings.NewReader(reply)}, address, "a.test:80", &tokenOffer{})
		if assert.Error(t, err, name) {
			assert.NotContains(t, err.Error(), "secret")
		}
	}
}

// A reply that a target can cause is not charged to the proxy alone. Tor uses codes from 0xf0 for errors of targets.
func TestSOCKSReplies(t *testing.T) {
	for code, want := range map[byte]core.Cause{
		1: verdict.TunnelFailed, 2: verdict.TunnelRefused, 3: verdict.TargetUnreachable, 4: verdict.TargetUnreachable,
		5: verdict.TargetUnreachable, 6: verdict.TargetUnreachable, 7: verdict.ProxyProtocol, 8: verdict.TunnelFailed,
		9: verdict.TunnelFailed, 99: verdict.TunnelFailed, 0xf0: verdict.TunnelFailed, 0xff: verdict.TunnelFailed,
	} {
		replies := append([]byte{5, 0, 5, code, 0, 1}, make([]byte, 6)...)
		c := &scriptedConn{in: bytes.NewReader(replies)}
		err := socksHandshake(c, upstream.Address{Scheme: upstream.SOCKS5}, "a.test:80", &tokenOffer{})
		require.Equal(t, want, socksFailure(err).Cause, "code %d", code)
	}
}

func TestSOCKS4(t *testing.T) {
	address := upstream.Address{Scheme: upstream.SOCKS4, Host: "p.test:1080", Username: "me"}
	granted := "\x00\x5a\x00\x00\x00\x00\x00\x00"
	for authority, want := range map[string]string{
		"a.test:80":            "\x04\x01\x00\x50\x00\x00\x00\x01me\x00a.test\x00",
		"0.0.0.7:80":           "\x04\x01\x00\x50\x00\x00\x00\x01me\x000.0.0.7\x00",
		"192.0.2.7:443":        "\x04\x01\x01\xbb\xc0\x00\x02\x07me\x00",
		"[::ffff:192.0.2.7]:1": "\x04\x01\x00\x01\xc0\x00\x02\x07me\x00",
	} {
		c := &scriptedConn{in: strings.NewReader(granted + "early")}
		require.NoError(t, socksHandshake(c, address, authority, &tokenOffer{}))
		require.Equal(t, want, c.out.String(), authority)
		rest, _ := io.ReadAll(c.in)
		require.Equal(t, "early", string(rest), "no further byte is read")
	}
	for i := range len(granted) {
		require.Error(t, socksHandshake(&scriptedConn{in: strings.NewReader(granted[:i])}, address, "a.test:80",
			&tokenOffer{}))
	}
	password := address
	password.Password = "secret"
	for name, x := range map[string]struct {
		address          upstream.Address
		authority, reply string
		cause            core.Cause
	}{
		"rejected":     {address, "a.test:80", "\x00\x5b\x00\x00\x00\x00\x00\x00", verdict.TunnelFailed},
		"no identd":    {address, "a.test:80", "\x00\x5c\x00\x00\x00\x00\x00\x00", verdict.CredentialsRefused},
		"user refused": {address, "a.test:80", "\x00\x5d\x00\x00\x00\x00\x00\x00", verdict.CredentialsRefused},
		"unknown code": {address, "a.test:80", "\x00\x01\x00\x00\x00\x00\x00\x00", verdict.ProxyProtocol},
		"SOCKS5":       {address, "a.test:80", "\x05\xff\x00\x00\x00\x00\x00\x00", verdict.ProxyProtocol},
		"IPv6":         {address, "[2001:db8::1]:80", granted, verdict.TunnelFailed},
		"a password":   {password, "a.test:80", granted, verdict.CredentialsRefused},
	} {
		err := socksHandshake(&scriptedConn{in: strings.NewReader(x.reply)}, x.address, x.authority, &tokenOffer{})
		require.ErrorContains(t, err, "SOCKS4: ", name)
		require.NotContains(t, err.Error(), "secret")
		require.Equal(t, x.cause, socksFailure(err).Cause, name)
	}
}

func FuzzSOCKS(f *testing.F) {
	f.Add("\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50", "a.test:80")
	f.Add("\x05\x00\x05\x00\x00\x03\x06a.test\x00\x50", "[::1]:443")
	f.Add("\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "1.2.3.4:1")
	f.Add("\x05\xd7\x01\x00\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50", "a.test:80")
	f.Fuzz(func(t *testing.T, reply, authority string) {
		err := socksHandshake(&scriptedConn{in: strings.NewReader(reply)},
			upstream.Address{Username: "me", Password: "hunter2"}, authority, &tokenOffer{tokens: []byte("t")})
		socksHandshake(&scriptedConn{in: strings.NewReader(reply)}, upstream.Address{Scheme: upstream.SOCKS4},
			authority, &tokenOffer{})
		if err != nil && strings.Contains(err.Error(), "hunter2") && !strings.Contains(authority, "hunter2") {
			t.Fatal(err)
		}
	})
}

// Cancel ends the attempt at any time.
func TestInterrupt(t *testing.T) {
	tr := New(Config{})
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) { io.Copy(io.Discard, c) }))
	late := coretest.MeasureTimerDelay(t)
	for i := range 20 {
		c := &Control{Deadline: time.Now().Add(time.Minute)}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Duration(i) * 200 * time.Microsecond)
			cancel()
			c.Interrupt.Cancel()
		}()
		begun := time.Now()
		verr := tr.RoundTrip(ctx, u, c, getRequest(), &Response{})
		require.NotNil(t, verr)
		require.Less(t, time.Since(begun), 5*time.Second+late(), fmt.Sprint(i))
		cancel()
	}
}

// The read deadline of a response does not end the idle connection.
func TestReuseAfterDeadline(t *testing.T) {
	var opened atomic.Int32
	addr := coretest.Serve(t, func(c net.Conn) {
		opened.Add(1)
		for readRequest(c) != "" {
			if _, err := io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
				return
			}
		}
	})
	tr := New(Config{})
	defer tr.Close()
	u := proxyAt(t, "http://"+addr)
	var resp Response
	for range 3 {
		c := Control{Deadline: time.Now().Add(plenty)}
		require.Nil(t, tr.RoundTrip(context.Background(), u, &c, getRequest(), &resp))
		resp.Finish(&c, time.Now())
		time.Sleep(2*SlowAfter + 50*time.Millisecond) // longer than the deadline of a fast response
	}
	require.EqualValues(t, 1, opened.Load())
}
