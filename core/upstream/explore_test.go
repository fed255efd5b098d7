package upstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// rig is a pool with a clock that the test sets.
type rig struct {
	t   *testing.T
	now time.Time
	*Pool
}

func newRig(t *testing.T, proxies int) *rig {
	r := &rig{t: t, now: time.Unix(1000, 0)}
	r.Pool = NewPool(PoolConfig{Literal: true, Breaker: breaker.Default(), Memory: DefaultMemory,
		Now: func() time.Time { return r.now }})
	list := make([]Spec, proxies)
	for i := range list {
		list[i] = Spec{ID: fmt.Sprint(i), Address: Address{Scheme: HTTP, Host: "a.test:1"}}
	}
	require.NoError(t, r.Apply(list))
	return r
}

func (r *rig) get(i int) *Upstream { return r.Snapshot().Get(fmt.Sprint(i)) }

// pass advances the clock and sweeps the pool.
func (r *rig) pass(d time.Duration) {
	for end := r.now.Add(d); r.now.Before(end); r.Sweep() {
		r.now = r.now.Add(100 * time.Millisecond)
	}
}

// settle ends an attempt: with a success of the given latency, or with a failure.
func (r *rig) settle(lease Lease, ok bool, latency time.Duration) {
	o := core.Outcome{Verdict: core.Failure, Latency: latency}
	if ok {
		o.Verdict = core.Success
	}
	lease.Settle(&o)
	lease.Release()
}

func (r *rig) try(u *Upstream, ok bool, latency time.Duration) {
	lease, admitted := u.Acquire(r.now)
	require.True(r.t, admitted)
	r.settle(lease, ok, latency)
}

func (r *rig) explore(u *Upstream, ok bool) {
	lease, admitted := u.Acquire(r.now)
	if admitted {
		u.CountExploration()
	}
	require.True(r.t, admitted)
	r.settle(lease, ok, time.Millisecond)
}

func (r *rig) idle() (ids []string) {
	for _, u := range r.DueExplorations() {
		ids = append(ids, u.ID())
	}
	return ids
}

// Old attempts leave the statistics even if there is no new attempt. This is also true in a pool larger than
// one sweep.
func TestStatisticsAge(t *testing.T) {
	for _, proxies := range []int{1, 2*sweepProxies + 1} {
		r := newRig(t, proxies)
		u := r.get(proxies - 1)
		jump := func(d time.Duration) { // advances the time, and then sweeps each proxy once
			r.now = r.now.Add(d - 300*time.Millisecond)
			r.pass(300 * time.Millisecond)
		}
		for range 3 {
			r.try(u, true, 20*time.Millisecond)
		}
		jump(time.Minute)
		r.try(u, false, 0)
		r.try(u, false, 0)
		jump(9*time.Minute - time.Second)
		s := u.Stats()
		require.Equal(t, 5, s.Samples)
		require.Equal(t, 0.6, s.SuccessRate)
		jump(2 * time.Second)
		s = u.Stats()
		require.Equal(t, 2, s.Samples, "the successes are forgotten")
		require.Zero(t, s.SuccessRate)
		require.Zero(t, s.LatencyMean)
		require.Zero(t, s.LatencyEWMA)
		var row core.Candidate
		u.Fill(&row, r.Elapsed(r.now), 0)
		require.Equal(t, 2.0, row.ConsecutiveFailures)
		jump(time.Minute)
		s = u.Stats()
		require.Zero(t, s.Samples)
		require.Equal(t, 0.5, s.SuccessRate)
		u.Fill(&row, r.Elapsed(r.now), 0)
		require.Zero(t, row.ConsecutiveFailures)

		r.SetMemory(0)
		r.try(u, false, 0)
		jump(time.Hour)
		require.Equal(t, 1, u.Stats().Samples, "0 is for ever")
		r.SetMemory(time.Minute)
		jump(time.Second)
		require.Zero(t, u.Stats().Samples, "a change holds for what is remembered")
	}
}

// DueExplorations returns the proxies with a closed breaker and a free place that no selection has chosen for 30 s. The
// proxy that has been idle longest comes first.
func TestIdleProxies(t *testing.T) {
	r := newRig(t, 5)
	for i := range 3 {
		r.try(r.get(i), true, time.Millisecond)
		r.pass(time.Second)
	}
	for range 5 {
		r.try(r.get(4), false, 0) // its breaker opens
	}
	r.pass(26 * time.Second)
	require.Empty(t, r.idle())
	r.pass(1200 * time.Millisecond)
	require.Equal(t, []string{"3", "0"}, r.idle(), "3 was never chosen, and is as old as the pool")
	r.pass(3 * time.Second)
	require.Equal(t, []string{"3", "0", "1", "2"}, r.idle())
	r.explore(r.get(0), true)
	held, ok := r.get(1).Acquire(r.now)
	require.True(t, ok)
	err := r.UpdateAll(Updates{"2": func(s *Spec) error { s.Extras = &Extras{MaxInFlight: 1}; return nil }})
	require.NoError(t, err)
	full, ok := r.get(2).Acquire(r.now.Add(-time.Minute))
	require.True(t, ok)
	r.pass(100 * time.Millisecond)
	require.Equal(t, []string{"3"}, r.idle())
	held.Release()
	full.Release()
	require.NoError(t, r.Remove("3", false))
	r.pass(100 * time.Millisecond)
	require.Equal(t, []string{"2"}, r.idle())
}

