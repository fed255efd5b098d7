package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// S157: the trailers of a request reach the target through HTTP and SOCKS5 proxies and without a proxy. This is true
// for a body that is kept and for one that is streamed, and for a retry after a 503. The trailers of the response
// reach Go's client, curl and POST /request.
func TestS157Trailers(t *testing.T) {
	t.Parallel()
	var failures atomic.Int32
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		if failures.Add(-1) >= 0 {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("Trailer", "X-Down")
		fmt.Fprint(w, len(body), " ", q.Trailer)
		w.Header().Set("X-Down", "2")
	}))
	t.Cleanup(site.Close)
	address := site.Listener.Addr().String()
	forward := coretest.Serve(t, func(c net.Conn) { forwardTo(c, address) })
	for upstream, url := range map[string]string{
		"http://" + forward:                  "http://site.test/",
		"socks5h://u:p@" + socks(t, address): "http://site.test/",
		"direct://":                          site.URL,
	} {
		w := start(t, 0, confK+allowLoopback+"[[proxies]]\nurl = \""+upstream+"\"\n")
		for size, attempts := range map[int]string{5: "2", 3 << 20: "1"} {
			failures.Store(0)
			if size == 5 {
				failures.Store(1)
			}
			q, err := http.NewRequest("PUT", url, io.LimitReader(endless{}, int64(size)))
			require.NoError(t, err)
			q.Trailer = http.Header{"X-Up": {"1"}}
			q.Header.Set("X-Whirlpool-Retry", "retry_non_idempotent=true")
			resp, err := w.client.Do(q)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%d map[X-Up:[1]]", size), string(body), upstream)
			require.Equal(t, attempts, resp.Header.Get("X-Whirlpool-Attempts"))
			require.Equal(t, http.Header{"X-Down": {"2"}}, resp.Trailer)
		}
		out, err := exec.Command("curl", "-sS", "-D", "-", "-x", "http://"+w.gateway, url).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "\r\nTrailer: X-Down\r\n")
		require.True(t, strings.HasSuffix(string(out), "X-Down: 2\r\n"), "%s", out)
		status, body, _ := w.call("POST", "/request", `{"url":"`+url+`"}`)
		require.Equal(t, 200, status)
		require.Contains(t, string(body), `"trailers":{"X-Down":["2"]}`)
	}
}

// forwardTo is a proxy that passes the bytes of a connection on to a target. Go's server also reads requests in
// absolute form.
func forwardTo(c net.Conn, target string) {
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		io.Copy(to, c)
		to.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, to)
}

// S158: a proxy closes each connection after one response, with a 408 for the next request. The client gets no 408.
func TestS158IdleTimeouts(t *testing.T) {
	t.Parallel()
	w := start(t, 0, confK+"[[proxies]]\nurl = \"http://"+coretest.Serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for n := range 2 {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, q.Body)
			if n == 1 {
				io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})+"\"\n")
	for range 10 {
		a := w.do("GET", "")
		require.Equal(t, []any{200, "ok"}, []any{a.status, a.body})
		a = w.do("DELETE", strings.Repeat("x", 100_000))
		require.Equal(t, []any{200, "ok"}, []any{a.status, a.body})
	}
	require.Contains(t, string(w.scrape()), `stale_connection`)
}
