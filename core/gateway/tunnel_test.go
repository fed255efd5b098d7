package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// A tunnel carries the bytes of both sides, beginning with those after the CONNECT and after its response. It carries
// the end of each direction separately.
func TestATunnelForwardsAllBytes(t *testing.T) {
	said := make(chan string, 1)
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		q, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nwelcome ")
		if q.Host == "patient.test:443" {
			all, _ := io.ReadAll(b)
			said <- string(all)
			io.WriteString(c, "goodbye")
			return
		}
		io.WriteString(c, "goodbye")
		c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(b)
		said <- string(all)
	}, nil)
	heard := func(c *client) string {
		all, err := io.ReadAll(c.r)
		require.NoError(t, err)
		return string(all)
	}
	c := r.ask("CONNECT patient.test:443 HTTP/1.1\r\nHost: patient.test:443\r\n\r\nhello ")
	require.Equal(t, "1", c.established().Header.Get("X-Whirlpool-Attempts"))
	c.send("world")
	require.NoError(t, c.CloseWrite())
	require.Equal(t, "hello world", <-said)
	require.Equal(t, "welcome goodbye", heard(c), "after the client's end")
	r.free()

	c = r.ask("CONNECT hasty.test:443 HTTP/1.1\r\nHost: hasty.test:443\r\n\r\nhello ")
	c.established()
	require.Equal(t, "welcome goodbye", heard(c))
	c.send("world")
	require.NoError(t, c.CloseWrite())
	require.Equal(t, "hello world", <-said, "after the target's end")
	r.free()

	require.Equal(t, []int64{2 * 11, 2 * 15}, []int64{r.recorded.up, r.recorded.down})
	require.Equal(t, []string{"success", "success"}, r.recorded.finals())
	require.Equal(t, 1.0, r.proxy.Stats().SuccessRate)
}

func TestATunnelCopiesMegabytesInTheKernel(t *testing.T) {
	const size = 8 << 20
	r := newRig(t, tunnelling(func(c net.Conn, b *bufio.Reader) {
		io.Copy(c, b) // echo
	}), nil)
	client := r.connect()
	sent := strings.Repeat("whirlpool", size/9)
	go func() {
		io.WriteString(client, sent)
		client.CloseWrite()
	}()
	got, err := io.ReadAll(client.r)
	require.NoError(t, err)
	require.True(t, sent == string(got))
	r.free()
	require.EqualValues(t, len(sent), r.recorded.up)
	require.EqualValues(t, len(sent), r.recorded.down)
}

// The refusal of a CONNECT by a proxy reaches the client like any other response, and the connection
// continues.
func TestARefusedConnect(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		return "HTTP/1.1 403 Not here\r\nX-Why: policy\r\nConnection: X-Gone\r\nX-Gone: 1\r\nContent-Length: 4\r\n" +
			"\r\nnope"
	}), nil)
	c := r.dial()
	for range 2 {
		c.send(connectTo)
		a, body := c.answer("GET") // so that the body of the refusal is read
		require.Equal(t, "403 Not here", a.Status)
		require.Equal(t, "nope", body)
		require.Equal(t, "policy", a.Header.Get("X-Why"))
		require.Empty(t, a.Header.Get("X-Gone"))
		require.Equal(t, "whirlpool; received-status=403; next-hop=\"P\"", a.Header.Get("Proxy-Status"))
		require.False(t, a.Close)
	}
	c.goesOn()
	c.send("CONNECT a.test:443 HTTP/1.0\r\n\r\n")
	a, _ := c.answer("GET")
	require.True(t, a.Close)
	c.ended()
	r.free()
}

