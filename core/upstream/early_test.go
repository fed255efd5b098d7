package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// openAll opens the breaker of every proxy.
func (r *rig) openAll() { r.open(r.Snapshot().All) }

// open opens the breakers of proxies.
func (r *rig) open(proxies []*Upstream) {
	for _, u := range proxies {
		for u.Breaker().State() == core.Closed {
			lease, ok := u.Acquire(r.now)
			require.True(r.t, ok)
			lease.permit.Report(core.Failure, breaker.AlwaysEnough)
			lease.Release()
		}
	}
}

// If no breaker is closed, the breakers admit probes one after the other: often at first, and at most one a second
// each after 16 s. In a pool of one proxy, and if breaker.blame is "literal", a breaker waits for its whole open time.
func TestEarlyProbes(t *testing.T) {
	for _, c := range []struct {
		proxies int
		literal bool
		early   bool
	}{{3, false, true}, {1, false, false}, {3, true, false}} {
		r := newRig(t, c.proxies)
		r.SetLiteral(c.literal)
		r.openAll()
		var probes [2]map[string]int // of the first five seconds, and of the five seconds after 20 s
		for i := range probes {
			probes[i] = map[string]int{}
		}
		for begin := r.now; r.now.Sub(begin) < 25*time.Second; {
			r.pass(100 * time.Millisecond)
			waiting := 0 // number of breakers that wait for a probe
			for _, u := range r.Snapshot().All {
				if u.Breaker().State() == core.HalfOpen {
					waiting++
					switch since := r.now.Sub(begin); {
					case since <= 5*time.Second:
						probes[0][u.ID()]++
					case since > 20*time.Second:
						probes[1][u.ID()]++
					}
					r.try(u, false, 0)
				}
			}
			require.LessOrEqual(t, waiting, 1)
			at, ok := r.NextTestTime()
			require.True(t, ok)
			require.Equal(t, c.early, at.Sub(r.now) <= earlyMax, at.Sub(r.now))
		}
		if !c.early {
			require.Empty(t, probes[0])
			require.Empty(t, probes[1])
			continue
		}
		for _, u := range r.Snapshot().All {
			require.GreaterOrEqual(t, probes[0][u.ID()], 10)
			require.LessOrEqual(t, probes[0][u.ID()], 25, "one in each earlyMin")
			require.GreaterOrEqual(t, probes[1][u.ID()], 10)
			require.LessOrEqual(t, probes[1][u.ID()], 17, "one in each earlyMax")
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

// A request that finds no closed breaker becomes a probe immediately, unless two proxies have probes in flight.
func TestProbesOfRequests(t *testing.T) {
	r := newRig(t, 4)
	r.SetLiteral(false)
	require.False(t, r.ProbeEarly(), "all breakers are closed")
	r.openAll()
	require.False(t, r.ProbeEarly(), "just opened")
	r.now = r.now.Add(earlyMax)
	probe := func() bool {
		r.now = r.now.Add(lookInterval)
		begun := r.ProbeEarly()
		if begun {
			require.False(t, r.ProbeEarly(), "a breaker waits for its probe")
		}
		for _, u := range r.Snapshot().All {
			if u.Breaker().State() == core.HalfOpen {
				r.try(u, false, 0)
			}
		}
		return begun
	}
	require.True(t, probe())
	require.True(t, probe())
	require.False(t, probe())
	r.now = r.now.Add(earlyInterval)
	require.True(t, probe())
}

// If at most a quarter of the breakers is closed, a proxy that has served before is probed early: once in fewUses
// attempts and in each second.
func TestEarlyProbesWhileFewBreakersAreClosed(t *testing.T) {
	for name, c := range map[string]struct {
		open, attempts  int // of 8 proxies; and attempts in each 0.1 s
		served, literal bool
		least, most     int // probes in 20 s
	}{
		"many attempts":    {open: 6, attempts: 20, served: true, least: 14, most: 17},
		"few attempts":     {open: 6, attempts: 1, served: true, least: 3, most: 4},
		"no attempts":      {open: 6, served: true},
		"many are closed":  {open: 5, attempts: 20, served: true},
		"never served":     {open: 6, attempts: 20},
		"blame is literal": {open: 6, attempts: 20, served: true, literal: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 8)
			r.SetLiteral(c.literal)
			all := r.Snapshot().All
			bad, good := all[:c.open], all[c.open:]
			for _, u := range all {
				if c.served {
					r.at(u, "a.test:80", true)
				}
			}
			r.open(bad)
			probes := 0
			for begin := r.now; r.now.Sub(begin) < 20*time.Second; {
				r.pass(100 * time.Millisecond)
				for i := range c.attempts {
					lease, ok := good[i%len(good)].Acquire(r.now)
					require.True(t, ok)
					r.settleAt(lease, "a.test:80", true)
				}
				for _, u := range bad {
					if u.Breaker().State() == core.HalfOpen {
						probes++
						r.at(u, "a.test:80", false)
					}
				}
			}
			require.GreaterOrEqual(t, probes, c.least)
			require.LessOrEqual(t, probes, c.most)
		})
	}
}

// If very many breakers are not closed, Sweep reads them about once a second. An overdue breaker is found nevertheless.
func TestSweepOfManyOpenBreakers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	r := newRig(t, 5*breakersPerSweep/2)
	r.openAll()
	r.pass(breaker.Default().TimeoutDuration - 100*time.Millisecond)
	require.Empty(t, r.OverdueProbes())
	r.pass(breaker.Default().TimeoutDuration + 100*time.Millisecond)
	r.pass(300 * time.Millisecond)
	require.Len(t, r.OverdueProbes(), 5*breakersPerSweep/2)
}
