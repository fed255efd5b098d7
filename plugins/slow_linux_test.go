package plugins_test

import (
	"log/slog"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// today has two candidates, and a request at the present time.
type today struct{ rows }

func (t today) Fill(q *core.RankRequest, to []core.Candidate) {
	t.rows.Fill(q, to)
	q.Now = 1.8e9
}

// threadTime returns the CPU time of the calling thread.
func threadTime(t *testing.T) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(thread, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A scorer that uses most of its CPU time in each call slows down every request. Such a scorer is
// quarantined within 50 calls. With ten times the timeout it continues to serve.
func TestASlowScorerIsQuarantined(t *testing.T) {
	m := w.Scorer(w.Join(w.Scores(1), w.OnlyInRealCalls(w.ScorerNow, w.CountedLoop(10_000_000, 4)...))...)
	m.Func("score").Locals = []w.Group{{Count: 1, Type: w.I32}}
	load := func(timeout time.Duration) (*plugins.Registry, core.Scorer) {
		limits := wasmhost.DefaultLimits()
		limits.Fuel, limits.CallTimeout = 1e12, timeout
		r, err := plugins.New(plugins.Options{Log: slog.New(slog.DiscardHandler), Limits: limits})
		require.NoError(t, err)
		t.Cleanup(r.Close)
		_, err = r.Put("mine", m.Bytes(), nil, false)
		require.NoError(t, err)
		s, err := r.Scorer("mine", "round_robin")
		require.NoError(t, err)
		return r, s
	}
	scores := make([]float64, 2)

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, s := load(time.Minute)
	took := time.Hour // CPU time of a call on this machine
	for range 3 {
		began := threadTime(t)
		require.NoError(t, s.Score(today{rows{{}, {}}}, scores))
		took = min(took, threadTime(t)-began)
	}
	r, s := load(took * 12 / 10) // a call takes five sixths of the timeout
	for range 50 {
		require.NoError(t, s.Score(today{rows{{}, {}}}, scores))
	}
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.True(t, i.Quarantined, "%v, calls take %v", i.FaultsBy, took)
	// On a loaded machine some calls may take longer than before, and reach the timeout.
	require.EqualValues(t, plugins.DefaultMaxFaults, i.FaultsBy["slow"]+i.FaultsBy["timeout"], "%v", i.FaultsBy)

	r, s = load(took * 10)
	interrupted := uint64(0) // calls to which a busy machine has added CPU time, such as that of interrupts
	for range 50 {
		began := threadTime(t)
		require.NoError(t, s.Score(today{rows{{}, {}}}, scores))
		if threadTime(t)-began > took*4 {
			interrupted++
		}
	}
	i, err = r.Get("mine")
	require.NoError(t, err)
	require.False(t, i.Quarantined)
	require.LessOrEqual(t, i.FaultsBy["slow"], interrupted, "%v", i.FaultsBy)
}
