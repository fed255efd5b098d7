package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

func TestObserved(t *testing.T) {
	for _, literal := range []bool{false, true} {
		r := newRig(t, 3)
		r.SetLiteral(literal)
		u := r.get(0)
		require.Zero(t, u.Observed().Failing)
		require.Negative(t, u.Observed().Served)
		r.try(u, true, time.Millisecond)
		r.pass(time.Second)
		require.Positive(t, u.Observed().Served)
		r.try(u, false, 0)
		r.pass(time.Second)
		r.try(r.get(1), true, time.Millisecond) // confirms the failure
		o := u.Observed()
		require.Equal(t, 1, o.Failures)
		require.Positive(t, o.Failing, "literal %v", literal)
		require.LessOrEqual(t, o.Failing, 2*time.Second)
		require.Positive(t, o.Evidence)
		require.False(t, o.Open)
		for u.Breaker().State() == core.Closed {
			r.try(u, false, 0)
			r.pass(10 * time.Millisecond)
			r.try(r.get(1), true, time.Millisecond)
		}
		o = u.Observed()
		require.True(t, o.Open)
		require.Equal(t, evidence.NeededEvidence, o.Evidence)
		require.Equal(t, o.Threshold, o.Failures)
		u.Reset()
		require.Zero(t, u.Observed().Failing)
		u.Breaker().OpenForCluster(time.Minute, "")
		require.False(t, u.Observed().Open, "the cluster has opened it")
	}
}

func TestAllocWithAGate(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now, ProbeGate: noGate{},
		OnFailure: func(*Upstream) {}})
	require.NoError(t, p.Apply([]Spec{{ID: "a", Address: Address{Scheme: HTTP, Host: "a:1"}, Weight: 1}}))
	u := p.Snapshot().Get("a")
	target := Target("t:1")
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		lease, ok := u.Acquire(time.Now())
		if !ok || !u.Admissible(0, true) {
			t.Error("not admitted")
		}
		lease.Target = target
		lease.Settle(&core.Outcome{Result: core.ResultSuccess, Verdict: core.Success})
		lease.Release()
	}))
}

type noGate struct{}

func (noGate) MayProbe(string) bool                { return false }
func (noGate) BeginProbe(string) (time.Time, bool) { return time.Time{}, false }

func TestSeed(t *testing.T) {
	r := newRig(t, 2)
	u := r.get(0)
	u.Seed(0.8, 1000, 2*time.Second)
	s := u.Stats()
	require.Equal(t, seedSamples, s.Samples)
	require.InDelta(t, 0.8, s.SuccessRate, 1e-9)
	require.InDelta(t, 2, s.LatencyMean.Seconds(), 1e-6)
	require.False(t, u.HasServed())
	u.Seed(0, 5, 0)
	require.InDelta(t, 0.8, u.Stats().SuccessRate, 1e-9, "it has statistics")
	require.Zero(t, r.UsedSince(r.Elapsed(r.now)-time.Minute))
	r.try(u, true, time.Millisecond)
	require.Equal(t, 1, r.UsedSince(r.Elapsed(r.now)-time.Minute))
}
