package transport

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
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

// pproxy and proxy.py 2.4 send all requests of a connection to the target of the first request. So a connection is used
// for one target only, and a request never gets the response of another target.
func TestAConnectionIsForOneTarget(t *testing.T) {
	var opened atomic.Int32
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		opened.Add(1)
		r, first := bufio.NewReader(c), ""
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if first == "" {
				first = q.Host
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(first), first)
		}
	}))
	tr := New(Config{})
	t.Cleanup(tr.Close)
	for range 3 {
		for _, host := range []string{"a.test:80", "b.test:80", "b.test:81"} {
			q := getRequest()
			q.Target, q.Authority, q.Fields[0].Value = []byte("http://"+host+"/"), host, []byte(host)
			c, resp := &Control{Deadline: time.Now().Add(plenty)}, Response{}
			require.Nil(t, tr.RoundTrip(t.Context(), u, c, q, &resp))
			body, err := io.ReadAll(&resp.Body)
			require.NoError(t, err)
			require.Equal(t, host, string(body))
			resp.Finish(c, time.Now())
		}
	}
	require.EqualValues(t, 3, opened.Load(), "one for each target")
}