// If a tunnel ends before the target's first byte, the proxy is charged. There are two exceptions: the
// client left, or neither side had sent anything for the time of an attempt.
func TestTheChargeOfATunnelsEnd(t *testing.T) {
	type sides struct {
		t      *testing.T
		proxy  *net.TCPConn
		client *client
		later  func() // advances the time by an attempt timeout
		stop   func() // ends the gateway's grace period
	}
	heard := func(s sides) { // waits until the proxy has read the client's bytes
		s.client.send("hello")
		_, err := io.ReadFull(s.proxy, make([]byte, 5))
		require.NoError(s.t, err)
	}
	for name, c := range map[string]struct {
		happens  func(s sides) // ends the tunnel
		failures int
		samples  int // number of attempts in the proxy's statistics
	}{
		"the proxy closes at once": {func(s sides) { s.proxy.Close() }, 1, 1},
		"it closes when asked":     {func(s sides) { heard(s); s.proxy.Close() }, 1, 1},
		"it resets when asked":     {func(s sides) { heard(s); s.proxy.SetLinger(0); s.proxy.Close() }, 1, 1},
		"it resets in between": {func(s sides) {
			go func() {
				for err := error(nil); err == nil; {
					_, err = s.client.Write(make([]byte, 64<<10))
				}
			}()
			_, err := io.ReadFull(s.proxy, make([]byte, 1<<20))
			require.NoError(s.t, err)
			s.proxy.SetLinger(0)
			s.proxy.Close()
		}, 1, 1},
		"it answers nothing":     {func(s sides) { heard(s); s.later(); s.proxy.Close() }, 1, 1},
		"what is idle is closed": {func(s sides) { s.later(); s.proxy.Close() }, 0, 0},
		"of a ClientHello comes only a part": {func(s sides) {
			s.client.send("\x16\x03\x01\x02\x00")
			_, err := io.ReadFull(s.proxy, make([]byte, 5))
			require.NoError(s.t, err)
			s.later()
			s.proxy.Close()
		}, 0, 0},
		"a part of a ClientHello, and at once": {func(s sides) {
			s.client.send("\x16\x03\x01\x02\x00")
			_, err := io.ReadFull(s.proxy, make([]byte, 5))
			require.NoError(s.t, err)
			s.proxy.Close()
		}, 1, 1},
		"the gateway stops": {func(s sides) { heard(s); s.stop() }, 0, 0},
		"the client leaves": {func(s sides) { heard(s); s.client.Close(); io.ReadAll(s.proxy); s.proxy.Close() },
			0, 0},
		"bytes came back": {func(s sides) {
			io.WriteString(s.proxy, "hello")
			s.proxy.Close()
			all, err := io.ReadAll(s.client.r)
			require.NoError(s.t, err)
			require.Equal(s.t, "hello", string(all))
			s.client.Close()
		}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ahead atomic.Int64
			proxy, over := make(chan *net.TCPConn), make(chan struct{})
			defer close(over)
			r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) {
				proxy <- c.(*net.TCPConn)
				<-over
			}), func(o *options) { o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } })
			client := r.connect()
			c.happens(sides{t, <-proxy, client, func() { ahead.Store(int64(2 * patience)) }, func() {
				over, cancel := context.WithCancel(context.Background())
				cancel()
				r.Shutdown(over)
			}})
			r.eventually("it is over", func() bool { return r.proxy.InFlight() == 0 })
			require.Equal(t, c.failures, r.proxy.Breaker().Snapshot().FailureCount)
			require.Equal(t, c.samples, r.proxy.Stats().Samples)
		})
	}
}

func TestADirectTunnelIsChargedToNoProxy(t *testing.T) {
	target := coretest.Serve(t, func(c net.Conn) { c.Read(make([]byte, 1)) }) // then closes
	r := newRig(t, nil, func(o *options) { o.url = "direct://" })
	c := r.ask("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
	c.established()
	c.send("x")
	c.ended()
	c = r.ask("GET http://" + target + "/ HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
	a, _ := c.answer("GET")
	require.Equal(t, 502, a.StatusCode)
	c.Close()
	r.free()
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount)
	require.Zero(t, r.proxy.Stats().Samples)
}

// A tunnel is closed without a wait for a proxy that does not read. The close alert of TLS would wait.
func TestATunnelIsClosedWithoutAWait(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	near, far := coretest.Pair(t)
	go tls.Server(far, certified.TLS).Handshake()
	tcp := socket.Wrap(near)
	way := tls.Client(tcp, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, way.Handshake())
	near.SetWriteBuffer(64 << 10) // so that the buffer does not grow any more
	far.SetReadBuffer(4 << 10)
	for range 3 { // until the buffer is full
		tcp.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := tcp.Write(make([]byte, 64<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}

	client, _ := coretest.Pair(t)
	c := newConnection(t.Context(), client, time.Now, new(atomic.Bool))
	c.tunnel.Store(&transport.Tunnel{Conn: way})
	begun, late := time.Now(), coretest.MeasureTimerDelay(t)
	c.abort()
	require.Less(t, time.Since(begun), 4*time.Second+late()) // crypto/tls waits for 5 s
}

// While both sides of a tunnel are open, it may stall for any time, also if its client does not read.
func TestAnIdleTunnelStaysOpen(t *testing.T) {
	const size, idle = 64 << 10, 20 * time.Millisecond
	over := make(chan struct{})
	r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) {
		c.Write(make([]byte, size))
		<-over
	}), func(o *options) { o.BodyIdle = idle })
	near, far := coretest.Pair(t)
	near.SetWriteBuffer(4 << 10)
	far.SetReadBuffer(4 << 10)
	go r.serveConn(near)
	io.WriteString(far, connectTo)
	c := &client{far, t, bufio.NewReader(far)}
	c.established()
	time.Sleep(10 * idle) // for this time the client reads nothing
	_, err := io.ReadFull(c.r, make([]byte, size))
	require.NoError(t, err)
	close(over)
	_, err = c.r.ReadByte()
	require.Equal(t, io.EOF, err)
	c.CloseWrite()
	r.eventually("it is over", func() bool { return r.proxy.InFlight() == 0 })
}

