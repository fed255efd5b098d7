package wasmhost_test

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// manual is a clock that the test sets: the time, and the CPU time of all threads.
type manual struct{ clock, cpu atomic.Int64 }

func (m *manual) host(limits wasmhost.Limits) *wasmhost.Host {
	host := wasmhost.New(limits, "")
	host.SetClock(
		func() time.Time { return time.Unix(0, m.clock.Load()) },
		func() time.Duration { return time.Duration(m.cpu.Load()) },
	)
	return host
}

// endless returns a scorer that never ends by itself, except in the first call. It has unlimited fuel.
func endless(t *testing.T, host func(wasmhost.Limits) *wasmhost.Host) *wasmhost.Module {
	limits := wasmhost.DefaultLimits()
	limits.Fuel, limits.Wait = math.MaxInt64/2, time.Minute
	m, err := host(limits).Load(w.Scorer(w.Unless256(w.SpinLoop...)...).Bytes(), nil)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

// A garbage collection, which stops every goroutine, ends while a guest runs.
func TestAGarbageCollectionDoesNotWaitForAGuest(t *testing.T) {
	var clock manual
	m := endless(t, clock.host)
	ended := make(chan error, 1)
	go func() { ended <- m.Score(rows{{}, {}}, make([]float64, 2)) }()
	for range 20 {
		runtime.GC()
	}
	require.Empty(t, ended, "the guest runs still")
	clock.clock.Store(int64(time.Hour)) // so that the first slice ended long ago
	for len(ended) == 0 {
		clock.clock.Add(int64(time.Hour))
		runtime.Gosched()
	}
	require.ErrorIs(t, <-ended, wasmhost.ErrBusy)
}

func TestACallIsEndedAfterItsCPUTime(t *testing.T) {
	var clock manual
	m := endless(t, func(limits wasmhost.Limits) *wasmhost.Host {
		host := wasmhost.New(limits, "")
		host.SetClock( // a slice takes 1 ms of time and of CPU time
			func() time.Time { return time.Unix(0, clock.clock.Add(1e6)) },
			func() time.Duration { return time.Duration(clock.clock.Load()) },
		)
		return host
	})
	err := m.Score(rows{{}, {}}, make([]float64, 2))
	require.EqualError(t, err, "timeout: the call took longer than 20ms of CPU time")
	require.InDelta(t, 20e6, clock.clock.Load(), 3e6)
	require.NoError(t, m.Score(make(rows, 256), make([]float64, 256)), "the next call has another instance")
}

// A call that uses more than half of its CPU time is slow. A call that uses all of it fails.
func TestSlowCalls(t *testing.T) {
	for _, c := range []struct {
		slices int32 // number of slices of 1 ms
		slow   bool
		fails  bool
	}{{1, false, false}, {5, false, false}, {8, false, false}, {14, true, false}, {17, true, false}, {40, false,
		true}} {
		var clock manual
		host := wasmhost.New(wasmhost.DefaultLimits(), "")
		host.SetClock(
			func() time.Time { return time.Unix(0, clock.clock.Add(1e6)) },
			func() time.Duration { return time.Duration(clock.clock.Load()) },
		)
		scorer := w.Scorer(w.Join(w.Unless256(w.CountedLoop(c.slices*20_000/6, 4)...), w.Scores(1))...)
		scorer.Func("score").Locals = []w.Group{{Count: 1, Type: w.I32}}
		m, err := host.Load(scorer.Bytes(), nil)
		require.NoError(t, err)
		require.Equal(t, 10*time.Millisecond, m.SlowLimit())
		for call := range uint64(3) {
			err = m.Score(rows{{}, {}}, make([]float64, 2))
			require.Equal(t, c.fails, err != nil, "%d slices: %v", c.slices, err)
			want := uint64(0)
			if c.slow {
				want = call + 1
			}
			require.Equal(t, want, m.SlowCalls(), "%d slices", c.slices)
		}
		m.Close()
	}
}

// On a loaded machine, a call waits for a processor for 90 % of its time. The call is ended only after 250 ms, and its
// end is not a plugin fault.
func TestACallThatWaitsForAProcessorIsNotEndedSoon(t *testing.T) {
	var clock manual
	m := endless(t, func(limits wasmhost.Limits) *wasmhost.Host {
		host := wasmhost.New(limits, "")
		host.SetClock(
			func() time.Time { return time.Unix(0, clock.clock.Add(1e6)) },
			func() time.Duration { return time.Duration(clock.clock.Load() / 20) },
		)
		return host
	})
	err := m.Score(rows{{}, {}}, make([]float64, 2))
	require.Equal(t, "busy", reasonOf(err))
	require.ErrorIs(t, err, wasmhost.ErrBusy)
	require.ErrorContains(t, err, "did not end within 250ms")
	require.InDelta(t, 250e6, clock.clock.Load(), 3e6)
}

// For a tool, only CPU time ends calls.
func TestOnlyCPUTime(t *testing.T) {
	var clock manual
	m := endless(t, func(limits wasmhost.Limits) *wasmhost.Host {
		host := wasmhost.New(limits, "")
		host.SetClock(
			func() time.Time { return time.Unix(0, clock.clock.Add(1e9)) },
			func() time.Duration { return time.Duration(clock.clock.Load() / 1e3) },
		)
		return host.OnlyCPUTime()
	})
	require.Equal(t, "timeout", reasonOf(m.Score(rows{{}, {}}, make([]float64, 2))))
	require.Greater(t, clock.clock.Load(), int64(15e9))
}

// A module whose calls or start use more than a quarter of their timeout is refused. The error has the
// figure.
func TestAModuleThatIsSlowWhenTriedIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		took time.Duration // CPU time of the start, and CPU time of a call
		says string
	}{
		"quick": {5 * time.Millisecond, ""},
		"slow": {6 * time.Millisecond,
			"a trial call failed: a call took 6ms of CPU time; it may take 5ms when it is tried, a " +
				"quarter of plugins.call_timeout (20ms)"},
		"slower": {70 * time.Millisecond,
			"the start took 70ms of CPU time; it may take 62.5ms when it is tried, a quarter of the timeout of a " +
				"start (250ms)"},
	} {
		t.Run(name, func(t *testing.T) {
			var cpu time.Duration
			host := wasmhost.New(wasmhost.DefaultLimits(), "")
			host.SetClock(time.Now, func() time.Duration { cpu += c.took; return cpu })
			m, err := host.Load(w.Scorer().Bytes(), nil)
			if c.says == "" {
				require.NoError(t, err)
				m.Close()
				return
			}
			require.EqualError(t, err, c.says)
		})
	}
}

