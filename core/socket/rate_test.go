package socket

import (
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
		var b ReadRate
		b.Start(rate, grace)
		now := time.Unix(0, 0)
		each := time.Duration(rapid.IntRange(1, 20).Draw(t, "seconds between pieces")) * time.Second
		bytes := int64(rapid.IntRange(0, 4000).Draw(t, "bytes of a piece"))
		elsewhere := time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds at the proxy")) * time.Second
		perSecond := float64(bytes) / each.Seconds()
		var waited time.Duration
		for waited < 10*grace {
			until := b.BeginWait(now, idle)
			require.LessOrEqual(t, until.Sub(now), idle)
			if !until.After(now.Add(each)) {
				require.True(t, b.TooSlow())
				require.Less(t, perSecond, float64(rate)*2, "a period holds at least half as many pieces as it could")
				require.LessOrEqual(t, waited, 2*grace)
				return
			}
			now = now.Add(each)
			waited += each
			b.EndWait(now, bytes)
			b.EndWait(now, 0)
			now = now.Add(elsewhere)
		}
		require.GreaterOrEqual(t, perSecond, float64(rate)/2)
	})
}

func TestALateBody(t *testing.T) {
	var b ReadRate
	b.Start(100, 30*time.Second)
	now := time.Unix(0, 0)
	piece := func(wait time.Duration, bytes int64) {
		b.BeginWait(now, time.Minute)
		now = now.Add(wait)
		b.EndWait(now, bytes)
	}
	require.Zero(t, b.Delay())
	piece(900*time.Millisecond, 10)
	require.Equal(t, 800*time.Millisecond, b.Delay())
	piece(900*time.Millisecond, 10)
	require.Equal(t, 1600*time.Millisecond, b.Delay())
	piece(time.Second, 1000)
	require.Zero(t, b.Delay())
	b.Start(0, 30*time.Second)
	piece(10*time.Second, 1)
	require.Zero(t, b.Delay(), "there is no minimum")
}

func TestWithoutABodyRate(t *testing.T) {
	var b ReadRate
	b.Start(0, 30*time.Second)
	now := time.Unix(0, 0)
	for range 1000 {
		require.Equal(t, now.Add(time.Minute), b.BeginWait(now, time.Minute))
		now = now.Add(59 * time.Second)
		b.EndWait(now, 1)
	}
	require.False(t, b.TooSlow())
}
