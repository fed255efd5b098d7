package plugins_test

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func registry(t testing.TB) *plugins.Registry {
	r, err := plugins.New(plugins.Options{
		Limits: patient(), Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

type rows []core.Candidate

func (r rows) Len() int { return len(r) }

func (r rows) Fill(q *core.RankRequest, to []core.Candidate) {
	*q = core.RankRequest{Count: float64(len(r)), Seed: 12345}
	copy(to, r)
}

// Each deterministic scorer is compared with an implementation in Go, for random candidates.
func TestScorersAgainstImplementationsInGo(t *testing.T) {
	r := registry(t)
	twins := map[string]func(c core.Candidate) float64{
		"round_robin":     func(c core.Candidate) float64 { return -c.Rotation },
		"least_in_flight": func(c core.Candidate) float64 { return -c.InFlight / c.Weight },
		"cost_aware": func(c core.Candidate) float64 {
			if c.ConsecutiveFailures < 3 && (c.SuccessRate >= 0.85 || c.Samples < 10) {
				return 1 + 1/(1+c.Cost)
			}
			return c.SuccessRate
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.Float64Range(0, 1)
		list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) core.Candidate {
			return core.Candidate{
				SuccessRate: unit.Draw(t, "rate"), NormalizedLatency: unit.Draw(t, "latency"),
				Samples:  float64(rapid.IntRange(0, 100).Draw(t, "samples")),
				InFlight: float64(rapid.IntRange(0, 50).Draw(t, "in flight")),
				Weight:   rapid.Float64Range(0.1, 9).Draw(t, "weight"), Cost: unit.Draw(t, "cost"),
				RegionMatch:         float64(rapid.IntRange(0, 1).Draw(t, "region")),
				ConsecutiveFailures: float64(rapid.IntRange(0, 5).Draw(t, "failures")),
				Rotation:            float64(rapid.IntRange(0, 99).Draw(t, "rotation")),
			}
		}), 1, 300).Draw(t, "candidates")
		scores := make([]float64, len(list))
		for name, twin := range twins {
			s, err := r.Scorer(name, plugins.FallbackRetry)
			require.NoError(t, err)
			require.NoError(t, s.Score(rows(list), scores))
			for i, c := range list {
				require.InDelta(t, twin(c), scores[i], 1e-12, "%s, candidate %d", name, i)
			}
		}
		s, err := r.Scorer("performance", plugins.FallbackRetry)
		require.NoError(t, err)
		require.NoError(t, s.Score(rows(list), scores))
		require.InDeltaSlice(t, performance(list), scores, 1e-12)
	})
}

// The scorer performance adds 10 ms to each latency. Two sums count as equal if they differ by at most a quarter. With
// fewer than 100 attempts they may differ by more.
func TestLatenciesThatAreNearlyEqual(t *testing.T) {
	s, err := registry(t).Scorer("performance", plugins.FallbackRetry)
	require.NoError(t, err)
	for _, c := range []struct {
		ms   []float64 // latencies of proxies without a failure
		n    float64   // number of attempts of each proxy
		best int       // number of proxies with the best score, which are the first ones
	}{
		{[]float64{1, 1.5, 2.5, 3.7}, 100, 4}, {[]float64{1, 3.8}, 100, 1}, {[]float64{30, 33, 40}, 100, 3},
		{[]float64{30, 41}, 100, 1}, {[]float64{100, 127, 128}, 100, 2}, {[]float64{20, 21, 400}, 100, 2},
		{[]float64{20, 40}, 100, 1}, {[]float64{30, 54, 56}, 16, 2}, {[]float64{30, 79, 80.1}, 4, 2},
		{[]float64{30, 129, 131}, 1, 2},
	} {
		list, scores := make([]core.Candidate, len(c.ms)), make([]float64, len(c.ms))
		for i, ms := range c.ms {
			normalized := (ms + 10) / (slices.Max(c.ms) + 10)
			list[i] = core.Candidate{SuccessRate: 1, Samples: c.n, NormalizedLatency: normalized}
		}
		require.NoError(t, s.Score(rows(list), scores))
		for i := range list {
			require.Equal(t, i < c.best, scores[i] > 0.98*scores[0], "%v ms, %v attempts, number %d", c.ms, c.n, i)
		}
	}
}

