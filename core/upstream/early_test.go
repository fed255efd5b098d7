package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// openAll opens the breaker of every proxy.
func (r *rig) openAll() {
	for _, u := range r.Snapshot().All {
		for u.Breaker().State() == core.Closed {
			lease, ok := u.Acquire(r.now)
			require.True(r.t, ok)
			lease.permit.Report(core.Failure, breaker.Literal)
			lease.Release()
		}
	}
}

// If no breaker is closed, the breakers admit a probe after a second, one after the other. In a pool of one
// proxy, and if breaker.blame is "literal", a breaker waits for its whole open time.
func TestEarlyProbes(t *testing.T) {
	for _, c := range []struct {
		proxies int
		literal bool
		early   bool
	}{{3, false, true}, {1, false, false}, {3, true, false}} {
		r := newRig(t, c.proxies)
		r.SetLiteral(c.literal)
		r.openAll()
		probes := map[string]int{}
		for begin := r.now; r.now.Sub(begin) < 10*time.Second; {
			r.pass(100 * time.Millisecond)
			waiting := 0 // number of breakers that wait for a probe
			for _, u := range r.Snapshot().All {
				if u.Breaker().State() == core.HalfOpen {
					waiting++
					probes[u.ID()]++
					r.try(u, false, 0)
				}
			}
			require.LessOrEqual(t, waiting, 1)
			at, ok := r.NextTest()
			require.True(t, ok)
			require.Equal(t, c.early, at.Sub(r.now) <= earlyProbe, at.Sub(r.now))
		}
		if !c.early {
			require.Empty(t, probes)
			continue
		}
		for _, u := range r.Snapshot().All {
			require.GreaterOrEqual(t, probes[u.ID()], 5)
			require.LessOrEqual(t, probes[u.ID()], 10, "at most one a second")
		}
		u := r.get(0)
		for u.Breaker().State() != core.HalfOpen {
			r.pass(100 * time.Millisecond)
			for _, other := range r.Snapshot().All {
				if other != u && other.Breaker().State() == core.HalfOpen {
					r.try(other, false, 0)
				}
			}
		}
		r.try(u, true, time.Millisecond)
		require.Equal(t, core.Closed, u.Breaker().State())
		r.pass(5 * time.Second)
		require.Equal(t, core.Open, r.get(1).Breaker().State(), "a breaker is closed: no early probes")
	}
}
