package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func (r *rig) row(u *Upstream) (c core.Candidate) {
	u.Fill(&c, r.Elapsed(r.now), 0)
	return c
}

// Failures on other gateways count in the columns of a scorer until a success here. They are no part of the statistics.
func TestLearn(t *testing.T) {
	r := newRig(t, 2)
	r.SetLiteral(false)
	u := r.get(0)
	for range 8 {
		r.try(u, true, time.Millisecond)
	}
	r.pass(time.Second)
	at := r.Elapsed(r.now)
	u.Learn(2, at, false)
	c := r.row(u)
	require.Equal(t, 2.0, c.ConsecutiveFailures)
	require.Equal(t, 10.0, c.Samples)
	require.Equal(t, 0.8, c.SuccessRate)
	require.Equal(t, 8.0, c.Uses)
	require.Equal(t, Stats{SuccessRate: 1, Samples: 8, LatencyMean: u.Stats().LatencyMean,
		LatencyEWMA: u.Stats().LatencyEWMA, Uses: 8, LastUsed: u.Stats().LastUsed}, u.Stats())
	require.Zero(t, u.Observed().Streak, "they are not this gateway's failures")
	u.Learn(1, at, false)
	require.Equal(t, 1.0, r.row(u).ConsecutiveFailures)
	r.try(u, false, 0)
	require.Equal(t, 2.0, r.row(u).ConsecutiveFailures)
	require.Equal(t, 1, u.Observed().Streak)
	r.try(u, true, time.Millisecond)
	c = r.row(u)
	require.Zero(t, c.ConsecutiveFailures)
	require.Equal(t, 10.0, c.Samples)
	require.Equal(t, 0.9, c.SuccessRate)
	u.Learn(3, at, true)
	require.Zero(t, r.row(u).ConsecutiveFailures, "it has served since then")
	require.True(t, u.Preferred(r.Elapsed(r.now)))

	r.pass(time.Second)
	u.Learn(3, r.Elapsed(r.now), false)
	require.Equal(t, 3.0, r.row(u).ConsecutiveFailures)
	u.Learn(0, 0, false)
	require.Zero(t, r.row(u).ConsecutiveFailures)
	u.Learn(3, r.Elapsed(r.now), false)
	r.pass(learntFor + time.Second)
	r.sweepWindows()
	require.Zero(t, r.row(u).ConsecutiveFailures, "the store may be lost")

	unused := r.get(1)
	unused.Learn(1, r.Elapsed(r.now), false)
	require.Equal(t, 1.0, r.row(unused).ConsecutiveFailures)
	require.Zero(t, r.row(unused).SuccessRate)
	require.Zero(t, unused.Stats().Samples)
	unused.Seed(0.5, 4, time.Second)
	require.Equal(t, 4, unused.Stats().Samples)
	require.Zero(t, unused.Observed().Streak)
}

// A full window stays full, as it does after a failure of this gateway.
func TestLearnFullWindow(t *testing.T) {
	r := newRig(t, 1)
	r.SetLiteral(false)
	u := r.get(0)
	for range windowSize {
		r.try(u, true, time.Millisecond)
	}
	r.pass(time.Second)
	u.Learn(5, r.Elapsed(r.now), false)
	require.Equal(t, float64(windowSize), r.row(u).Samples)
	require.Equal(t, 0.95, r.row(u).SuccessRate)
}

// A proxy whose breaker may open for the cluster is not preferred for a short time.
func TestLearnPauses(t *testing.T) {
	for _, literal := range []bool{false, true} {
		r := newRig(t, 1)
		r.SetLiteral(literal)
		u := r.get(0)
		at := func() time.Duration { return r.Elapsed(r.now) }
		r.try(u, true, time.Millisecond)
		before := u.slowStart.limit.Load()
		r.pass(time.Second)
		u.Learn(5, at(), true)
		require.Equal(t, literal, u.Preferred(at()))
		r.pass(learntPause + time.Millisecond)
		require.True(t, u.Preferred(at()))
		u.Learn(6, at(), true)
		require.Equal(t, literal, u.Preferred(at()))
		u.Learn(6, at(), false)
		require.True(t, u.Preferred(at()))
		require.Equal(t, before, u.slowStart.limit.Load())
		u.Learn(7, at(), true)
		r.pass(time.Millisecond)
		r.try(u, true, time.Millisecond)
		require.True(t, u.Preferred(at()))
		require.False(t, isPaused(u.slowStart.limit.Load()))
	}
}

func TestPausedLimits(t *testing.T) {
	for _, limit := range []int32{unreachedLimit, unservedLimit, unprovenLimit, 2, 4, 32, noLimit} {
		require.False(t, isPaused(limit))
		require.True(t, isPaused(pausedLimit(limit)))
		require.Equal(t, limit, pausedLimit(pausedLimit(limit)))
	}
}

// An exploration at another gateway postpones that of this one.
func TestLearnPostponesExplorations(t *testing.T) {
	r := newRig(t, 1)
	r.SetLiteral(false)
	u := r.get(0)
	r.try(u, true, time.Millisecond)
	r.pass(explorationWait - time.Second)
	u.Learn(1, r.Elapsed(r.now), false)
	r.pass(2 * time.Second)
	_, due := u.ExplorationDue(r.Elapsed(r.now))
	require.False(t, due)
	r.pass(explorationWait)
	_, due = u.ExplorationDue(r.Elapsed(r.now))
	require.True(t, due)
}