// In a pool larger than one sweep all idle proxies are found, and the list has at most maxDueExplorations.
func TestIdleProxiesOfALargePool(t *testing.T) {
	r := newRig(t, 2*sweepProxies+500)
	r.pass(29 * time.Second)
	require.Empty(t, r.DueExplorations())
	found := map[*Upstream]bool{}
	for range 150 {
		r.pass(300 * time.Millisecond)
		require.LessOrEqual(t, len(r.DueExplorations()), maxDueExplorations)
		for _, u := range r.DueExplorations() {
			if _, yes := u.ExplorationDue(r.Elapsed(r.now)); yes {
				found[u] = true
				r.explore(u, true)
			}
		}
	}
	require.Len(t, found, 2*sweepProxies+500)
}

// A proxy that keeps failing is explored every 30 s; if breaker.blame is "literal", less and less often.
func TestExplorationsOfAFailingProxy(t *testing.T) {
	for _, literal := range []bool{false, true} {
		r := newRig(t, 1)
		r.SetLiteral(literal)
		u := r.get(0)
		r.try(u, true, time.Millisecond)
		begin, last := r.now, r.now
		for r.now.Sub(begin) < 2*time.Hour {
			r.pass(100 * time.Millisecond)
			if len(r.DueExplorations()) == 0 {
				continue
			}
			wait := 30 * time.Second
			if literal {
				wait = min(max(last.Sub(begin)/10, wait), 10*time.Minute)
			}
			require.InDelta(t, wait.Seconds(), r.now.Sub(last).Seconds(), 0.11)
			last = r.now
			r.explore(u, false)
		}
	}
}

// A trial removes the failures after four successes in a row; if breaker.blame is "literal", it removes all older
// attempts. It ends with a failure. At most one exploration is in flight at a time.
func TestTrials(t *testing.T) {
	t.Run("evidence", func(t *testing.T) { testTrials(t, false) })
	t.Run("literal", func(t *testing.T) { testTrials(t, true) })
}

func testTrials(t *testing.T, literal bool) {
	r := newRig(t, 1)
	r.SetLiteral(literal)
	u := r.get(0)
	begin := func() {
		for range 50 {
			r.try(u, true, time.Millisecond)
		}
		r.try(u, false, 0)
		r.pass(31 * time.Second)
		require.NotEmpty(t, r.DueExplorations())
	}
	begin()
	for i := range trialSuccesses {
		require.Equal(t, 51+i, u.Stats().Samples)
		lease, ok := u.Acquire(r.now)
		u.CountExploration()
		require.True(t, ok)
		r.pass(2 * time.Second)
		require.Empty(t, r.DueExplorations(), "one exploration is under way")
		r.settle(lease, true, time.Millisecond)
		r.pass(time.Second)
		require.Equal(t, i < trialSuccesses-1, len(r.DueExplorations()) > 0)
	}
	require.Equal(t, trialSuccesses, u.Stats().Samples)
	require.Equal(t, 1.0, u.Stats().SuccessRate)

	begin()
	samples := u.Stats().Samples
	r.explore(u, true)
	require.True(t, u.OnTrial())
	r.try(u, true, time.Millisecond) // an attempt that a selection chose counts as well
	r.explore(u, false)
	require.False(t, u.OnTrial())
	require.Equal(t, samples+3, u.Stats().Samples, "nothing is forgotten")
	r.pass(29 * time.Second)
	require.Empty(t, r.DueExplorations())
}

// A proxy without failures has no trial, unless it was slow.
func TestTrialsOfHealthyProxies(t *testing.T) {
	for name, c := range map[string]struct {
		before time.Duration // latency
		trial  bool
	}{"not much faster": {1500 * time.Microsecond, false}, "thrice as fast": {3 * time.Millisecond, true}} {
		r := newRig(t, 1)
		u := r.get(0)
		for range 10 {
			r.try(u, true, c.before)
		}
		r.pass(31 * time.Second)
		r.explore(u, true)
		require.Equal(t, c.trial, u.OnTrial(), name)
		for u.OnTrial() {
			r.pass(1100 * time.Millisecond)
			r.explore(u, true)
		}
		require.Equal(t, c.trial, u.Stats().Samples == trialSuccesses, name)
		require.Equal(t, c.trial, u.Stats().LatencyEWMA == time.Millisecond, name)
	}
}

