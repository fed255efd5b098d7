package upstream

import (
	"fmt"
	"slices"
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
		"not yet":                  {before: fails("aa", at), want: map[string]int{"a": 2}},
		"too few":                  {before: fails("a", at), after: fails("bc", at), want: map[string]int{"a": 1}},
		"for all proxies":          {before: fails("a", at), after: fails("bbcca", at), want: map[string]int{}},
		"for a second proxy":       {before: fails("aaaa", at), after: fails("b", at), want: map[string]int{}},
		"for the only other proxy": {before: fails("aa", at), after: fails("ccccc", at), want: map[string]int{}},
		"three failures of the only other proxy": {before: fails("aa", at), after: fails("ccc", at),
			want: map[string]int{"a": 2}},
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

// A window whose latest failures were removed, at one target or at all, equals a window to which they were never added.
func TestRemoveFailures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type attempt struct {
			ok     bool
			target targetTag
		}
		attempts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) attempt {
			return attempt{rapid.Bool().Draw(t, "ok"), tagOf(rapid.Uint64Range(0, 5).Draw(t, "target"))}
		}), 0, windowSize).Draw(t, "attempts")
		n := rapid.IntRange(0, 20).Draw(t, "n")
		target := rapid.SampledFrom([]targetTag{anyTarget, tagOf(0), tagOf(2), tagOf(6)}).Draw(t, "of target")
		older := rapid.IntRange(0, 150).Draw(t, "successes before")
		keep, left := make([]bool, len(attempts)), n
		for i, a := range slices.Backward(attempts) {
			if keep[i] = a.ok || left == 0 || target != anyTarget && a.target != target; !keep[i] {
				left--
			}
		}
		var got, want window
		var gotStats, wantStats stats
		gotStats.init()
		wantStats.init()
		add := func(w *window, s *stats, i int, a attempt) {
			v, r := core.Failure, attemptResult{at: time.Duration(i) * time.Second, target: a.target}
			if a.ok {
				v, r.latency = core.Success, time.Duration(i)*time.Millisecond
			}
			w.addAttempt(s, v, r, 0, true)
		}
		for i := range older % (windowSize - len(attempts) + 1) {
			add(&got, &gotStats, i, attempt{ok: true})
			add(&want, &wantStats, i, attempt{ok: true})
		}
		for i, a := range attempts {
			add(&got, &gotStats, 200+i, a)
			if keep[i] {
				add(&want, &wantStats, 200+i, a)
			}
		}
		require.Equal(t, n-left, got.removeFailures(&gotStats, n, target))
		require.Equal(t, load(&wantStats.samples), load(&gotStats.samples))
		require.Equal(t, load(&wantStats.failures), load(&gotStats.failures))
		require.InDelta(t, load(&wantStats.successRate), load(&gotStats.successRate), 1e-9)
		require.InDelta(t, load(&wantStats.mean), load(&gotStats.mean), 1e-6)
		require.Equal(t, want.oldest.Load(), got.oldest.Load())
	})
}

func TestElsewhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		var s stats
		type attempt struct {
			ok     bool
			target uint64
		}
		var all []attempt
		for i := range rapid.IntRange(0, 150).Draw(t, "attempts") {
			a := attempt{rapid.Bool().Draw(t, "ok"), rapid.SampledFrom([]uint64{2, 4, 1 << 40}).Draw(t, "target")}
			v := core.Failure
			if a.ok {
				v = core.Success
			}
			w.addAttempt(&s, v, attemptResult{time.Millisecond, time.Duration(i), tagOf(a.target)}, 0, true)
			all = append(all, a)
		}
		failures, attempts := 0, 0
		for _, a := range all[max(0, len(all)-windowSize):] {
			switch {
			case a.ok:
				attempts++
			case a.target != 4:
				attempts++
				failures++
			}
		}
		gotFailures, gotAttempts := w.countElsewhere(4)
		require.Equal(t, []int{failures, attempts}, []int{gotFailures, gotAttempts})
	})
}

// A proxy's failures are confirmed after its last attempt: the other proxy serves the target. The next sweep opens the
// breaker, and no further attempt through the proxy is needed.
func TestASweepOpensABreaker(t *testing.T) {
	for name, x := range map[string]struct {
		failures int
		served   bool
		wait     time.Duration // between the failures and the sweep
		literal  bool
		want     core.State
	}{
		"confirmed":              {failures: 5, served: true, want: core.Open},
		"not confirmed":          {failures: 5, want: core.Closed},
		"too few":                {failures: 4, served: true, want: core.Closed},
		"out of the window":      {failures: 5, served: true, wait: 61 * time.Second, want: core.Closed},
		"literal, opens at once": {failures: 5, literal: true, want: core.Open},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 2)
			r.SetLiteral(x.literal)
			for range 20 {
				r.try(r.get(0), true, time.Millisecond)
				r.try(r.get(1), true, time.Millisecond)
			}
			for range x.failures {
				r.try(r.get(0), false, time.Millisecond)
			}
			if x.served {
				require.Equal(t, core.Closed, r.get(0).Breaker().State())
				r.pass(10 * time.Millisecond)
				r.try(r.get(1), true, time.Millisecond)
				r.try(r.get(1), true, time.Millisecond)
			}
			r.now = r.now.Add(x.wait)
			r.Sweep()
			r.Sweep()
			require.Equal(t, x.want, r.get(0).Breaker().State())
			require.Equal(t, core.Closed, r.get(1).Breaker().State())
			if x.want == core.Open && !x.literal {
				require.GreaterOrEqual(t, r.get(0).EvidenceReport().Evidence, r.get(0).EvidenceReport().Needed)
			}
		})
	}
}
