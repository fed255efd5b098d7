package wasmhost_test

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// grown returns a scorer that fills its memory up to the limit, and then uses almost all of its fuel.
func grown() []byte {
	countdown := func(n int32) []byte { // returns a loop with n passes; parameter 3 is the counter
		return w.Join(w.Const32(n), []byte{w.LocalSet, 3, w.Loop, w.Empty, w.LocalGet, 3}, w.Const32(1),
			[]byte{w.I32Sub, 0x22, 3, w.BrIf, 0, w.End}) // local.tee
	}
	return w.Join(w.Const32(255), []byte{w.MemoryGrow, 0, w.Drop}, countdown(100_000))
}

// A slow plugin that takes all the memory that it may use gets ten thousand simultaneous calls. Few
// instances exist, and no call waits for long.
func TestTenThousandCallsAtOnce(t *testing.T) {
	limits := wasmhost.DefaultLimits()
	limits.Instances, limits.Wait, limits.CallTimeout = 4, 20*time.Millisecond, time.Minute
	m, err := wasmhost.New(limits, "").Load(w.Scorer(grown()...).Bytes(), nil)
	require.NoError(t, err)
	defer m.Close()

	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	var answered, busy atomic.Int64
	var wg sync.WaitGroup
	var c core.Candidates = rows{{}, {}}
	for range 10_000 {
		wg.Go(func() {
			err := m.Score(c, make([]float64, 2))
			switch {
			case err == nil:
				answered.Add(1)
			case errors.Is(err, wasmhost.ErrBusy):
				busy.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	runtime.ReadMemStats(&during)
	require.EqualValues(t, 10_000, answered.Load()+busy.Load())
	require.Positive(t, answered.Load())
	t.Logf("%d answered, %d found no idle instance", answered.Load(), busy.Load())
	require.LessOrEqual(t, m.Instances(), 4)
	require.Less(t, int64(during.Sys-before.Sys), int64(512<<20), "4 instances of 16 MiB, and ten thousand goroutines")
}

// Each call uses an instance alone, however many calls there are.
func TestCallsShareInstances(t *testing.T) {
	limits := wasmhost.DefaultLimits()
	limits.Wait = time.Minute
	m, err := wasmhost.New(limits, "").Load(builtin.Modules()["performance"], nil)
	require.NoError(t, err)
	defer m.Close()
	var wg sync.WaitGroup
	var c core.Candidates = make(rows, 50)
	for range 2000 {
		wg.Go(func() {
			scores := make([]float64, 50)
			for range 5 {
				if err := m.Score(c, scores); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, m.Instances(), limits.Instances)
}

// A plugin that learns has one instance. Its calls run one after the other.
func TestLearnersTakeTurns(t *testing.T) {
	limits := wasmhost.DefaultLimits()
	limits.Wait, limits.ObserveWait = time.Minute, time.Minute
	m, err := wasmhost.New(limits, "").Load(w.Scorer(w.Scores(1)...).Add(w.Func{Export: "observe",
		Params: []byte{w.I32}}).Bytes(), nil)
	require.NoError(t, err)
	defer m.Close()
	require.True(t, m.Learns())
	var wg sync.WaitGroup
	var c core.Candidates = make(rows, 10)
	for range 500 {
		wg.Go(func() {
			scores := make([]float64, 10)
			for range 10 {
				if err := m.Score(c, scores); err != nil || scores[9] != 1 {
					t.Error(err, scores[9])
				}
				if err := m.Observe(&core.Observation{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, m.Instances())
}

// A plugin that is slow to process observations does not delay requests.
func TestAnObservationDoesNotWaitForLong(t *testing.T) {
	limits := wasmhost.DefaultLimits()
	limits.Fuel, limits.Wait, limits.CallTimeout = 5_000_000_000, time.Minute, time.Minute // a second or more
	m, err := wasmhost.New(limits, "").Load(w.Scorer(w.Scores(1)...).Add(w.Func{Export: "observe",
		Params: []byte{w.I32}, Code: w.SpinLoop}).Bytes(), nil)
	require.NoError(t, err)
	defer m.Close()
	ended := make(chan error, 2)
	for range 2 {
		go func() { ended <- m.Observe(&core.Observation{}) }()
	}
	require.ErrorIs(t, <-ended, wasmhost.ErrBusy)
	require.Equal(t, "fuel", reasonOf(<-ended))
}

// When a module is closed, calls that wait get an error. The last call in progress closes the instance.
func TestCloseEndsWaits(t *testing.T) {
	limits := wasmhost.DefaultLimits()
	limits.Instances, limits.Wait, limits.CallTimeout = 1, time.Minute, time.Minute
	m, err := wasmhost.New(limits, "").Load(w.Scorer(grown()...).Bytes(), nil)
	require.NoError(t, err)
	var wg sync.WaitGroup
	var c core.Candidates = rows{{}, {}}
	var closed atomic.Int64
	started := make(chan struct{}, 200)
	for range 200 {
		wg.Go(func() {
			started <- struct{}{}
			if err := m.Score(c, make([]float64, 2)); errors.Is(err, wasmhost.ErrClosed) {
				closed.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	for range 100 {
		<-started
	}
	m.Close()
	wg.Wait()
	require.ErrorIs(t, m.Score(c, make([]float64, 2)), wasmhost.ErrClosed)
	require.Zero(t, m.Instances())
}
