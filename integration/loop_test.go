package integration

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// quickRetries has short waits and is otherwise the default. With blame = "literal" no loop is
// detected.
const quickRetries = "[retry]\nbackoff_strategy = \"fixed\"\nbase_delay = 0.1\n"

// relay forwards TCP connections to an address, as a NAT or a load balancer does. It counts them.
func relay(t *testing.T, to string) (address string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	connections = new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if connections.Add(1) > 100 { // the test fails instead of the machine
				c.Close()
				continue
			}
			go func() {
				defer c.Close()
				up, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer up.Close()
				go io.Copy(up, c)
				io.Copy(c, up)
			}()
		}
	}()
	return l.Addr().String(), connections
}

// requireLoop sends a request through w, whose only proxies lead back to w, and expects a 508 from w.
func requireLoop(t *testing.T, w *whirl) {
	t.Helper()
	r, body := sendRaw(t, w.gateway, "GET http://a.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, 508, r.StatusCode, body)
	require.Contains(t, body, `{"error":"loop_detected"`)
	require.Equal(t, "loop_detected", r.Header.Get("X-Whirlpool-Outcome"))
	require.Contains(t, r.Header.Get("Proxy-Status"), "error=proxy_loop_detected")
	r, body = sendRaw(t, w.gateway, "POST http://a.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
	require.Equal(t, 508, r.StatusCode, body)
	status, header, _ := w.connect("a.test:443")
	require.Equal(t, 508, status)
	require.Equal(t, "loop_detected", header.Get("X-Whirlpool-Outcome"))
}

// A gateway lists itself under the address of a relay.
func TestS117AGatewayBehindARelayListsItself(t *testing.T) {
	t.Parallel()
	for _, config := range []string{quickRetries, "[health]\nreachability = false\n"} {
		w := start(t, 0, config)
		back, connections := relay(t, w.gateway)
		w.writeConfig(config + "[[proxies]]\nid = \"back\"\nurl = \"http://" + back + "\"\n")
		eventually(t, "the pool is loaded", func() bool { return len(w.getJSON("/proxies")["proxies"].([]any)) == 1 })
		requireLoop(t, w)
		require.LessOrEqual(t, connections.Load(), int64(6))
		require.Positive(t, w.breaker("back")["failure_count"], "charged to the proxy that leads back")
		eventually(t, "the log says so", func() bool { return strings.Contains(w.log.String(), "a request came back") })
		w.fakes = append(w.fakes, startFake(t)) // w now also has a good proxy, so every request succeeds
		w.writeConfig(config + roundRobin + "[[proxies]]\nid = \"back\"\nurl = \"http://" + back + "\"\n")
		eventually(t, "the pool is loaded", func() bool { return len(w.getJSON("/proxies")["proxies"].([]any)) == 2 })
		for range 4 {
			require.Equal(t, 200, w.get().status)
		}
	}
}

// startFake starts a fake that responds with 200.
func startFake(t *testing.T) *lab.Proxy {
	t.Helper()
	f, err := lab.Start("F1", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

// Two gateways list each other as proxies, and three gateways list one another in a ring, as HTTP or SOCKS5 proxies.
func TestS118GatewaysThatListEachOther(t *testing.T) {
	t.Parallel()
	for name, ring := range map[string][]string{
		"two": {"http", "http"}, "three": {"http", "http", "http"}, "two by SOCKS5": {"socks5", "socks5h"},
		"three by SOCKS5": {"socks5", "socks5", "socks5"}, "mixed": {"socks5", "http", "socks5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listEachOther(t, ring)
		})
	}
}

// listEachOther sends requests through gateways of which each lists the next one, and the last one the first. ring has
// the schemes of the proxies.
func listEachOther(t *testing.T, ring []string) {
	t.Helper()
	n := len(ring)
	all := make([]*whirl, n)
	links := make([]*atomic.Int64, n)
	for i := range all {
		all[i] = start(t, 0, quickRetries)
	}
	for i, w := range all {
		var next string
		next, links[i] = relay(t, all[(i+1)%n].gateway)
		w.writeConfig(quickRetries + fmt.Sprintf("[[proxies]]\nid = \"next\"\nurl = \"%s://%s\"\n", ring[i], next))
	}
	for _, w := range all {
		eventually(t, "the pool is loaded", func() bool { return len(w.getJSON("/proxies")["proxies"].([]any)) == 1 })
	}
	requireLoop(t, all[0])
	for _, link := range links {
		require.LessOrEqual(t, link.Load(), int64(6))
	}
}

// Each request and each CONNECT to a proxy has the token, and no target gets it. A value that a client sends
// has no effect, and the tokens of other gateways are sent on.
func TestS119TheTokenStaysBetweenProxies(t *testing.T) {
	t.Parallel()
	const other = "00112233445566778899aabbccddeeff"
	w := start(t, 1, quickRetries)
	require.Equal(t, 200, w.get("Proxy-Loop", other, "Connection", "Proxy-Loop").status)
	require.Equal(t, 200, w.get("Proxy-Loop", "nonsense").status)
	w.connect("a.test:443") // the fake refuses it
	arrivals := w.sortedArrivals()
	require.Greater(t, len(arrivals), 2)
	require.Equal(t, other+", ", arrivals[0].Header.Get("Proxy-Loop")[:34])
	for _, a := range arrivals {
		token := strings.TrimPrefix(a.Header.Get("Proxy-Loop"), other+", ")
		require.Len(t, token, 32)
		require.Equal(t, a.Method != "CONNECT", a.Header.Get("Connection") == "Proxy-Loop")
	}

	origin, err := lab.Start("origin", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(origin.Close)
	bySOCKS := "socks5h://u:p@" + socks(t, origin.Addr)
	for proxy, to := range map[string]string{"direct://": origin.Addr, bySOCKS: "a.test"} {
		w := start(t, 0, quickRetries+allowLoopback+"[[proxies]]\nurl = \""+proxy+"\"\n")
		r, body := sendRaw(t, w.gateway, "GET http://"+to+"/ HTTP/1.1\r\nHost: x\r\nProxy-Loop: "+other+
			"\r\n\r\n")
		require.Equal(t, 200, r.StatusCode, body)
	}
	require.Len(t, origin.Arrivals(), 2)
	for _, a := range origin.Arrivals() {
		require.Empty(t, a.Header.Get("Proxy-Loop"))
		require.Empty(t, a.Header.Get("Connection"))
	}
}

// A relay that removes hop-by-hop fields, as an HTTP proxy does, adds a Via. The Via shows the loop.
func TestS120ALoopThroughAnotherProxyShowsInVia(t *testing.T) {
	t.Parallel()
	w := start(t, 1, quickRetries)
	via := strings.TrimSuffix(strings.Repeat("1.1 relay, ", 8), ", ")
	r, _ := sendRaw(t, w.gateway, "GET http://a.test/ HTTP/1.1\r\nHost: x\r\nVia: "+via+"\r\n\r\n")
	require.Equal(t, 508, r.StatusCode)
	r, _ = sendRaw(t, w.gateway, "GET http://a.test/ HTTP/1.1\r\nHost: x\r\nVia: "+via[11:]+"\r\n\r\n")
	require.Equal(t, 200, r.StatusCode)
}
