package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// cuttingProxy is a proxy whose tunnels lead to the server at the given address. If the function cuts returns true for
// the number of a tunnel and its target, the proxy ends the tunnel after 5,000 bytes of the server.
func cuttingProxy(t *testing.T, server string, cuts func(tunnel int64, target string) bool) string {
	var tunnels atomic.Int64
	return coretest.Serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		defer s.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(s, r)
		if cuts(tunnels.Add(1), q.Host) {
			io.CopyN(c, s, 5000)
			return
		}
		io.Copy(c, s)
	})
}

// fetchLongPage opens a tunnel and reads a page of 20,000 bytes over TLS. If the parameter most is not 0,
// fetchLongPage closes the tunnel after this number of bytes. It returns the number of bytes that it has read.
func fetchLongPage(t *testing.T, w *whirl, target string, most int64) int64 {
	c, err := net.Dial("tcp", w.gateway)
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	r := bufio.NewReader(c)
	a, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	require.NoError(t, err)
	require.Equal(t, 200, a.StatusCode)
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	fmt.Fprint(tc, "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n")
	if most > 0 {
		n, _ := io.CopyN(io.Discard, tc, most)
		return n
	}
	n, _ := io.Copy(io.Discard, tc)
	return n
}

// longPage returns the address of a server with a page of 20,000 bytes over TLS.
func longPage(t *testing.T) string {
	site := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		io.WriteString(rw, strings.Repeat("x", 20_000))
	}))
	t.Cleanup(site.Close)
	return site.Listener.Addr().String()
}

// A proxy cuts two of three TLS tunnels. Its breaker opens, except with blame = "literal".
func TestS121AProxyThatCutsTLS(t *testing.T) {
	for _, literal := range []bool{false, true} {
		t.Run(fmt.Sprint("literal ", literal), func(t *testing.T) {
			t.Parallel()
			site, config := longPage(t), roundRobin+notAdaptive
			if literal {
				config += "[breaker]\nblame = \"literal\"\n"
			}
			for i := range 4 {
				cuts := func(n int64, _ string) bool { return i == 0 && n%3 != 0 }
				proxy := cuttingProxy(t, site, cuts)
				config += fmt.Sprintf("[[proxies]]\nid = \"P%d\"\nurl = \"http://%s\"\n", i+1, proxy)
			}
			w := start(t, 0, config)
			const most = 150
			tunnels, cut := 0, 0
			for ; tunnels < most && w.breaker("P1")["state"] == "closed"; tunnels++ {
				if fetchLongPage(t, w, "site.test:443", 0) < 20_000 {
					cut++
				}
			}
			t.Logf("%d tunnels, %d cut", tunnels, cut)
			require.GreaterOrEqual(t, cut, 5)
			if literal {
				require.Equal(t, map[string]int{"closed": 4}, w.breakerStates())
				return
			}
			require.Equal(t, map[string]int{"closed": 3, "open": 1}, w.breakerStates())
			require.Contains(t, fmt.Sprint(w.breaker("P1")["why"]), "tunnel_cut")
		})
	}
}

// One of three targets cuts its TLS sessions through each proxy, and clients leave before the end. No breaker opens.
func TestS121ATargetThatCutsTLS(t *testing.T) {
	t.Parallel()
	site, config := longPage(t), roundRobin+notAdaptive
	for i := range 4 {
		cuts := func(_ int64, target string) bool { return target == "bad.test:443" }
		config += fmt.Sprintf("[[proxies]]\nid = \"P%d\"\nurl = \"http://%s\"\n", i+1, cuttingProxy(t, site, cuts))
	}
	w := start(t, 0, config)
	for range 25 {
		for range 4 { // each proxy gets each target
			require.Less(t, fetchLongPage(t, w, "bad.test:443", 0), int64(20_000))
		}
		for range 4 {
			require.Greater(t, fetchLongPage(t, w, "good.test:443", 0), int64(20_000))
		}
		for range 4 {
			fetchLongPage(t, w, "left.test:443", 1000)
		}
	}
	w.awaitIdle()
	require.Equal(t, map[string]int{"closed": 4}, w.breakerStates())
	require.Contains(t, w.log.String(), "tunnel cut")
	for line := range strings.Lines(w.log.String()) {
		require.False(t, strings.Contains(line, "tunnel cut") && !strings.Contains(line, "bad.test"), line)
	}
}