// When one side of a tunnel has ended, the other side may stall for at most body_idle, because a peer that
// has left cannot be distinguished from a peer that only reads.
func TestAHalfClosedTunnelMayStallForBodyIdle(t *testing.T) {
	const idle = 50 * time.Millisecond
	for name, end := range map[string]func(c *client, proxy *net.TCPConn){
		"the client left": func(c *client, _ *net.TCPConn) { c.Close() },
		"the target left": func(c *client, proxy *net.TCPConn) { io.WriteString(proxy, "bye"); proxy.CloseWrite() },
		"the client has no more to say and takes nothing": func(c *client, proxy *net.TCPConn) {
			c.CloseWrite()
			proxy.SetWriteDeadline(time.Now().Add(patience))
			for err := error(nil); err == nil; {
				_, err = proxy.Write(make([]byte, 64<<10))
			}
		},
		"the target has no more to say and takes nothing": func(c *client, proxy *net.TCPConn) {
			proxy.CloseWrite()
			for err := error(nil); err == nil; {
				_, err = c.Write(make([]byte, 64<<10))
			}
		},
		"the target takes nothing and has no more to say": func(c *client, proxy *net.TCPConn) {
			c.fill(4 * idle) // and the tunnel stalls for a while
			proxy.CloseWrite()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy, over := make(chan *net.TCPConn), make(chan struct{})
			defer close(over)
			r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) {
				proxy <- c.(*net.TCPConn)
				<-over
			}), func(o *options) { o.BodyIdle = idle })
			c := r.connect()
			time.Sleep(4 * idle) // both sides are connected, so the tunnel may stall
			require.Equal(t, 1, r.Connections())
			end(c, <-proxy)
			r.free()
		})
	}

	late := coretest.MeasureTimerDelay(t)
	for limit := 20 * idle; ; limit *= 4 {
		r := newRig(t, tunnelling(func(c net.Conn, b *bufio.Reader) {
			io.Copy(io.Discard, b)
			for range 12 { // longer than a side may stall
				time.Sleep(limit / 10)
				c.Write([]byte("x"))
			}
		}), func(o *options) { o.BodyIdle = limit })
		c := r.connect()
		c.CloseWrite()
		all, err := io.ReadAll(c.r)
		require.NoError(t, err)
		if len(all) < 12 && late() > limit/2 { // the machine was too busy for the proxy to write in time
			continue
		}
		require.Equal(t, 12, len(all), "it does not stand still")
		break
	}
}

func TestATunnelAndAReload(t *testing.T) {
	proxy, over := make(chan net.Conn, 1), make(chan struct{})
	r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) { proxy <- c; <-over }), nil)
	c := r.connect()
	r.Apply(Settings{BodyIdle: time.Nanosecond})
	c.CloseWrite()
	target := <-proxy
	_, err := target.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	time.Sleep(50 * time.Millisecond) // the tunnel stalls for this time
	io.WriteString(target, "hello")
	close(over)
	all, err := io.ReadAll(c.r)
	require.NoError(t, err)
	require.Equal(t, "hello", string(all))
}

// taking is a writer that accepts a limited number of bytes.
type taking struct {
	net.Conn
	room atomic.Int32
}

func (t *taking) Write(p []byte) (int, error) {
	if room := int(t.room.Load()); len(p) > room {
		t.Conn.Write(p[:room])
		return room, io.ErrClosedPipe
	}
	return t.Conn.Write(p)
}

// Only those bytes after a CONNECT that were written are counted. If the target accepts no more of these
// bytes, the tunnel ends.
func TestOnlyWrittenEarlyBytesAreCounted(t *testing.T) {
	way := &taking{}
	way.room.Store(1 << 10)
	passed := make(chan string, 1)
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		http.ReadRequest(b)
		way.room.Store(5)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		all, _ := io.ReadAll(b)
		passed <- string(all)
	}, func(o *options) {
		o.dial = func(ctx context.Context, network, address string) (c net.Conn, err error) {
			way.Conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return way, err
		}
	})
	c := r.ask(connectTo + "hello, world")
	c.established()
	require.Equal(t, "hello", <-passed)
	r.free()
	require.EqualValues(t, 5, r.recorded.up)
}

func TestEarlyBytesWithoutATunnel(t *testing.T) {
	asked := make(chan string, 10)
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		asked <- q.Method
		return reply("403 No", "forbidden")
	}), nil)
	c := r.ask(connectTo + "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	a, _ := c.answer("CONNECT")
	require.Equal(t, 403, a.StatusCode)
	require.True(t, a.Close)
	c.ended()
	require.Equal(t, "CONNECT", <-asked)
	require.Empty(t, asked)
}
