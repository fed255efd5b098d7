package integration

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/integration/lab"
)

// A body is replayed byte for byte or not at all (E6): up to the limit it is,
// whatever its framing; one byte more and the request is tried once.
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
				w.all(lab.OK())
				w.driveTo(w.fakes[1], 1) // the next is F1's turn
				w.clear()
				w.fakes[0].Do(lab.Status(503))
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
				all := w.ordered()
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

// A body that breaks off or stands still upstream breaks off for the client,
// is never retried, and is the proxy's failure (E8).
func TestS33CutBodies(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[timeouts]\nbody_idle = \"300ms\"\n")
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	failures := 0.0
	for name, b := range map[string]lab.Behaviour{
		"cut":          {Cut: 1000},
		"cut long":     {Cut: 300_000},
		"chunk cut":    {Garbage: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"},
		"no last":      {Garbage: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		"bad chunk":    {Garbage: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"},
		"stands still": {Pieces: 2, Every: 700 * time.Millisecond},
	} {
		before := w.arrivals()
		w.all(b)
		a := w.get()
		require.Equal(t, 200, a.status, name)
		require.Error(t, a.err, "%s: a clean end of %q", name, a.body)
		failures++
		require.Equal(t, failures, w.breaker("F1")["failure_count"], name)
		require.Equal(t, before+1, w.arrivals(), name)
	}
	s := w.json("/metrics/retries")
	require.Equal(t, map[string]any{}, s["success_by_attempt"])
	require.Equal(t, 0.0, s["total_retries"])
	w.reconcile(0)

	// A body without framing ends with its connection: that is a clean end.
	w.all(lab.Behaviour{Garbage: "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 50_000)})
	a := w.get()
	require.NoError(t, a.err)
	require.Len(t, a.body, 50_000)
}
