package breaker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// fakeGate admits probes while open is set.
type fakeGate struct {
	open  bool
	until time.Time
}

func (g *fakeGate) MayProbe(string) bool                { return g.open }
func (g *fakeGate) BeginProbe(string) (time.Time, bool) { return g.until, g.open }

func TestFollowingTheCluster(t *testing.T) {
	now := time.Unix(0, 0)
	var got []core.Transition
	b := New("p", Default(), func() time.Time { return now }, func(tr core.Transition) { got = append(got, tr) })
	gate := &fakeGate{}
	b.shared.ProbeGate = gate
	b.OpenForCluster(20*time.Second, "fails for 2 of 2 nodes")
	require.Equal(t, core.Open, b.State())
	require.Equal(t, 20*time.Second, b.OpenTime())
	b.OpenForCluster(10*time.Second, "")
	require.Equal(t, 10*time.Second, b.OpenTime(), "open already: another open time")
	now = now.Add(10 * time.Second)
	require.Equal(t, core.HalfOpen, b.State())
	require.True(t, b.AwaitsProbe())
	require.False(t, b.Admissible())
	_, ok := b.Acquire()
	require.False(t, ok, "another gateway has the probe")
	b.CloseForCluster()
	b.CloseForCluster()
	require.Equal(t, core.Closed, b.State())
	_, ok = b.Acquire()
	require.True(t, ok, "a closed breaker has no gate")
	require.Len(t, got, 3)
	for _, i := range []int{0, 2} {
		require.Equal(t, ReasonCluster, got[i].Reason)
	}
	require.Equal(t, "fails for 2 of 2 nodes", got[0].Why)
}

func TestAProbeCountsOnlyUntilTheTimeOfTheGate(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		want  core.State
	}{{time.Second, core.Closed}, {3 * time.Second, core.HalfOpen}} {
		for _, headReceived := range []bool{false, true} {
			now := time.Unix(0, 0)
			b := New("p", Default(), func() time.Time { return now }, func(core.Transition) {})
			gate := &fakeGate{open: true}
			b.shared.ProbeGate = gate
			b.OpenForCluster(time.Second, "")
			now = now.Add(time.Second)
			gate.until = now.Add(2 * time.Second)
			permit, ok := b.Acquire()
			require.True(t, ok)
			require.True(t, b.HasProbe())
			if headReceived {
				permit.ReportHead()
			}
			now = now.Add(c.takes)
			permit.Report(core.Success, AlwaysEnough)
			require.Equal(t, c.want, b.State())
			require.False(t, b.HasProbe())
		}
	}
}

func TestFirstFailure(t *testing.T) {
	now := time.Unix(1000, 0)
	b := New("p", Default(), func() time.Time { return now }, func(core.Transition) {})
	_, found := b.FirstFailure()
	require.False(t, found)
	permit, _ := b.Acquire()
	permit.Report(core.Failure, AlwaysEnough)
	now = now.Add(30 * time.Second)
	at, found := b.FirstFailure()
	require.True(t, found)
	require.Equal(t, time.Unix(1000, 0), at)
	now = now.Add(time.Minute)
	_, found = b.FirstFailure()
	require.False(t, found, "out of the window")
}
