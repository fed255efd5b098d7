package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// tunnelProxy is a proxy whose tunnels respond with 20,000 bytes to each byte. If the function cuts returns true for
// the number of a tunnel, the proxy ends this tunnel after 5,000 bytes.
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

// A proxy cuts two of three tunnels. The gateway counts these tunnels as short, and no breaker opens.
func TestS121AProxyThatCutsItsTunnels(t *testing.T) {
	t.Parallel()
	never := func(int64) bool { return false }
	config := roundRobin
	for i, cuts := range []func(int64) bool{func(n int64) bool { return n%3 != 0 }, never, never} {
		config += fmt.Sprintf("[[proxies]]\nid = \"P%d\"\nurl = \"http://%s\"\n", i+1, tunnelProxy(t, cuts))
	}
	w := start(t, 0, config)
	cut := 0
	for range 60 {
		status, _, c := w.connect("a.test:443")
		require.Equal(t, 200, status)
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		if down, _ := io.ReadFull(c, make([]byte, 20_000)); down < 20_000 {
			cut++
		}
		c.Close()
	}
	require.Greater(t, cut, 5)
	require.Equal(t, map[string]int{"closed": 3}, w.breakerStates())
	eventually(t, "the tunnels have been counted", func() bool {
		return w.getJSON("/proxies/P1")["short_tunnels"] == float64(cut)
	})
	require.Contains(t, w.scrape(), fmt.Sprintf(`proxy_short_tunnels_total{proxy_id="P1"} %d`, cut))
	require.Zero(t, w.getJSON("/proxies/P2")["short_tunnels"])
}