// The CPU time of a thread increases while the thread works, and not while it sleeps.
func TestThreadTime(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it is the time by the clock here")
	}
	limits := wasmhost.DefaultLimits()
	limits.Fuel, limits.CallTimeout = math.MaxInt64/2, 30*time.Millisecond
	host := wasmhost.New(limits, "").OnlyCPUTime() // a busy machine may exceed the limit of real time
	m, err := host.Load(w.Scorer(w.Unless256(w.SpinLoop...)...).Bytes(), nil)
	require.NoError(t, err)
	defer m.Close()
	require.EqualError(t, m.Score(rows{{}, {}}, make([]float64, 2)),
		"timeout: the call took longer than 30ms of CPU time")
}

// A call whose stack grows too much is ended. Stacks that grew in the first call are freed. Stacks that grow
// later are kept up to a limit.
func TestStacksAreBounded(t *testing.T) {
	_, err := patient().Load(w.DeepScorer(100_000).Bytes(), nil)
	require.ErrorContains(t, err, "trap: the stack of the call grew beyond 1024 KiB")

	m, err := patient().Load(w.DeepScorer(10_000).Bytes(), nil)
	require.NoError(t, err, "10,000 calls of a small function fit")
	defer m.Close()
	require.Len(t, m.Stacks(), 2, "of reserve and score")
	for _, size := range m.Stacks() {
		require.Positive(t, size, "wazero keeps it in the field that stackOf reads")
		require.LessOrEqual(t, size, wasmhost.KeptStack)
	}

	sum := func() (bytes int) {
		for _, size := range m.Stacks() {
			bytes += size
		}
		return bytes
	}
	require.NoError(t, m.Score(rows{{}, {}}, make([]float64, 2)))
	one := sum()
	require.Greater(t, one, wasmhost.KeptStack, "the next call does not let it grow again")
	require.NoError(t, m.Score(rows{{}, {}}, make([]float64, 2)))
	require.Equal(t, one, sum())
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 10 {
				require.NoError(t, m.Score(rows{{}, {}}, make([]float64, 2)))
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, sum(), wasmhost.KeptStacks+len(m.Stacks())*wasmhost.KeptStack)
}

// The memory that the host allocates for the deepest recursion is limited, however large a frame is in
// relation to its fuel.
func TestADeepRecursionTakesLittleMemory(t *testing.T) {
	for _, name := range []string{"calls itself", "recursion with many results", "recursion with hidden frames"} {
		m, err := patient().Load(calls()[name].build(true).Bytes(), nil)
		require.NoError(t, err)
		defer m.Close()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		require.Equal(t, "trap", reasonOf(m.Score(rows{{}, {}}, make([]float64, 2))))
		runtime.ReadMemStats(&after)
		t.Logf("%s: %d KiB", name, (after.TotalAlloc-before.TotalAlloc)>>10)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16*wasmhost.MaxStack), name)
	}
}
