package gateway

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A body at the minimum rate or above may take any time. A body below this rate ends within two periods of
// waiting for the client. The time of other waits does not count.
func TestBodyRate(t *testing.T) {
	const rate, grace, idle = 100, 30 * time.Second, 25 * time.Second
	rapid.Check(t, func(t *rapid.T) {
		var b bodyRate
		b.start(rate, grace)
		now := time.Unix(0, 0)
		each := time.Duration(rapid.IntRange(1, 20).Draw(t, "seconds between pieces")) * time.Second
		bytes := int64(rapid.IntRange(0, 4000).Draw(t, "bytes of a piece"))
		elsewhere := time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds at the proxy")) * time.Second
		perSecond := float64(bytes) / each.Seconds()
		var waited time.Duration
		for waited < 10*grace {
			until := b.beginWait(now, idle)
			require.LessOrEqual(t, until.Sub(now), idle)
			if !until.After(now.Add(each)) {
				require.True(t, b.rateLimits)
				require.Less(t, perSecond, float64(rate)*2, "a period holds at least half as many pieces as it could")
				require.LessOrEqual(t, waited, 2*grace)
				return
			}
			now = now.Add(each)
			waited += each
			b.endWait(now, bytes)
			b.endWait(now, 0)
			now = now.Add(elsewhere)
		}
		require.GreaterOrEqual(t, perSecond, float64(rate)/2)
	})
}

func TestALateBody(t *testing.T) {
	var b bodyRate
	b.start(100, 30*time.Second)
	now := time.Unix(0, 0)
	piece := func(wait time.Duration, bytes int64) {
		b.beginWait(now, time.Minute)
		now = now.Add(wait)
		b.endWait(now, bytes)
	}
	require.Zero(t, b.delay())
	piece(900*time.Millisecond, 10)
	require.Equal(t, 800*time.Millisecond, b.delay())
	piece(900*time.Millisecond, 10)
	require.Equal(t, 1600*time.Millisecond, b.delay())
	piece(time.Second, 1000)
	require.Zero(t, b.delay())
	b.start(0, 30*time.Second)
	piece(10*time.Second, 1)
	require.Zero(t, b.delay(), "there is no minimum")
}

func TestWithoutABodyRate(t *testing.T) {
	var b bodyRate
	b.start(0, 30*time.Second)
	now := time.Unix(0, 0)
	for range 1000 {
		require.Equal(t, now.Add(time.Minute), b.beginWait(now, time.Minute))
		now = now.Add(59 * time.Second)
		b.endWait(now, 1)
	}
	require.False(t, b.rateLimits)
}

// A request whose body arrives byte by byte gets a 408 with the reason, whether it is kept or streamed. Its pauses
// are shorter than body_idle.
func TestASlowBodyGetsA408(t *testing.T) {
	for name, framing := range map[string]string{
		"kept":     "Content-Length: 1000",
		"streamed": "Content-Length: 5000000",
		"chunked":  "Transfer-Encoding: chunked",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answering(nil), func(o *options) {
				o.MinBodyRate, o.BodyGrace = 1_000_000, 300*time.Millisecond
			})
			c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + framing + "\r\n\r\n")
			go func() {
				piece := "x"
				if name == "chunked" {
					piece = "1\r\nx\r\n"
				}
				for { // until the gateway closes the connection
					if _, err := io.WriteString(c, piece); err != nil {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
			a, body := c.answer(http.MethodPost)
			require.Equal(t, 408, a.StatusCode)
			require.Contains(t, body, "gateway.min_body_rate")
			c.Close()
			r.free()
		})
	}
}
