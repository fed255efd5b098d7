package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// tunnelProxy is a proxy whose tunnels respond with 20,000 bytes to each byte. It cuts the tunnels for which
// cuts returns true after 5,000 bytes.
func tunnelProxy(t *testing.T, cuts func(n int64) bool) string {
	var tunnels atomic.Int64
	return coretest.Serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		n := tunnels.Add(1)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := r.ReadByte(); err != nil {
				return
			}
			if cuts(n) {
				c.Write(make([]byte, 5000))
				return
			}
			c.Write(make([]byte, 20_000))
		}
	})
}

// A proxy that cuts two of three tunnels at 5 KB gets no more requests, and the API shows its short tunnels.
func TestS121AProxyThatCutsItsTunnels(t *testing.T) {
	t.Parallel()
	never := func(int64) bool { return false }
	config := byTurns
	for i, cuts := range []func(int64) bool{func(n int64) bool { return n%3 != 0 }, never, never} {
		config += fmt.Sprintf("[[proxies]]\nid = \"P%d\"\nurl = \"http://%s\"\n", i+1, tunnelProxy(t, cuts))
	}
	w := start(t, 0, config)
	tunnel := func() (down int) {
		status, _, c := w.connect("a.test:443")
		require.Equal(t, 200, status)
		defer c.Close()
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		down, _ = io.ReadFull(c, make([]byte, 20_000))
		return down
	}
	cut := 0
	for i := 0; w.breaker("P1")["state"] != "open"; i++ {
		require.Less(t, i, 120, "P1 stays in rotation: %v", w.json("/proxies/P1"))
		if tunnel() < 20_000 {
			cut++
		}
	}
	require.Equal(t, map[string]int{"closed": 2, "open": 1}, w.states())
	eventually(t, "the tunnels have been counted", func() bool {
		return w.json("/proxies/P1")["short_tunnels"] == float64(cut)
	})
	require.Contains(t, w.scrape(), fmt.Sprintf(`proxy_short_tunnels_total{proxy_id="P1"} %d`, cut))
	require.Zero(t, w.json("/proxies/P2")["short_tunnels"])
	require.True(t, strings.Contains(w.log.String(), "short tunnels: "), "%s", w.log.String())
	for range 10 {
		require.Equal(t, 20_000, tunnel())
	}
}
