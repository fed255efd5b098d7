package workload

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
)

func TestSchedule(t *testing.T) {
	w := &Workload{Seed: 3, Requests: 20_000, Rate: 40, Targets: 4}
	list := w.Schedule()
	require.Len(t, list, w.Requests)
	require.True(t, slices.IsSortedFunc(list, func(a, b Request) int { return int(a.At - b.At) }))
	require.InEpsilon(t, 500, list[len(list)-1].At.Seconds(), 0.05, "the rate")
	byTarget := map[int]int{}
	for _, q := range list {
		byTarget[q.Target]++
	}
	require.Len(t, byTarget, 4)
	require.InEpsilon(t, 5000, byTarget[2], 0.05)
	require.Equal(t, list, w.Schedule())
}

func TestLuckIsUniform(t *testing.T) {
	w := &Workload{Seed: 3}
	first, both := 0, 0
	for id := range 20_000 {
		if w.Luck(id, 0) < 0.3 {
			first++
			if w.Luck(id, 1) < 0.3 {
				both++
			}
		}
	}
	require.InDelta(t, 0.3, float64(first)/20_000, 0.01)
	require.InDelta(t, 0.3, float64(both)/float64(first), 0.02, "attempts are independent")
}

func TestLatencyIsAroundItsMedian(t *testing.T) {
	w := &Workload{Seed: 3}
	below := 0
	for id := range 10_000 {
		l := w.Latency(id, 0, time.Second)
		require.Positive(t, l)
		if l < time.Second {
			below++
		}
	}
	require.InDelta(t, 0.5, float64(below)/10_000, 0.02)
}

// The oracle never chooses a bad proxy while there is a good one. It makes at most the given number of
// attempts.
func TestOracle(t *testing.T) {
	w := New(1, 0.1).base("test")
	bad := faults.State{Refuses: true}
	half := w.Duration() / 2
	w.Pool = faults.Pool{faults.SwitchingProxy(bad, faults.State{}, half),
		faults.SwitchingProxy(faults.State{}, bad, half)}
	o := w.Oracle(3)
	require.Equal(t, w.Requests, o.ServedCount())
	require.Equal(t, w.Requests, o.AttemptCount())
	require.Zero(t, o.BadAttempts)

	for fails, bad := range map[float64]int{0.69: 0, 0.7: w.Requests, 1: w.Requests} {
		w.Pool = faults.Pool{faults.SteadyProxy(faults.State{Fails: fails})}
		require.Equal(t, bad, w.Oracle(1).BadAttempts, "the same rule as for a gateway: at least 70 %%")
	}

	w.Pool = slices.Repeat(faults.Pool{faults.SteadyProxy(faults.State{Fails: 0.5})}, 8)
	for _, attempts := range []int{1, 2, 3} {
		expected := 0
		for id := range w.Requests {
			for n := range attempts {
				if w.Luck(id, n) >= 0.5 {
					expected++
					break
				}
			}
		}
		require.Equal(t, expected, w.Oracle(attempts).ServedCount())
	}
}

// The observer learns of a change by an attempt, and finds out later that a proxy has recovered.
func TestObserver(t *testing.T) {
	w := New(1, 0.1).base("test")
	bad, half := faults.State{Refuses: true}, w.Duration()/2
	w.Pool = faults.Pool{faults.SteadyProxy(bad), faults.SteadyProxy(faults.State{})}
	o := w.Observer(3)
	require.Equal(t, w.Requests, o.ServedCount())
	require.Equal(t, 1, o.BadAttempts, "it has learnt that the first proxy is bad")
	require.Equal(t, w.Requests+1, o.AttemptCount())

	w.Pool = faults.Pool{faults.SwitchingProxy(bad, faults.State{}, half),
		faults.SwitchingProxy(faults.State{}, bad, half)}
	o = w.Observer(3)
	require.Equal(t, w.Requests, o.ServedCount())
	require.Greater(t, o.BadAttempts, 1)
	require.Equal(t, o, w.Observer(3))

	for _, k := range Kinds() {
		w := k.Make(New(1, 0.1), 0.3)
		require.LessOrEqual(t, w.Observer(3).ServedCount(), w.Oracle(3).ServedCount(), k.Name)
	}
}

func TestOutcome(t *testing.T) {
	o := Outcome{Served: []bool{true, true, false, true}, Attempts: []uint8{1, 2, 3, 3}, Latency: []float64{1, 2, 3, 4}}
	require.Equal(t, 3, o.ServedCount())
	require.Equal(t, 9, o.AttemptCount())
	require.Equal(t, []float64{2, 4}, o.RetriedLatencies())
	require.Equal(t, 2, o.ServedWithin(2))
	served, n := o.FirstRetries()
	require.Equal(t, []int{1, 3}, []int{served, n})
}

// Each variant differs from the default.
func TestVariants(t *testing.T) {
	for _, v := range Variants() {
		cfg := engine.DefaultConfig()
		v.Change(&cfg)
		if v.Name == Default {
			require.Equal(t, engine.DefaultConfig(), cfg)
		} else {
			require.NotEqual(t, engine.DefaultConfig(), cfg, v.Name)
		}
	}
	require.NotContains(t, Parts(), Default)
	require.NotContains(t, Parts(), Rotation)
}

// Each job has the pool that its name promises, and a unique name.
func TestJobs(t *testing.T) {
	names := map[string]bool{}
	for _, j := range Jobs(New(1, 0.1)) {
		require.False(t, names[j.Workload.Name], j.Workload.Name)
		names[j.Workload.Name] = true
		require.NotEmpty(t, j.Workload.Pool, j.Workload.Name)
		require.GreaterOrEqual(t, j.Workload.Requests, 100, j.Workload.Name)
		for _, p := range j.Workload.Pool {
			require.NotEmpty(t, p.Changes, j.Workload.Name)
			require.Zero(t, p.Changes[0].At, j.Workload.Name)
		}
	}
	for _, k := range Kinds() {
		require.True(t, names[k.Make(New(1, 1), PartsLevel).Name+", short"], "%s has a point on sockets", k.Name)
	}
	list := New(1, 1).FreeList()
	refuse, hang := 0, 0
	for i := range list.Pool {
		switch s := list.Pool[i].At(0, 0); {
		case s.Refuses:
			refuse++
		case s.Hangs:
			hang++
		}
	}
	require.Equal(t, []int{180, 8, 200}, []int{refuse, hang, len(list.Pool)})
	for _, w := range New(1, 1).PeerWorkloads() {
		control := w.Control()
		require.Len(t, control.Pool, 1, w.Name)
		require.Zero(t, control.Pool[0].At(0, control.Duration()).Loss(), w.Name)
	}
}
