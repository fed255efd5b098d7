package upstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// A failure is not in the statistics if the target is the likely cause, because another proxy has failed
// there, too. An own failure is always in the statistics. If breaker.blame is "literal", every failure is.
func TestFailuresInTheStatistics(t *testing.T) {
	for _, x := range []struct {
		literal bool
		charge  core.Charge
		other   []core.Verdict // attempts of the other proxy
		counted bool
	}{
		{charge: core.ChargeProxyOrTarget, counted: true},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Success}, counted: true},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Failure}},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Failure, core.Success}, counted: true},
		{charge: core.ChargeProxy, other: []core.Verdict{core.Failure}, counted: true},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Failure}, literal: true, counted: true},
	} {
		now := time.Unix(1000, 0)
		pool := NewPool(PoolConfig{Literal: x.literal, Breaker: breaker.Default(), Memory: DefaultMemory,
			Now: func() time.Time { return now }})
		require.NoError(t, pool.Apply([]Spec{
			{ID: "a", Address: Address{Scheme: HTTP, Host: "a.test:1"}},
			{ID: "b", Address: Address{Scheme: HTTP, Host: "b.test:1"}},
		}))
		attempt := func(id string, o core.Outcome) {
			lease, ok := pool.Snapshot().Get(id).Acquire(now)
			require.True(t, ok)
			lease.Target = Target("t.test:80")
			lease.Settle(&o)
			lease.Release()
		}
		for _, v := range x.other {
			attempt("b", core.Outcome{Verdict: v, Charge: core.ChargeProxyOrTarget, Status: 503})
			now = now.Add(10 * time.Millisecond)
		}
		attempt("a", core.Outcome{Verdict: core.Failure, Charge: x.charge, Status: 503})
		samples := 0
		if x.counted {
			samples = 1
		}
		require.Equal(t, samples, pool.Snapshot().Get("a").Stats().Samples, fmt.Sprintf("%+v", x))
	}
}

// If the target later fails for the other proxies too, the failures of the last minute are removed from the statistics,
// unless the target has served a proxy in between.
func TestFailuresAreWithdrawnFromTheStatistics(t *testing.T) {
	const at, other = "dead.test:80", "other.test:80"
	type attempt struct {
		proxy  string
		target string
		v      core.Verdict
	}
	fails := func(proxies, target string) (all []attempt) {
		for _, p := range proxies {
			all = append(all, attempt{string(p), target, core.Failure})
		}
		return all
	}
	for name, x := range map[string]struct {
		before, after []attempt
		wait          time.Duration  // between the two
		want          map[string]int // samples
	}{
		"not yet":            {before: fails("aa", at), want: map[string]int{"a": 2}},
		"too few":            {before: fails("a", at), after: fails("bc", at), want: map[string]int{"a": 1}},
		"for all proxies":    {before: fails("a", at), after: fails("bbcca", at), want: map[string]int{}},
		"for a second proxy": {before: fails("aaaa", at), after: fails("b", at), want: map[string]int{}},
		"too long ago": {before: fails("a", at), wait: 61 * time.Second, after: fails("bbcca", at),
			want: map[string]int{"a": 1}},
		"at another target": {before: fails("a", at), after: fails("bbccb", other), want: map[string]int{"a": 1,
			"b": 2}},
		"elsewhere": {before: fails("a", other), after: fails("abbcca", at), want: map[string]int{"a": 1}},
		"served in between": {before: fails("a", at), after: append([]attempt{{"b", at, core.Success}},
			fails("c", at)...), want: map[string]int{"a": 1, "b": 1, "c": 1}},
		"its successes stay": {before: []attempt{{"a", other, core.Success}}, after: fails("abbcca", at),
			want: map[string]int{"a": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			pool := NewPool(PoolConfig{Breaker: breaker.Default(), Memory: DefaultMemory,
				Now: func() time.Time { return now }})
			var specs []Spec
			for _, id := range []string{"a", "b", "c"} {
				specs = append(specs, Spec{ID: id, Address: Address{Scheme: HTTP, Host: id + ".test:1"}})
			}
			require.NoError(t, pool.Apply(specs))
			do := func(attempts []attempt) {
				for _, a := range attempts {
					lease, ok := pool.Snapshot().Get(a.proxy).Acquire(now)
					require.True(t, ok)
					lease.Target = Target(a.target)
					lease.Settle(&core.Outcome{Verdict: a.v, Charge: core.ChargeProxyOrTarget,
						Latency: time.Millisecond})
					lease.Release()
					now = now.Add(10 * time.Millisecond)
				}
			}
			do(x.before)
			now = now.Add(x.wait)
			do(x.after)
			got := map[string]int{}
			for _, u := range pool.Snapshot().All {
				if n := u.Stats().Samples; n > 0 {
					got[u.ID()] = n
				}
			}
			require.Equal(t, x.want, got)
		})
	}
}

// A window whose latest failures were removed equals a window to which they were never added.
func TestRemoveFailures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attempts := rapid.SliceOfN(rapid.Bool(), 0, windowSize).Draw(t, "attempts")
		n := rapid.IntRange(0, 20).Draw(t, "n")
		older := rapid.IntRange(0, 150).Draw(t, "successes before")
		keep, left := make([]bool, len(attempts)), n
		for i := len(attempts) - 1; i >= 0; i-- {
			if keep[i] = attempts[i] || left == 0; !keep[i] {
				left--
			}
		}
		var got, want window
		var gotStats, wantStats stats
		gotStats.init()
		wantStats.init()
		add := func(w *window, s *stats, i int, ok bool) {
			v, latency := core.Failure, time.Duration(0)
			if ok {
				v, latency = core.Success, time.Duration(i)*time.Millisecond
			}
			w.add(s, v, latency, time.Duration(i)*time.Second, 0, true)
		}
		for i := range older % (windowSize - len(attempts) + 1) {
			add(&got, &gotStats, i, true)
			add(&want, &wantStats, i, true)
		}
		for i, ok := range attempts {
			add(&got, &gotStats, 200+i, ok)
			if keep[i] {
				add(&want, &wantStats, 200+i, ok)
			}
		}
		require.Equal(t, n-left, got.removeFailures(&gotStats, n))
		require.Equal(t, load(&wantStats.samples), load(&gotStats.samples))
		require.Equal(t, load(&wantStats.failures), load(&gotStats.failures))
		require.InDelta(t, load(&wantStats.successRate), load(&gotStats.successRate), 1e-9)
		require.InDelta(t, load(&wantStats.mean), load(&gotStats.mean), 1e-6)
		require.Equal(t, want.oldest.Load(), got.oldest.Load())
	})
}
