package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// A client that does not read its response is disconnected after body_idle, whatever the kind of response.
// Its goroutine and its place at the proxy are released.
func TestAClientThatDoesNotReadIsDisconnected(t *testing.T) {
	body := strings.Repeat("x", 20<<10)
	for name, c := range map[string]struct {
		ask   string
		proxy func(q *http.Request, body string) string
	}{
		"answers at once": {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", func(*http.Request, string) string {
			return ok("hello")
		}},
		"a body in pieces": {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", func(*http.Request, string) string {
			return ok(body)
		}},
		"an answer in chunks": {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
			func(*http.Request, string) string {
				return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" + body + "\r\n0\r\n\r\n"
			}},
		"the gateway's refusals": {"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", nil},
		"a refused CONNECT":      {connectTo, func(*http.Request, string) string { return reply("403 No", body) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, answering(c.proxy), func(o *options) { o.BodyIdle = 50 * time.Millisecond })
			near, far := coretest.Pair(t)
			near.SetWriteBuffer(4 << 10)
			far.SetReadBuffer(4 << 10)
			go far.Write([]byte(strings.Repeat(c.ask, 1000)))
			served := make(chan struct{})
			go func() {
				defer close(served)
				r.serveConn(near)
			}()
			select {
			case <-served:
			case <-time.After(patience):
				t.Fatal("it holds the gateway up for ever")
			}
			require.Zero(t, r.proxy.InFlight())
		})
	}
}
