package plugins_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// learner is a scorer that runs code for each observation.
func learner(code ...byte) []byte {
	return w.Scorer(w.Scores(1)...).Add(w.Func{Export: "observe", Params: []byte{w.I32}, Code: code}).Bytes()
}

// A plugin gets observations only if it is in use, if its configuration has observe = true, or if it is a
// backoff that requests call.
func TestObservationsAreForPluginsInUse(t *testing.T) {
	r := registry(t)
	path := filepath.Join(t.TempDir(), "asks.wasm")
	require.NoError(t, os.WriteFile(path, learner(), 0o600))
	err := r.Apply(map[string]plugins.Spec{"asks": {Path: path, Observe: true}, "silent": {Path: path}}, nil)
	require.NoError(t, err)
	waits := w.Backoff(w.ConstF64(1)...).Add(w.Func{Export: "observe", Params: []byte{w.I32}}).Bytes()
	for name, module := range map[string][]byte{"used": learner(), "unused": learner(), "waits": waits} {
		_, err := r.Put(name, module, nil, false)
		require.NoError(t, err)
	}
	var used atomic.Value
	used.Store("used")
	r.SetIsUsed(func(name string) bool { return name == used.Load() })
	calls := func(names ...string) (out []uint64) {
		for _, name := range names {
			i, err := r.Get(name)
			require.NoError(t, err)
			out = append(out, i.Calls)
		}
		return out
	}
	names := []string{"asks", "used", "silent", "unused", "waits"}
	observe := func(want ...uint64) {
		r.Observe(&core.Observation{})
		require.Eventually(t, func() bool {
			got := calls(names...)
			return got[0] == want[0] && got[1] == want[1]
		}, 30*time.Second, time.Millisecond)
		require.Equal(t, want, calls(names...))
	}
	observe(1, 1, 0, 0, 0)
	used.Store("another")
	observe(2, 1, 0, 0, 0)

	b, err := r.Backoff("waits")
	require.NoError(t, err)
	_, err = b.Delay(&core.BackoffRequest{})
	require.NoError(t, err)
	r.Observe(&core.Observation{})
	require.EqualValues(t, 2, afterCalls(t, r, "waits", 2).Calls, "the delay and the observation")
	used.Store("waits")
	r.Observe(&core.Observation{})
	afterCalls(t, r, "waits", 3)
	used.Store("another") // "waits" is no longer in use
	r.Observe(&core.Observation{})
	afterCalls(t, r, "asks", 5)
	require.Equal(t, []uint64{5, 1, 0, 0, 3}, calls(names...))
}

// Observations are needed only if a plugin that takes them is in use.
func TestObserves(t *testing.T) {
	r := registry(t)
	r.SetIsUsed(func(string) bool { return false })
	_, err := r.Put("mine", learner(), nil, false)
	require.NoError(t, err)
	require.False(t, r.Observes())
	r.SetIsUsed(func(name string) bool { return name == "mine" })
	require.True(t, r.Observes())
}

// Requests do not wait for a plugin that is slow to learn. The observations that it cannot take are counted
// as missed.
func TestNoRequestWaitsForAnObservation(t *testing.T) {
	r := registry(t)
	_, err := r.Put("slow", learner(w.Join(w.Const32(300_000), []byte{0x21, 0, w.Loop, w.Empty, w.LocalGet, 0},
		w.Const32(1), []byte{0x6b, 0x22, 0, w.BrIf, 0, w.End})...), nil, false)
	require.NoError(t, err)
	const n = 20_000
	for range n {
		r.Observe(&core.Observation{})
	}
	i, err := r.Get("slow")
	require.NoError(t, err)
	require.Zero(t, i.Faults, i.LastError)
	require.Greater(t, i.MissedObservations, uint64(n/2))
	require.Less(t, i.Calls, uint64(n/2))
	require.Equal(t, plugins.StateReady, i.State)
}

// Close ends the goroutines of all observers.
func TestObserversEnd(t *testing.T) {
	r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	_, err = r.Put("mine", learner(), nil, false)
	require.NoError(t, err)
	require.NoError(t, r.Delete("mine", func(string) string { return "" }))
	_, err = r.Put("mine", learner(), nil, false)
	require.NoError(t, err)
	r.Observe(&core.Observation{})
	r.Close()
	r.Close()
	r.Observe(&core.Observation{})
}
