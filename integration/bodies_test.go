package integration

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A body is sent again completely or not at all (edge case E6 of the specification). Up to the limit it is
// sent again, with any framing. If it is one byte longer, the request gets one attempt.
func TestS27ReplayOrNot(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confK+"[gateway]\nreplay_limit = \"64KiB\"\n")
	random := rand.NewChaCha8([32]byte{27})
	for _, size := range []int{0, 1, 4096, 64 << 10, 64<<10 + 1, 300_000} {
		for _, chunked := range []bool{false, true} {
			for _, method := range []string{"POST", "PUT"} {
				what := fmt.Sprintf("%s %d chunked=%v", method, size, chunked)
				body := make([]byte, size)
				random.Read(body)
				w.setAll(lab.OK())
				w.requestUntilArrivals(w.fakes[1], 1) // so the next first attempt goes to F1
				w.clearArrivals()
				w.fakes[0].SetBehaviour(lab.Status(503))
				q, err := http.NewRequest(method, "http://origin.test/", bytes.NewReader(body))
				require.NoError(t, err)
				if chunked {
					q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), -1
				}
				q.Header.Set("X-Whirlpool-Retry", "retry_non_idempotent")
				r, err := w.client.Do(q)
				require.NoError(t, err)
				io.Copy(io.Discard, r.Body)
				r.Body.Close()
				all := w.sortedArrivals()
				if size > 64<<10 {
					require.Equal(t, 503, r.StatusCode, what)
					require.Equal(t, "not_retryable", r.Header.Get("X-Whirlpool-Outcome"), what)
					require.Len(t, all, 1, what)
				} else {
					require.Equal(t, 200, r.StatusCode, what)
					require.Len(t, all, 2, what)
				}
				for _, x := range all {
					require.Equal(t, body, append([]byte{}, x.Body...), what)
					require.Equal(t, method, x.Method)
				}
			}
		}
	}
}

// If no connection to the proxy was opened, no part of the body was sent. Therefore the request is retried,
// however long its body is.
func TestALongBodyIsRetriedUntilItIsSent(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confK+"[gateway]\nreplay_limit = \"64KiB\"\n")
	w.fakes[0].Close()
	body := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{28}).Read(body)
	for i := range 6 {
		q, err := http.NewRequest("POST", "http://origin.test/", bytes.NewReader(body))
		require.NoError(t, err)
		if i%2 == 0 {
			q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), -1
		}
		r, err := w.client.Do(q)
		require.NoError(t, err)
		r.Body.Close()
		require.Equal(t, 200, r.StatusCode)
	}
	all := w.sortedArrivals()
	require.Len(t, all, 6)
	for _, x := range all {
		require.Equal(t, body, x.Body)
	}
	require.NotZero(t, w.breaker("F1")["failure_count"], "it was tried first")
}

