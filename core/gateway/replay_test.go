package gateway

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

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
	require.EqualValues(t, 80, r.replay.used.Load())
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
		r.eventually("its memory is free", func() bool { return r.replay.used.Load() == 80 })
	}
	close(hold)
	_, body := first.answer("DELETE")
	require.Equal(t, "80", body)
	first.Close()
	r.free()
	require.Zero(t, r.replay.used.Load())
}

// The reservations of all requests together never exceed the limit, and nothing stays reserved.
func TestReservations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1000
		memory := &replayMemory{}
		all := make([]reservation, 5)
		want := make([]int64, len(all))
		sum := int64(0)
		for i := range all {
			all[i].memory = memory
		}
		index := rapid.IntRange(0, len(all)-1)
		t.Repeat(map[string]func(*rapid.T){
			"grow": func(t *rapid.T) {
				i, n := index.Draw(t, "request"), rapid.Int64Range(0, 600).Draw(t, "bytes")
				fits := sum+n <= limit
				require.Equal(t, fits, all[i].grow(n, limit))
				if fits {
					want[i] += n
					sum += n
				}
			},
			"release": func(t *rapid.T) {
				i := index.Draw(t, "request")
				all[i].release()
				sum -= want[i]
				want[i] = 0
			},
			"": func(t *rapid.T) { require.Equal(t, sum, memory.used.Load()) },
		})
	})
}