// performance returns the scores of the built-in performance. The latency of a proxy with n attempts counts as that of
// the best proxy if it is at most 2.5 : sqrt(n) longer.
func performance(list []core.Candidate) []float64 {
	score := func(c core.Candidate) float64 {
		s := 0.7*c.SuccessRate + 0.3*(1-c.NormalizedLatency)
		if c.RegionMatch != 0 {
			s *= 1.1
		}
		return s
	}
	best := list[0]
	for _, c := range list {
		if score(c) > score(best) {
			best = c
		}
	}
	scores := make([]float64, len(list))
	for i, c := range list {
		near := (1 + 2.5/math.Sqrt(max(c.Samples, 1))) * best.NormalizedLatency
		if l := c.NormalizedLatency; l > best.NormalizedLatency && l <= near {
			c.NormalizedLatency = best.NormalizedLatency
		}
		scores[i] = score(c)
	}
	return scores
}

func TestBackoffsAgainstImplementationsInGo(t *testing.T) {
	r := registry(t)
	jitter := func(q *core.BackoffRequest, d float64) float64 {
		if d = min(d, q.Cap); q.Jitter == 0 {
			return d
		}
		return 0.5*d + (min(1.5*d, q.Cap)-0.5*d)*q.Random
	}
	twins := map[string]func(q *core.BackoffRequest) float64{
		"exponential": func(q *core.BackoffRequest) float64 {
			return jitter(q,
				q.BaseDelay*math.Pow(q.Multiplier, q.Retry-1))
		},
		"linear": func(q *core.BackoffRequest) float64 { return jitter(q, q.BaseDelay*q.Retry) },
		"fixed":  func(q *core.BackoffRequest) float64 { return jitter(q, q.BaseDelay) },
		"decorrelated_jitter": func(q *core.BackoffRequest) float64 {
			high := max(q.BaseDelay, 3*max(q.BaseDelay, q.PreviousDelay))
			return min(q.Cap, q.BaseDelay+(high-q.BaseDelay)*q.Random)
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		q := core.BackoffRequest{
			Retry: float64(rapid.IntRange(1, 10).Draw(t, "retry")), BaseDelay: rapid.Float64Range(0.1, 60).Draw(t,
				"base"),
			Multiplier: rapid.Float64Range(1.1, 10).Draw(t, "multiplier"),
			Cap:        rapid.Float64Range(1, 300).Draw(t, "cap"),
			Jitter:     float64(rapid.IntRange(0, 1).Draw(t, "jitter")), Random: rapid.Float64Range(0, 0.999).Draw(t,
				"random"),
			PreviousDelay: rapid.Float64Range(0, 300).Draw(t, "previous"),
		}
		for name, twin := range twins {
			b, err := r.Backoff(name)
			require.NoError(t, err)
			d, err := b.Delay(&q)
			require.NoError(t, err)
			require.InDelta(t, twin(&q), d, 1e-9*math.Abs(d)+1e-12, name)
			require.LessOrEqual(t, d, q.Cap)
		}
	})
}

