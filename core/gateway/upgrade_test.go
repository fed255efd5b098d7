package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

const (
	upgradeTo = " HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Key: k\r\n\r\n"
	switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Mine: 1\r\n\r\n"
)

// switched reads the head of a 101 response.
func (c *client) switched() *http.Response {
	c.t.Helper()
	return c.head("GET", 101)
}

// After a 101 the connections are a tunnel. The tunnel first carries the bytes that arrived with the two heads. It
// carries the end of each direction separately. The request is recorded once, when the 101 has arrived.
func TestAnUpgrade(t *testing.T) {
	asked, said := make(chan *http.Request, 1), make(chan string, 1)
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		q, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		asked <- q
		io.WriteString(c, switched+"welcome ")
		hello := make([]byte, 11)
		io.ReadFull(b, hello)
		io.WriteString(c, "goodbye")
		c.(*net.TCPConn).CloseWrite()
		rest, _ := io.ReadAll(b)
		said <- string(hello) + string(rest)
	}, nil)
	for i, target := range []string{"http://a.test/ws?q", "ws://a.test/ws?q"} {
		c := r.ask("GET " + target + upgradeTo + "hello ")
		a := c.switched()
		require.Equal(t, http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "X-Mine": {"1"}, "X-Whirlpool-Attempts": {"1"},
			"X-Whirlpool-Outcome": {"success"}, "X-Whirlpool-Proxy-Id": {"P"},
			"X-Whirlpool-Request-Id": a.Header["X-Whirlpool-Request-Id"],
		}, a.Header)
		q := <-asked
		require.Equal(t, "http://a.test/ws?q", q.RequestURI)
		require.Equal(t, "a.test", q.Host)
		require.Equal(t, http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Key": {"k"},
		}, q.Header)
		require.Equal(t, 1, int(r.proxy.InFlight()))
		require.Len(t, r.recorded.Requests(), i+1, "recorded while the tunnel is open")
		c.send("world")
		all, err := io.ReadAll(c.r)
		require.NoError(t, err)
		require.Equal(t, "welcome goodbye", string(all))
		c.send("!")
		require.NoError(t, c.CloseWrite())
		require.Equal(t, "hello world!", <-said, "after the target's end")
		r.free()
	}
	require.Equal(t, []int64{2 * 12, 2 * 15}, []int64{r.recorded.up, r.recorded.down})
	require.Equal(t, []string{"success", "success"}, r.recorded.finals())
	require.Equal(t, []string{"success", "success"}, r.recorded.results())
	require.Equal(t, 101, r.recorded.Requests()[0].Status)
	require.Equal(t, 1.0, r.proxy.Stats().SuccessRate)
}

// Before the 101, the request is retried like any other. A client that leaves ends the tunnel.
func TestAnUpgradeIsRetried(t *testing.T) {
	tries := 0
	ended := make(chan struct{})
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(b); err != nil {
				return
			}
			if tries++; tries == 3 {
				break
			}
			io.WriteString(c, reply("503 Busy", ""))
		}
		io.WriteString(c, switched)
		io.Copy(io.Discard, b)
		close(ended)
	}, func(o *options) { o.policy = func(p *retry.Policy) { p.MaxAttempts, p.BaseDelay = 3, 0.1 } })
	c := r.ask("GET http://a.test/ws" + upgradeTo)
	require.Equal(t, "3", c.switched().Header.Get("X-Whirlpool-Attempts"))
	c.Close()
	<-ended
	r.free()
	require.Equal(t, []string{"failure", "failure", "success"}, r.recorded.results())
}

func TestARefusedUpgrade(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		return reply("426 Upgrade Required", q.Header.Get("Upgrade"))
	}), nil)
	c := r.ask("GET http://a.test/ws" + upgradeTo)
	a, body := c.answer("GET")
	require.Equal(t, 426, a.StatusCode)
	require.Equal(t, "websocket", body)
	c.goesOn()
}

// The Upgrade field is sent with a body of up to 16 KiB, which the target has received before it responds. It
// is not sent with a longer body, because the target could treat bytes of the body as bytes of the new
// protocol.
func TestAnUpgradeWithABody(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, body string) string {
		return ok(q.Header.Get("Upgrade") + " " + strings.ToUpper(body[:1]))
	}), func(o *options) { o.ReplayLimit = 64 << 10 })
	for size, want := range map[int]string{1: "tcp X", 16 << 10: "tcp X", 16<<10 + 1: " X", 100 << 10: " X"} {
		c := r.dial()
		c.send("POST http://a.test/attach HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" +
			"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
		require.Equal(t, "HTTP/1.1 100 Continue", c.line())
		require.Empty(t, c.line())
		for left := size; left > 0; left -= 4 << 10 {
			n := min(left, 4<<10)
			c.send(chunk(strings.Repeat("x", n)))
		}
		c.send("0\r\n\r\n")
		a, body := c.answer("POST")
		require.Equal(t, 200, a.StatusCode)
		require.Equal(t, want, body, size)
	}
}

func TestAnUpgradeAfterABody(t *testing.T) {
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		q, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(q.Body)
		io.WriteString(c, switched+string(body))
		io.Copy(c, b)
	}, nil)
	c := r.ask("POST http://a.test/attach HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n" +
		"Content-Length: 4\r\n\r\nbodyearly")
	c.switched()
	require.Equal(t, "body", string(take(t, c, 4)))
	require.Zero(t, r.replay.Used(), "the tunnel keeps no body")
	require.NoError(t, c.CloseWrite())
	all, err := io.ReadAll(c.r)
	require.NoError(t, err)
	require.Equal(t, "early", string(all))
	r.free()
}

// A 101 to a request without Upgrade, or with a protocol that the request did not offer, is an invalid
// response.
func TestAnUnexpected101(t *testing.T) {
	for _, c := range []struct{ fields, response string }{
		{"", switched},
		{"Upgrade: websocket\r\n", switched},
		{"Connection: Upgrade\r\nUpgrade: h2c\r\n", strings.ReplaceAll(switched, "websocket", "h2c")},
		{"Connection: Upgrade\r\nUpgrade: websocket\r\n", strings.ReplaceAll(switched, "websocket", "other")},
		{"Connection: Upgrade\r\nUpgrade: websocket\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n"},
	} {
		r := newRig(t, answering(func(*http.Request, string) string { return c.response }), nil)
		a, body := r.ask("GET http://a.test/ws HTTP/1.1\r\nHost: a.test\r\n" + c.fields + "\r\n").answer("GET")
		require.Equal(t, 502, a.StatusCode, c)
		require.Contains(t, body, "101 Switching Protocols", c)
	}
	r := newRig(t, answering(func(q *http.Request, _ string) string { return ok(q.Header.Get("Upgrade")) }), nil)
	_, body := r.ask("GET http://a.test/ HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").answer("GET")
	require.Empty(t, body)
}

func chunk(s string) string { return string(appendPiece(nil, []byte(s), true)) }

func TestAnUpgradeEndsWithTheGateway(t *testing.T) {
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		http.ReadRequest(b)
		io.WriteString(c, switched)
		io.Copy(io.Discard, b)
	}, nil)
	c := r.ask("GET http://a.test/ws" + upgradeTo)
	c.switched()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	r.Shutdown(over)
	_, err := c.r.ReadByte()
	require.Error(t, err)
	r.free()
	require.Equal(t, []string{"success"}, r.recorded.results())
}

// take reads n bytes.
func take(t *testing.T, c *client, n int) []byte {
	b := make([]byte, n)
	_, err := io.ReadFull(c.r, b)
	require.NoError(t, err)
	return b
}