// A body that ends early or stalls at the proxy also ends early for the client. The request is not retried,
// and the proxy is charged (edge case E8 of the specification).
func TestS33CutBodies(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[timeouts]\nbody_idle = \"1s\"\n")
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	failures := 0.0
	for name, b := range map[string]lab.Behaviour{
		"cut":          {CutAfter: 1000},
		"cut long":     {CutAfter: 300_000},
		"chunk cut":    {Garbage: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"},
		"no last":      {Garbage: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		"bad chunk":    {Garbage: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"},
		"stands still": {Pieces: 2, Interval: time.Minute},
	} {
		before := w.arrivals()
		w.setAll(b)
		a := w.get()
		require.Equal(t, 200, a.status, name)
		require.Error(t, a.err, "%s: a clean end of %q", name, a.body)
		failures++
		require.Equal(t, failures, w.breaker("F1")["failure_count"], name)
		require.Equal(t, before+1, w.arrivals(), name)
	}
	s := w.getJSON("/metrics/retries")
	require.Equal(t, map[string]any{}, s["success_by_attempt"])
	require.Equal(t, 0.0, s["total_retries"])
	for _, v := range w.getJSON("/requests")["requests"].([]any) {
		require.Equal(t, "not_retryable", v.(map[string]any)["outcome"], "no success, whatever its head said")
	}
	w.setAll(lab.Behaviour{CutAfter: 1000})
	_, one, _ := w.call("POST", "/request", `{"url":"http://origin.test/"}`)
	require.Contains(t, string(one), `"outcome":"not_retryable"`)
	require.Contains(t, string(one), `"truncated":true`)
	w.reconcile(0)

	// A body without framing ends with its connection. This is a regular end.
	w.setAll(lab.Behaviour{Garbage: "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 50_000)})
	a := w.get()
	require.NoError(t, a.err)
	require.Len(t, a.body, 50_000)
}

// If a response ends early, a slow client gets all bytes that have arrived, and then the reset.
func TestS33ArrivedBytesAreRelayed(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	const size = 1_000_000
	w.setAll(lab.Behaviour{CutAfter: size})
	c, err := net.Dial("tcp", w.gateway)
	require.NoError(t, err)
	defer c.Close()
	requests := w.getJSON("/metrics/retries")["total_requests"].(float64)
	_, err = io.WriteString(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
	require.NoError(t, err)
	eventually(t, "the end is noticed", func() bool {
		return w.getJSON("/metrics/retries")["total_requests"] == requests+1
	})
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, r.Body)
	require.Error(t, err)
	require.EqualValues(t, size, n)
}

// A client that reads a long body slowly gets every byte of it. A client that reads nothing for body_idle is
// disconnected. The proxy is charged in neither case. The same is true for a client that stalls, or sends
// malformed chunks, in a long upload.
func TestS33SlowAndStalledClients(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[timeouts]\nbody_idle = \"2s\"\n")
	const size = 12 << 20
	ask := func(method, rest string) net.Conn {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		c.(*net.TCPConn).SetReadBuffer(32 << 10)
		fmt.Fprintf(c, "%s http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n%s", method, rest)
		c.SetReadDeadline(time.Now().Add(eventTimeout))
		return c
	}
	w.setAll(lab.Behaviour{Size: size, Numbered: true})
	c := ask("GET", "\r\n")
	r, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	require.NoError(t, err)
	h := sha256.New()
	for n := int64(0); n < size; {
		m, err := io.CopyN(h, r.Body, min(64<<10, size-n))
		require.NoError(t, err, "after %d bytes", n)
		n += m
		time.Sleep(40 * time.Millisecond) // 1.6 MB/s: the kernel's buffer of 4 MB lasts for longer than body_idle
	}
	want := sha256.New()
	io.CopyN(want, lab.Counting(), size)
	require.Equal(t, want.Sum(nil), h.Sum(nil))

	outcomes := func() (all []string) {
		for _, v := range w.getJSON("/requests")["requests"].([]any) {
			r := v.(map[string]any)
			if r["state"] != "done" {
				return nil
			}
			all = append(all, r["outcome"].(string))
		}
		return all
	}
	require.Equal(t, []string{"success"}, outcomes())
	stalled := []net.Conn{ask("GET", "\r\n")} // a client that reads nothing of a body with a Content-Length
	eventually(t, "it is given up", func() bool { return len(outcomes()) == 2 })
	w.setAll(lab.Behaviour{Pieces: 100_000, Body: strings.Repeat("x", 4000)})
	stalled = append(stalled, ask("GET", "\r\n")) // a client that reads nothing of a chunked body
	eventually(t, "it is given up", func() bool { return len(outcomes()) == 3 })
	w.setAll(lab.OK())
	long := strings.Repeat("x", 2<<20)
	stalled = append(stalled, ask("POST", "Content-Length: 9000000\r\n\r\n"+long))
	eventually(t, "a sender that stops", func() bool { return len(outcomes()) == 4 })
	c = ask("POST", "Content-Length: 9000000\r\n\r\n"+long)
	c.Close()
	eventually(t, "a sender that leaves", func() bool { return len(outcomes()) == 5 })
	c = ask("POST", "Transfer-Encoding: chunked\r\n\r\n200000\r\n"+long+"\r\nnonsense\r\n")
	r, err = http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	require.Equal(t, 400, r.StatusCode, "a sender of nonsense")
	require.Equal(t, []string{"cancelled", "cancelled", "cancelled", "cancelled", "cancelled", "success"}, outcomes())
	require.Equal(t, 0.0, w.breaker("F1")["failure_count"])
	require.Len(t, stalled, 3)
}