// A replacement loses no call and leads to no error.
func TestSwapsUnderLoad(t *testing.T) {
	r, err := plugins.New(plugins.Options{
		Limits: patient(), Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	code := builtin.Modules()
	_, err = r.Put("mine", code["performance"], nil, false)
	require.NoError(t, err)
	s, err := r.Scorer("mine", plugins.FallbackRetry)
	require.NoError(t, err)
	stop := coretest.RunConcurrently(4, func(int) {
		if err := s.Score(make(rows, 10), make([]float64, 10)); err != nil {
			t.Error(err)
		}
	})
	for i := range 20 {
		_, err := r.Put("mine", code[[]string{"performance", "random"}[i%2]], nil, true)
		require.NoError(t, err)
	}
	stop()
	info, err := r.Get("mine")
	require.NoError(t, err)
	require.Zero(t, info.Faults)
}

// A change of the settings is detected, even if both settings print in the same way.
func TestSettingsThatLookTheSame(t *testing.T) {
	// The score of the first candidate is the second byte of the setting.
	m := w.Scorer(w.Join([]byte{w.LocalGet, 2}, w.Const32(0), []byte{w.F64Load, 3, 8, w.F64Store, 3, 0})...)
	m.Add(w.Func{Export: "configure", Params: []byte{w.I32, w.I32}, Results: []byte{w.I32}, Code: w.Join(
		// i32.load8_u, f64.convert_i32_s
		w.Const32(0), []byte{w.LocalGet, 0, 0x28, 2, 8, 0x2d, 0, 1, 0xb7, w.F64Store, 3, 8}, w.Const32(0))})
	r := registry(t)
	path := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(path, m.Bytes(), 0o600))
	for want, list := range map[float64][]any{' ': {"a b"}, ',': {"a", "b"}} {
		specs := map[string]plugins.Spec{"mine": {Path: path, Config: map[string]any{"list": list}}}
		require.NoError(t, r.Apply(specs, nil))
		require.Equal(t, want, score(t, r, "mine")[0])
	}
}

func TestConfiguredModules(t *testing.T) {
	r := registry(t)
	path := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(path, builtin.Modules()["weighted"], 0o600))
	for says, bad := range map[string]plugins.Spec{
		"plugins.mine.path: stat":                {Path: path + "x"},
		"plugins.mine.sha256: that of " + path:   {Path: path, SHA256: "00"},
		"plugins.mine.kind: " + path + " is a s": {Path: path, Kind: "backoff"},
		"plugins.mine: " + path:                  {Path: path, Config: map[string]any{"a": 1}},
	} {
		err := r.Apply(map[string]plugins.Spec{"mine": bad}, nil)
		require.ErrorContains(t, err, says)
		require.Equal(t, 1, strings.Count(err.Error(), "plugins.mine"), err)
	}
	err := r.Apply(map[string]plugins.Spec{"performance": {Path: path}}, nil)
	require.ErrorContains(t, err, "built in")
	require.NoError(t, r.Apply(map[string]plugins.Spec{"mine": {Path: path}}, func(c *plugins.Change) error {
		_, err := r.Scorer("mine", "")
		require.Error(t, err, "not before the check")
		_, err = c.Scorer("mine", "")
		return err
	}))
	_, err = r.Scorer("mine", "")
	require.NoError(t, err)
	require.NoError(t, r.Apply(nil, nil))
	_, err = r.Scorer("mine", "")
	require.Error(t, err)
}

func TestACallAllocatesNothing(t *testing.T) {
	s, err := registry(t).Scorer("performance", "")
	require.NoError(t, err)
	var c core.Candidates = make(rows, 100)
	scores := make([]float64, 100)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = s.Score(c, scores) }))
}

func BenchmarkScore(b *testing.B) {
	r := registry(b)
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(map[int]string{1: "1", 10: "10", 100: "100", 1000: "1000"}[n], func(b *testing.B) {
			s, _ := r.Scorer("performance", "")
			var c core.Candidates = make(rows, n)
			scores := make([]float64, n)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Score(c, scores); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The time spent in calls is an estimate, since one of seventeen calls is timed. With a clock that advances
// by 1 ms per reading, it is exact.
func TestTheTimeInCalls(t *testing.T) {
	var reads atomic.Int64
	r, err := plugins.New(plugins.Options{
		Limits: patient(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time {
			return time.UnixMilli(reads.Add(1))
		}})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	s, err := r.Scorer("performance", "")
	require.NoError(t, err)
	before := reads.Load()
	for range 170 {
		require.NoError(t, s.Score(make(rows, 3), make([]float64, 3)))
	}
	require.EqualValues(t, 2*170/17, reads.Load()-before, "readings of the clock")
	for _, p := range r.List() {
		if p.Name == "performance" {
			require.EqualValues(t, 170, p.Calls)
			require.Equal(t, 170*time.Millisecond, p.TimeSpent)
		}
	}
}
