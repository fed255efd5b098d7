package plugins_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// good returns a candidate that always succeeds, after 20 ms.
func good() core.Candidate {
	return core.Candidate{SuccessRate: 1, Samples: 50, LatencyMean: 0.02, LatencyEWMA: 0.02, Weight: 1, Uses: 50}
}

// The penalty of one candidate in a pool with three good ones. All have the same number of attempts in
// flight.
func TestPenaltiesOfExploring(t *testing.T) {
	s, err := registry(t).Scorer("exploring", plugins.FallbackFirst)
	require.NoError(t, err)
	failed := func(failures, samples, streak float64) func(*core.Candidate) {
		return func(c *core.Candidate) {
			c.SuccessRate, c.Samples, c.ConsecutiveFailures, c.Uses = 1-failures/samples, samples, streak, samples+2
			if failures == samples {
				c.LatencyMean, c.LatencyEWMA = 0, 0
			}
		}
	}
	seldom := func(change func(*core.Candidate)) func(*core.Candidate) {
		return func(c *core.Candidate) { change(c); c.SinceUse = 13 }
	}
	unknown := func(uses float64) func(*core.Candidate) {
		return func(c *core.Candidate) { *c = core.Candidate{SuccessRate: 0.5, Weight: 1, Uses: uses} }
	}
	const q = 0.5 / (1 + 50) // failure rate of the good candidates
	for name, x := range map[string]struct {
		change     func(*core.Candidate)
		idle, busy float64 // penalty without load, and with 2 attempts in flight through each candidate
	}{
		"as good":                         {func(*core.Candidate) {}, 1, 1},
		"new":                             {unknown(0), 1, 1},
		"used, without a result":          {unknown(3), 1, 16},
		"4 times as slow":                 {func(c *core.Candidate) { c.LatencyEWMA = 0.11 }, 1, 1},
		"6 times as slow":                 {func(c *core.Candidate) { c.LatencyEWMA = 0.17 }, 6, 6},
		"one failure of 100":              {failed(1, 100, 0), 1, 1},
		"10 failures of 100":              {failed(10, 100, 0), 16, 1 + 30*(0.1-q)},
		"half of 100":                     {failed(50, 100, 0), 16, 1 + 30*(0.5-q)},
		"all of 100":                      {failed(100, 100, 100), 16, 16},
		"one failure of 10":               {failed(1, 10, 0), 1, 16},
		"2 failures of 5":                 {failed(2, 5, 0), 16, 16},
		"2 failures of 5, all at the end": {failed(2, 5, 2), 1, 16},
		"nothing but 4 failures":          {failed(4, 4, 4), 1, 16},
		"4 failures, others forgotten":    {func(c *core.Candidate) { failed(4, 4, 4)(c); c.Uses = 50 }, 16, 16},
		"4 at the end, seldom used":       {seldom(failed(4, 100, 4)), 16, 1 + 30*(0.04-q)},
		"one at the end, seldom used":     {seldom(failed(1, 10, 1)), 1, 1},
		"nothing but 10 failures":         {failed(10, 10, 10), 16, 16},
		"4 failures at the end of 100":    {failed(4, 100, 4), 1, 1},
		"9 failures at the end of 100":    {failed(9, 100, 9), 1, 1},
		"10 failures at the end of 100":   {failed(10, 100, 10), 16, 1 + 30*(0.1-q)},
		"9 at the end, 20 before":         {failed(29, 100, 9), 16, 1 + 30*(0.29-q)},
		"a breaker that admits a probe":   {func(c *core.Candidate) { failed(5, 5, 5)(c); c.BreakerState = 2 }, 1, 1},
	} {
		for load, want := range map[float64]float64{0: x.idle, 2: x.busy} {
			list := rows{good(), good(), good(), good()}
			x.change(&list[3])
			for i := range list {
				list[i].InFlight = load
			}
			scores := make([]float64, 4)
			require.NoError(t, s.Score(list, scores))
			require.Equal(t, -(1 + load), scores[0], name)
			require.InEpsilon(t, min(want, 16), scores[3]/scores[0], 1e-9, "%s, %v in flight", name, load)
		}
	}
}

// A proxy that fails as often as the others is not worse, however often they fail.
func TestExploringComparesWithTheOthers(t *testing.T) {
	s, err := registry(t).Scorer("exploring", plugins.FallbackFirst)
	require.NoError(t, err)
	for _, failures := range []float64{0, 2, 5, 20, 50, 100} { // failures of 100 attempts
		list := make(rows, 8)
		for i := range list {
			list[i] = good()
			list[i].Samples, list[i].SuccessRate = 100, 1-failures/100
		}
		list[0].SuccessRate -= min(0.02, list[0].SuccessRate) // a difference that chance explains
		scores := make([]float64, 8)
		require.NoError(t, s.Score(list, scores))
		for _, score := range scores {
			require.Equal(t, scores[0], score, "%v failures of 100", failures)
		}
	}
}

// Weights have the same effect as in least_in_flight. Without attempts in flight, all proxies take turns.
func TestWeightsInExploring(t *testing.T) {
	s, err := registry(t).Scorer("exploring", plugins.FallbackFirst)
	require.NoError(t, err)
	list := rows{good(), good()}
	list[0].Weight = 3
	scores := make([]float64, 2)
	require.NoError(t, s.Score(list, scores))
	require.Equal(t, scores[0], scores[1])
	list[0].InFlight, list[1].InFlight = 2, 1
	require.NoError(t, s.Score(list, scores))
	require.Greater(t, scores[0], scores[1])
}

// Equal proxies take turns: with one request after the other as in round_robin, and with simultaneous
// requests as in least_in_flight.
func TestExploringTakesTurns(t *testing.T) {
	r := registry(t)
	sequence := func(name string, proxiesN, atOnce int) []string {
		scorer, err := r.Scorer(name, plugins.FallbackFirst)
		require.NoError(t, err)
		pool := upstream.NewPool(upstream.PoolConfig{Literal: true, Breaker: breaker.Default(), Now: time.Now})
		specs := make([]upstream.Spec, proxiesN)
		for i := range specs {
			specs[i] = upstream.Spec{ID: fmt.Sprint(i), Address: upstream.Address{Scheme: upstream.HTTP, Host: "p:1"}}
		}
		require.NoError(t, pool.Apply(specs))
		s := selector.New(pool, rand.Uint64, selector.DefaultMaxCandidates)
		for i, u := range pool.Snapshot().All { // gives each proxy a different latency
			for range 8 {
				lease, ok := u.Acquire(time.Now())
				require.True(t, ok)
				lease.Settle(&core.Outcome{Latency: time.Duration(20+i%7) * time.Millisecond})
				lease.Release()
			}
		}
		var chosen []string
		var held []upstream.Lease
		for range 5 * proxiesN {
			lease, err := s.Select(&selector.Query{Idempotent: true}, scorer, time.Now())
			require.NoError(t, err)
			chosen = append(chosen, lease.Proxy.ID())
			if held = append(held, lease); len(held) == atOnce {
				held[0].Settle(&core.Outcome{Latency: 25 * time.Millisecond})
				held[0].Release()
				held = held[1:]
			}
		}
		for i := range held {
			held[i].Release()
		}
		return chosen
	}
	for _, n := range []int{3, 10, 100} {
		for _, atOnce := range []int{1, 2, n, 4 * n} {
			as := "least_in_flight"
			if atOnce == 1 {
				as = "round_robin"
			}
			require.Equal(t, sequence(as, n, atOnce), sequence("exploring", n, atOnce), "%d proxies, %d at once", n,
				atOnce)
		}
	}
}
