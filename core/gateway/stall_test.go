package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A client that takes nothing of what it asked for is given up, whoever
// answers and however: its goroutine and its place do not stay for ever.
func TestAClientThatTakesNothingIsGivenUp(t *testing.T) {
	body := strings.Repeat("x", 20<<10)
	for name, c := range map[string]struct {
		ask   string
		proxy func(q *http.Request, body string) string
	}{
		"answers at once":  {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", func(*http.Request, string) string { return ok("hello") }},
		"a body in pieces": {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", func(*http.Request, string) string { return ok(body) }},
		"an answer in chunks": {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", func(*http.Request, string) string {
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" + body + "\r\n0\r\n\r\n"
		}},
		"the gateway's refusals": {"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", nil},
		"a refused CONNECT":      {connectTo, func(*http.Request, string) string { return reply("403 No", body) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, answering(c.proxy), func(o *options) { o.BodyIdle = 50 * time.Millisecond })
			near, far := pair(t)
			near.SetWriteBuffer(4 << 10)
			far.SetReadBuffer(4 << 10)
			go far.Write([]byte(strings.Repeat(c.ask, 1000)))
			served := make(chan struct{})
			go func() {
				defer close(served)
				newConn(r.Server, near).serve()
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

// Eight looks in a row without progress, not fewer; whatever the client takes
// begins the count anew, and one that has taken all is waited for.
func TestWhenAClientStandsStill(t *testing.T) {
	var s stall
	looks := func(times int, acked uint64, queued int) (stands bool) {
		for range times {
			stands = s.stands(acked, queued)
		}
		return stands
	}
	require.False(t, looks(8, 100, 50), "the first only sees where it is")
	require.False(t, looks(8, 101, 50), "it takes, while as much comes after")
	require.False(t, looks(8, 101, 60), "more is written: there was room")
	require.True(t, looks(1, 101, 60))
	require.False(t, looks(100, 161, 0))
}

// A bug that shows while a client is watched leaves no timer running.
func TestAPanicEndsTheWatch(t *testing.T) {
	var buggy atomic.Pointer[conn]
	r := newRig(t, answering(func(*http.Request, string) string { return ok(strings.Repeat("x", 2*bulkBody)) }), func(o *options) {
		o.now = func() time.Time {
			if c := buggy.Load(); c != nil {
				c.stall.mu.Lock()
				defer c.stall.mu.Unlock()
				if c.stall.on {
					panic("a bug")
				}
			}
			return time.Now()
		}
	})
	near, far := pair(t)
	go io.Copy(io.Discard, far)
	_, err := io.WriteString(far, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	require.NoError(t, err)
	c := newConn(r.Server, near)
	buggy.Store(c)
	c.serve()
	require.NotNil(t, c.stall.timer, "it was watched")
	require.False(t, c.stall.timer.Stop(), "and no longer is")
	require.Zero(t, r.proxy.InFlight())
}
