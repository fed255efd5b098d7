package plugins_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// All operations on plugins happen at the same time. Each call for a score or a delay gets one, and each
// other call has one of its permitted results.
func TestEverythingAtOnce(t *testing.T) {
	r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	learner := w.Scorer(w.Scores(2)...).Add(w.Func{Export: "observe", Params: []byte{w.I32}},
		w.Func{Export: "pool_changed", Params: w.Repeat(2, w.I32)})
	codes := [][]byte{builtin.Modules()["random"], learner.Bytes(), w.Scorer(w.Unless256(w.Unreachable)...).Bytes(),
		w.Scorer(w.Scores(1)...).Bytes()}
	for _, name := range []string{"used", "other"} {
		_, err = r.Put(name, codes[0], nil, false)
		require.NoError(t, err)
	}
	_, err = r.Put("waits", scriptedBackoff(3), nil, false)
	require.NoError(t, err)
	scorer, err := r.Scorer("used", plugins.FallbackFirst)
	require.NoError(t, err)
	backoff, err := r.Backoff("waits")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "filed.wasm")
	require.NoError(t, os.WriteFile(path, codes[3], 0o600))

	var wg sync.WaitGroup
	many := func(n, times int, f func(i int)) {
		for range n {
			wg.Go(func() {
				for i := range times {
					f(i)
				}
			})
		}
	}
	may := func(err error, allowed ...error) {
		if err == nil {
			return
		}
		for _, a := range allowed {
			if errors.Is(err, a) {
				return
			}
		}
		t.Error(err)
	}
	many(4, 300, func(i int) { may(scorer.Score(make(rows, 1+i%50), make([]float64, 50))) })
	many(2, 300, func(i int) {
		d, err := backoff.Delay(&core.BackoffRequest{Retry: 1, BaseDelay: 0.5, Multiplier: 2, Cap: 9,
			RetryAfter: float64(i % 4)})
		may(err)
		if d != 0.5 && d != 3 {
			t.Errorf("a delay of %v", d)
		}
	})
	many(2, 300, func(i int) { r.Observe(&core.Observation{Success: 1}) })
	many(2, 40, func(i int) {
		_, err := r.Put("used", codes[i%len(codes)], nil, true)
		may(err)
	})
	many(1, 40, func(i int) {
		_, err := r.Put("waits", scriptedBackoff(3), nil, true)
		may(err)
	})
	many(2, 40, func(i int) {
		_, err := r.RollBack("used")
		may(err, core.ErrConflict)
		_, err = r.Release("used")
		may(err)
		_, err = r.Release("waits")
		may(err)
	})
	many(2, 30, func(i int) {
		may(r.Delete("other", func(string) string { return "" }), core.ErrNotFound)
		_, err := r.Put("other", codes[i%len(codes)], nil, false)
		may(err, core.ErrConflict)
	})
	many(2, 40, func(i int) {
		name := "filed" + strconv.Itoa(i%3)
		may(r.Apply(map[string]plugins.Spec{name: {Path: path}}, func(c *plugins.Change) error {
			if i%4 == 0 {
				return errRefused
			}
			_, err := c.Scorer(name, "")
			return err
		}), errRefused)
	})
	many(1, 100, func(i int) {
		r.PoolChanged(func() []wasmhost.Proxy { return []wasmhost.Proxy{{ID: strconv.Itoa(i)}} })
	})
	many(2, 100, func(i int) {
		for _, p := range r.List() {
			if p.Faults > p.Calls {
				t.Errorf("%s: %d faults in %d calls", p.Name, p.Faults, p.Calls)
			}
		}
		if _, err := r.TestScorer("used", make(rows, 3)); err != nil && !errors.Is(err, wasmhost.ErrClosed) {
			var f *wasmhost.Fault
			if !errors.As(err, &f) {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	configured := slices.DeleteFunc(r.List(), func(i plugins.Info) bool { return i.Source != plugins.SourceConfig })
	require.Len(t, configured, 1, "those of one Apply, not of several")
	_, err = r.Put("used", codes[3], nil, true)
	require.NoError(t, err)
	scores := make([]float64, 2)
	require.NoError(t, scorer.Score(make(rows, 2), scores))
	require.Equal(t, []float64{1, 1}, scores)
}
