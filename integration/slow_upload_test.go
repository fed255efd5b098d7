package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// uploadSlowly posts size bytes in ten pieces, one in each step, and returns the response.
func (w *whirl) uploadSlowly(size int, step time.Duration) *http.Response {
	w.t.Helper()
	c, err := net.Dial("tcp", w.gateway)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: %d\r\n\r\n", size)
	piece := bytes.Repeat([]byte("x"), size/10)
	for range 10 {
		time.Sleep(step)
		c.Write(piece) // the gateway may have closed the connection
	}
	c.SetReadDeadline(time.Now().Add(eventTimeout))
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(w.t, err)
	r.Body.Close()
	return r
}

// A client that sends its body slowly is charged to no proxy. If the body is kept for replay, the attempt
// timeout and the total timeout begin when it has arrived. If it is streamed, an attempt that ends by a
// timeout is excluded.
func TestASlowUploadIsChargedToNoProxy(t *testing.T) {
	t.Parallel()
	const conf = "[timeouts]\nattempt = \"2s\"\n"
	t.Run("attempt", func(t *testing.T) {
		w := start(t, 1, confK+conf)
		for _, size := range []int{10, 4_000_000} {
			r := w.uploadSlowly(size, 300*time.Millisecond)
			require.Equal(t, 200, r.StatusCode)
			require.Equal(t, "1", r.Header.Get("X-Whirlpool-Attempts"))
		}
		require.Zero(t, w.breaker("F1")["failure_count"])
		w.reconcile(0)
	})
	t.Run("total", func(t *testing.T) {
		w := start(t, 1, confK+conf)
		w.putPolicy(`{"timeout":2}`)
		require.Equal(t, 200, w.uploadSlowly(10, 300*time.Millisecond).StatusCode)
		require.Equal(t, 504, w.uploadSlowly(4_000_000, 300*time.Millisecond).StatusCode)
		require.Zero(t, w.breaker("F1")["failure_count"])
		w.reconcile(0)
	})
}