// After a trial, the mean latency is not only that of the trial, unless the proxy has become faster or slower.
func TestATrialKeepsTheUsualLatency(t *testing.T) {
	for name, c := range map[string]struct{ before, mean time.Duration }{ // latencies; in the trial, 1 ms
		"as before": {1200 * time.Microsecond, 1150 * time.Microsecond}, // 12 before the trial, 4 in it
		"faster":    {2 * time.Millisecond, time.Millisecond},
		"slower":    {time.Millisecond / 2, time.Millisecond},
	} {
		r := newRig(t, 1)
		r.SetLiteral(false)
		u := r.get(0)
		for range 50 {
			r.try(u, true, c.before)
		}
		r.try(u, false, 0)
		r.pass(31 * time.Second)
		for range trialSuccesses {
			r.explore(u, true)
			r.pass(1100 * time.Millisecond)
		}
		require.Equal(t, trialSuccesses, u.Stats().Samples, name)
		require.Equal(t, 1.0, u.Stats().SuccessRate, name)
		require.InDelta(t, c.mean.Seconds(), u.Stats().LatencyMean.Seconds(), 1e-6, name)
	}
}

// The success rate after a trial is that of the attempts since the beginning of the trial: a proxy that fails half of
// the time may pass a trial by luck.
func TestALuckyTrialHidesNoFailures(t *testing.T) {
	r := newRig(t, 1)
	r.SetLiteral(false)
	u := r.get(0)
	for range 50 {
		r.try(u, true, time.Millisecond)
	}
	for range 3 { // too few for the breaker, with the one below
		r.try(u, false, 0)
		r.try(u, true, time.Millisecond)
	}
	r.pass(31 * time.Second)
	for range trialSuccesses {
		r.explore(u, true)
		r.pass(1100 * time.Millisecond)
	}
	require.False(t, u.OnTrial())
	counted, passed := 5, 5 // the trial, and the success before it
	require.Equal(t, counted, u.Stats().Samples)
	r.try(u, false, 0)
	for counted++; counted < windowSize; counted++ {
		require.Equal(t, counted, u.Stats().Samples)
		require.Equal(t, float64(passed)/float64(counted), u.Stats().SuccessRate)
		r.try(u, true, time.Millisecond)
		passed++
	}
	require.InDelta(t, 0.001, u.Stats().LatencyMean.Seconds(), 1e-6)
}

func TestAClosedBreakerBeginsATrial(t *testing.T) {
	r := newRig(t, 1)
	u := r.get(0)
	for range 5 {
		r.try(u, false, 0)
	}
	require.Equal(t, core.Open, u.Breaker().State())
	r.pass(31 * time.Second)
	require.Empty(t, r.DueExplorations())
	r.try(u, true, time.Millisecond)
	require.Equal(t, core.Closed, u.Breaker().State())
	for range trialSuccesses {
		require.True(t, u.OnTrial())
		r.pass(1100 * time.Millisecond)
		require.Len(t, r.DueExplorations(), 1)
		r.explore(u, true)
	}
	require.False(t, u.OnTrial())
	require.Equal(t, 1.0, u.Stats().SuccessRate)
}

// A region's group holds the region's proxies in both orders, after any change of the pool.
func TestRegions(t *testing.T) {
	r := newRig(t, 40)
	for i := range 30 {
		err := r.UpdateAll(Updates{fmt.Sprint(i): func(s *Spec) error {
			s.Region = []string{"eu", "us"}[i%2]
			return nil
		}})
		require.NoError(t, err)
	}
	check := func(region string, want int) {
		var all, mixed []*Upstream
		for _, u := range r.Snapshot().All {
			if u.Spec().Region == region {
				all = append(all, u)
			}
		}
		for _, u := range r.Snapshot().Mixed {
			if u.Spec().Region == region {
				mixed = append(mixed, u)
			}
		}
		require.Len(t, all, want)
		g := r.Snapshot().Region(core.RegionHash(region))
		require.Equal(t, all, g.All)
		require.Equal(t, mixed, g.Mixed)
	}
	check("eu", 15)
	check("us", 15)
	require.NoError(t, r.Remove("0", false))
	check("eu", 14)
	require.Nil(t, r.Snapshot().Region(core.Hash53("jp")))
	require.Nil(t, r.Snapshot().Region(0), "proxies without a region have none")
}

// A proxy that selections choose now and then, and that has not failed for 30 s, gets a trial.
func TestASuccessLongAfterTheLastFailureBeginsATrial(t *testing.T) {
	for _, literal := range []bool{false, true} {
		r := newRig(t, 3)
		r.SetLiteral(literal)
		u := r.get(0)
		for range 50 {
			r.try(u, true, time.Millisecond)
		}
		r.try(u, false, 0)
		r.pass(29 * time.Second)
		r.try(u, true, time.Millisecond)
		require.False(t, u.OnTrial())
		r.pass(2 * time.Second)
		r.try(u, true, time.Millisecond)
		require.Equal(t, !literal, u.OnTrial())
		if literal {
			continue
		}
		for range trialSuccesses {
			require.Less(t, u.Stats().SuccessRate, 1.0)
			r.try(u, true, time.Millisecond)
		}
		require.False(t, u.OnTrial())
		require.Equal(t, trialSuccesses+2, u.Stats().Samples, "those since the failure")
		r.pass(time.Minute)
		r.try(u, true, time.Millisecond)
		require.False(t, u.OnTrial(), "there are no failures to replace")
	}
}
