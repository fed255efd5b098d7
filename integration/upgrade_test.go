package integration

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// echoServer starts a WebSocket server (python3-websockets) that sends a greeting and then sends each message
// back. It sends the greeting at once, so the greeting often arrives in one packet with the 101.
func echoServer(t *testing.T) (address string) {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", "-u", "-c", `
import asyncio, websockets
async def echo(ws):
    await ws.send("welcome")
    async for m in ws:
        await ws.send(m)
async def main():
    server = await websockets.serve(echo, "127.0.0.1", 0, max_size=None)
    print("port", server.sockets[0].getsockname()[1])
    await asyncio.Future()
asyncio.run(main())`)
	var out coretest.Log
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var port [][]byte
	eventually(t, "the server listens", func() bool {
		port = regexp.MustCompile(`port (\d+)\n`).FindSubmatch([]byte(out.String()))
		return port != nil
	})
	return "127.0.0.1:" + string(port[1])
}

// websocketClient is a client (python3-websockets). It sends its handshake in absolute form to a proxy, compares the
// messages that come back, and closes the WebSocket with a close frame.
const websocketClient = `
import asyncio, os, sys, websockets
gateway, url = sys.argv[1].split(":"), sys.argv[2]
class Absolute(websockets.WebSocketClientProtocol):
    def write_http_request(self, path, headers):
        super().write_http_request(url, headers)
async def main():
    plain = "ws://" + url.split("://")[1]
    async with websockets.connect(plain, create_protocol=Absolute, max_size=None,
                                  host=gateway[0], port=int(gateway[1])) as ws:
        assert await ws.recv() == "welcome"
        for message in ["short", os.urandom(3_000_000), "last"]:
            await ws.send(message)
            assert await ws.recv() == message
        print(ws.response_headers["X-Whirlpool-Attempts"], "attempts")
    assert ws.close_code == 1000
asyncio.run(main())`

// websocket runs the client and returns its output.
func websocket(t *testing.T, gateway, url string) string {
	t.Helper()
	out, err := exec.Command("/usr/bin/python3", "-c", websocketClient, gateway, url).CombinedOutput()
	require.NoError(t, err, "%s: %s", url, out)
	return string(out)
}

// A WebSocket whose handshake is in absolute form works with each kind of proxy and both schemes of targets.
func TestS89WebSockets(t *testing.T) {
	echo := echoServer(t)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Host = echo }}
	proxy, tlsProxy := httptest.NewServer(forward), httptest.NewTLSServer(forward)
	secure := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", echo
	}})
	for _, s := range []*httptest.Server{proxy, tlsProxy, secure} {
		t.Cleanup(s.Close)
	}
	tunnels := func(status int) *lab.Proxy { // responds with the status to requests in absolute form
		p, err := lab.Start("tunnels", "127.0.0.1:0", func(_ int, q *http.Request) lab.Behaviour {
			if q.Method == http.MethodConnect {
				return lab.Behaviour{TunnelTo: echo}
			}
			return lab.Status(status)
		})
		require.NoError(t, err)
		t.Cleanup(p.Close)
		return p
	}
	strips, connectOnly := tunnels(http.StatusUpgradeRequired), tunnels(http.StatusMethodNotAllowed)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: secure.Certificate().Raw}), 0o600))
	t.Setenv("SSL_CERT_FILE", roots)
	for _, c := range []struct{ upstream, url string }{
		{proxy.URL, "http://site.test/ws"},
		{proxy.URL, "ws://site.test/ws"},
		{tlsProxy.URL, "ws://site.test/ws"},
		{"http://" + strips.Addr, "ws://site.test/ws"},
		{"http://" + connectOnly.Addr, "ws://site.test/ws"},
		{"socks5h://u:p@" + socks(t, echo), "ws://site.test/ws"},
		{"socks5h://u:p@" + socks(t, secure.Listener.Addr().String()), "wss://example.com/ws"},
		{"direct://", "ws://" + echo + "/ws"},
		{"direct://", "wss://" + secure.Listener.Addr().String() + "/ws"},
	} {
		w := start(t, 0, allowLoopback+"[[proxies]]\nurl = \""+c.upstream+"\"\n")
		require.Contains(t, websocket(t, w.gateway, c.url), "1 attempts")
		for _, direction := range []string{"up", "down"} {
			eventually(t, "the bytes are counted, "+c.upstream, func() bool {
				return strings.Contains(w.scrape(), `tunnel_bytes_total{direction="`+direction+`"} 3.00`)
			})
		}
		require.EqualValues(t, 1, w.getJSON("/metrics/retries")["total_requests"])
		w.reconcile(1) // because one attempt was through a proxy that is not in w.fakes
	}
}

// A handshake is retried through other proxies until the 101.
func TestS90AWebSocketIsRetried(t *testing.T) {
	echo := echoServer(t)
	forward := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Host = echo },
	})
	t.Cleanup(forward.Close)
	w := start(t, 2, confK+roundRobin+"[[proxies]]\nurl = \""+forward.URL+"\"\n")
	w.setAll(lab.Status(503))
	for range 3 {
		websocket(t, w.gateway, "http://site.test/ws")
	}
	s := w.getJSON("/metrics/retries")
	require.EqualValues(t, 3, s["total_requests"])
	require.Greater(t, w.arrivals(), 0)
	require.EqualValues(t, w.arrivals(), s["total_retries"])
	w.reconcile(3)
}

// A handshake is not hedged, because a hedge would open a second WebSocket.
func TestS90AWebSocketIsNotHedged(t *testing.T) {
	w := start(t, 2, roundRobin+"[retry]\nhedge = 0.05\nhedge_budget = 1.0\n[timeouts]\nadaptive = false\n")
	w.setAll(lab.Slow(2 * time.Second))
	require.Equal(t, 200, w.get().status)
	require.Equal(t, 2, w.arrivals(), "a GET is hedged")
	require.Equal(t, 200, w.get("Connection", "Upgrade", "Upgrade", "websocket").status)
	require.Equal(t, 3, w.arrivals())
}
