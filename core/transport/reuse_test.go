package transport

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// With reuse = false each request opens its own connection, in each form, even if there is an idle one. No
// TLS session with a target is resumed.
func TestNoReuse(t *testing.T) {
	respond := func(c net.Conn) {
		r := bufio.NewReader(c)
		resumed := false
		if secure, ok := c.(*tls.Conn); ok {
			resumed = secure.ConnectionState().DidResume
		}
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			text := fmt.Sprint(resumed)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	}
	for name, way := range routes(t, respond) {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{RootCAs: way.roots})
			t.Cleanup(tr.Close)
			p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
			spec := *way.u.Spec()
			require.NoError(t, p.Apply([]upstream.Spec{spec}))
			way.u = p.Snapshot().All[0]
			way.do(t, tr)
			way.do(t, tr)
			require.EqualValues(t, 1, way.opened.Load())
			spec.Extras = &upstream.Extras{NoReuse: true}
			require.NoError(t, p.Apply([]upstream.Spec{spec}))
			require.Same(t, way.u, p.Snapshot().All[0])
			for i := range 3 {
				resumed := way.do(t, tr)
				require.EqualValues(t, i+2, way.opened.Load())
				if way.tls {
					require.Equal(t, "false", resumed)
				}
				require.Equal(t, 1, tr.pool(way.u).count, "the one that was idle before")
			}
		})
	}
}
