package gateway

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// If the kept bodies of other requests leave no room, a request gets one attempt. A body of unknown length is
// counted as it arrives.
func TestReplayMemory(t *testing.T) {
	var fail atomic.Bool
	held, hold := make(chan struct{}), make(chan struct{})
	r := newRig(t, answering(func(q *http.Request, body string) string {
		if q.URL.Path == "/held" {
			held <- struct{}{}
			<-hold
		} else if fail.Load() {
			return reply("503 Service Unavailable", "")
		}
		return ok(strconv.Itoa(len(body)))
	}), func(o *options) {
		o.ReplayMemory = 100
		o.policy = func(p *retry.Policy) { p.MaxAttempts, p.BaseDelay = 3, 0.1 }
	})
	first := r.ask("DELETE http://a.test/held HTTP/1.1\r\nHost: a.test\r\nContent-Length: 80\r\n\r\n" +
		strings.Repeat("x", 80))
	<-held
	require.EqualValues(t, 80, r.replay.Used())
	fail.Store(true)
	for body, attempts := range map[string]string{
		"Content-Length: 20\r\n\r\n" + strings.Repeat("x", 20):                                 "3",
		"Content-Length: 21\r\n\r\n" + strings.Repeat("x", 21):                                 "1",
		"Transfer-Encoding: chunked\r\n\r\n14\r\n" + strings.Repeat("x", 20) + "\r\n0\r\n\r\n": "3",
		"Transfer-Encoding: chunked\r\n\r\n15\r\n" + strings.Repeat("x", 21) + "\r\n0\r\n\r\n": "1",
	} {
		c := r.ask("DELETE http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + body)
		a, _ := c.answer("DELETE")
		require.Equal(t, 503, a.StatusCode)
		require.Equal(t, attempts, a.Header.Get("X-Whirlpool-Attempts"), "%q", body)
		c.Close()
		r.proxy.Breaker().Reset()
		r.eventually("its memory is free", func() bool { return r.replay.Used() == 80 })
	}
	close(hold)
	_, body := first.answer("DELETE")
	require.Equal(t, "80", body)
	first.Close()
	r.free()
	require.Zero(t, r.replay.Used())
}
