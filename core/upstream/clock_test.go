package upstream

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// set returns the time t as a clock shows it that was set forward by d after the process began: the time of day
// changes, and the monotonic reading does not. (Package time stores the seconds in the bits above the 30 bits of the
// nanoseconds.)
func set(t time.Time, d time.Duration) time.Time {
	wall := (*uint64)(unsafe.Pointer(&t))
	*wall += uint64(d/time.Second) << 30
	return t
}

// After the clock was set forward or back, times of day are right and waits have the right length.
func TestTheClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{8 * time.Hour, -8 * time.Hour} {
		start, passed, adjusted := time.Now(), time.Duration(0), time.Duration(0)
		now := func() time.Time { return set(start.Add(passed), adjusted) }
		adjusted = by
		require.Equal(t, start.Round(0).Add(by), now().Round(0))
		require.Zero(t, now().Sub(start), "the monotonic reading counts")
		adjusted = 0

		var told []core.Transition
		p := NewPool(PoolConfig{Literal: true, Now: now, Notify: func(tr core.Transition) { told = append(told, tr) },
			Breaker: breaker.Config{FailureThreshold: 1, WindowDuration: time.Minute,
				TimeoutDuration: 30 * time.Second}})
		require.NoError(t, p.Apply([]Spec{{ID: "p", Address: Address{Scheme: HTTP, Host: "a.test:1"}}}))
		u := p.Snapshot().Get("p")
		fail := func() {
			l, ok := u.Acquire(now())
			require.True(t, ok)
			l.Settle(&core.Outcome{Verdict: core.Failure})
			l.Release()
		}
		in := func(at time.Time) time.Duration { return at.Round(0).Sub(now().Round(0)) } // by times of day
		passed = time.Second
		fail()
		p.NextTestTime() // the pool keeps the result
		passed, adjusted = 11*time.Second, by
		require.Equal(t, 20*time.Second, in(u.Breaker().Snapshot().NextTest))
		at, ok := p.NextTestTime()
		require.True(t, ok)
		require.Equal(t, 20*time.Second, in(at))
		require.Equal(t, -10*time.Second, in(u.Stats().LastUsed))
		later, err := p.Add([]Spec{{ID: "q", Address: Address{Scheme: HTTP, Host: "b.test:1"}}})
		require.NoError(t, err)
		require.Zero(t, in(later[0].Breaker().Snapshot().LastChange))
		require.Equal(t, core.Open, u.Breaker().State())
		passed = 32 * time.Second
		require.Equal(t, core.HalfOpen, u.Breaker().State())
		require.Len(t, told, 2)
		require.Equal(t, -time.Second, in(told[1].At))
		fail()
		require.Equal(t, 30*time.Second, in(u.Breaker().Snapshot().NextTest))
	}
}
