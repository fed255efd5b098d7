package plugins_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// scriptedBackoff is a backoff whose RetryAfter selects its behaviour: 1 to 4 lead to faults with the reasons
// in reasons. With any other value it returns good.
func scriptedBackoff(good float64) []byte {
	return w.Backoff(w.Join(
		behaves(1, w.ConstF64(-1)),
		behaves(2, []byte{w.Unreachable}),
		behaves(3, w.Join(w.Const64(0x7ff8000000000000), []byte{0xbf})), // f64.reinterpret_i64: NaN
		behaves(4, w.Join(w.SpinLoop, w.ConstF64(0))),
		w.ConstF64(good))...).Bytes()
}

func behaves(n float64, code []byte) []byte {
	// eq
	return w.Join([]byte{w.LocalGet, 0, w.F64Load, 3, 56}, w.ConstF64(n), []byte{0x61, w.If, w.Empty}, code,
		[]byte{w.Return, w.End})
}

// reasons are the reasons of the faults of scriptedBackoff; the first one, "", is for a good call.
var reasons = []string{"", "negative_delay", "trap", "not_finite", "fuel"}

// entries counts the log records.
type entries struct {
	mu     sync.Mutex
	counts map[slog.Level]int
	last   map[string]string
}

func (e *entries) Enabled(context.Context, slog.Level) bool { return true }
func (e *entries) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e *entries) WithGroup(string) slog.Handler            { return e }
func (e *entries) Handle(_ context.Context, r slog.Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts[r.Level]++
	e.last = map[string]string{"msg": r.Message}
	r.Attrs(func(a slog.Attr) bool { e.last[a.Key] = a.Value.String(); return true })
	return nil
}

func (e *entries) take() (warnings, errors int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	warnings, errors = e.counts[slog.LevelWarn], e.counts[slog.LevelError]
	clear(e.counts)
	return warnings, errors
}

// patient returns limits that a slow machine does not exceed. After a fault has ended an instance, the next call has
// enough time to wait for a new instance.
func patient() wasmhost.Limits {
	limits := wasmhost.DefaultLimits()
	limits.Wait, limits.ObserveWait, limits.CallTimeout = time.Minute, time.Minute, time.Minute
	return limits
}

// clock is a clock that the test sets.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// Calls, releases, replacements and roll-backs happen in any order. A plugin is quarantined if and only if
// max_faults of its last 10*max_faults calls have failed. Each call returns a delay. Each fault is counted
// and logged.
func TestQuarantineAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, now := &entries{counts: map[slog.Level]int{}}, &clock{time.Unix(1.7e9, 0)}
		most := rapid.IntRange(1, 6).Draw(t, "max_faults")
		r, err := plugins.New(plugins.Options{Log: slog.New(log), Now: now.Now, MaxFaults: most, Limits: patient()})
		require.NoError(t, err)
		defer r.Close()
		good, earlier := 7.0, 0.0 // results of the current and the previous module; 0 for none
		_, err = r.Put("mine", scriptedBackoff(good), nil, false)
		require.NoError(t, err)
		b, err := r.Backoff("mine")
		require.NoError(t, err)

		var failed []uint64 // numbers of this module's failed calls
		quarantined := false
		calls, faults := uint64(0), map[string]uint64{}
		logged := time.Time{}
		t.Repeat(map[string]func(*rapid.T){
			"call": func(t *rapid.T) {
				behaviour := rapid.SampledFrom([]int{0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}).Draw(t, "behaviour")
				d, err := b.Delay(&core.BackoffRequest{Retry: 1, BaseDelay: 0.25, Multiplier: 2, Cap: 30,
					RetryAfter: float64(behaviour)})
				require.NoError(t, err)
				want, warnings, errors := good, 0, 0
				if quarantined || behaviour > 0 {
					want = 0.25 // the delay of exponential
				}
				if !quarantined {
					calls++
					if behaviour > 0 {
						failed = append(failed, calls)
						faults[reasons[behaviour]]++
						n := len(failed)
						if quarantined = n >= most && calls-failed[n-most] < uint64(10*most); quarantined {
							errors = 1
						} else if logged.IsZero() || now.now.Sub(logged) >= 10*time.Second {
							warnings = 1
						}
						if warnings+errors > 0 {
							logged = now.now
						}
					}
				}
				require.Equal(t, want, d)
				gotWarnings, gotErrors := log.take()
				require.Equal(t, [2]int{warnings, errors}, [2]int{gotWarnings, gotErrors},
					"warnings and errors in the log")
				if errors > 0 {
					require.Equal(t, "plugin quarantined: the built-in is called in its place", log.last["msg"])
					require.Equal(t, "mine", log.last["plugin"])
					require.Equal(t, reasons[behaviour], log.last["reason"])
				}
			},
			"time": func(t *rapid.T) {
				now.now = now.now.Add(time.Duration(rapid.IntRange(1, 12).Draw(t, "seconds")) * time.Second)
			},
			"release": func(t *rapid.T) {
				_, err := r.Release("mine")
				require.NoError(t, err)
				failed, quarantined = nil, false
			},
			"swap": func(t *rapid.T) {
				earlier, good = good, float64(rapid.IntRange(1, 99).Draw(t, "good"))
				_, err := r.Put("mine", scriptedBackoff(good), nil, true)
				require.NoError(t, err)
				failed, quarantined = nil, false
			},
			"refused swap": func(t *rapid.T) {
				_, err := r.Put("mine", w.Backoff(w.ConstF64(-1)...).Bytes(), nil, true)
				require.ErrorContains(t, err, "a trial call failed: negative_delay")
			},
			"roll back": func(t *rapid.T) {
				_, err := r.RollBack("mine")
				if earlier == 0 {
					require.ErrorIs(t, err, core.ErrConflict)
					return
				}
				require.NoError(t, err)
				earlier, good = good, earlier
				failed, quarantined = nil, false
			},
			"": func(t *rapid.T) {
				i, err := r.Get("mine")
				require.NoError(t, err)
				require.Equal(t, quarantined, i.Quarantined)
				require.Equal(t, map[bool]string{true: plugins.StateQuarantined,
					false: plugins.StateReady}[quarantined], i.State)
				require.Equal(t, calls, i.Calls)
				require.Equal(t, faults, i.FaultsBy)
				require.Equal(t, earlier != 0, i.CanRollBack)
			},
		})
	})
}

// If a module is replaced during a call, the result of the call does not count for the new module.
func TestLateFaultsDoNotStrikeTheNewModule(t *testing.T) {
	r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler), MaxFaults: 1})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	_, err = r.Put("mine", w.Scorer(w.Unless256(w.Unreachable)...).Bytes(), nil, false)
	require.NoError(t, err)
	s, err := r.Scorer("mine", plugins.FallbackRetry)
	require.NoError(t, err)
	// The rows are written during the call. At that moment the module is replaced.
	swapped := filling{func() {
		_, err := r.Put("mine", w.Scorer(w.Scores(5)...).Bytes(), nil, true)
		require.NoError(t, err)
	}}
	scores := make([]float64, 2)
	require.NoError(t, s.Score(swapped, scores))
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.EqualValues(t, 1, i.Faults)
	require.False(t, i.Quarantined)
	require.NoError(t, s.Score(rows{{}, {}}, scores))
	require.Equal(t, []float64{5, 5}, scores)
}

type filling struct{ during func() }

func (f filling) Len() int { return 2 }
func (f filling) Fill(q *core.RankRequest, to []core.Candidate) {
	*q = core.RankRequest{Count: 2}
	clear(to)
	f.during()
}

// afterCalls waits until the given number of calls has ended, and returns the plugin's info.
func afterCalls(t *testing.T, r *plugins.Registry, name string, calls uint64) plugins.Info {
	var i plugins.Info
	require.Eventually(t, func() bool {
		var err error
		i, err = r.Get(name)
		require.NoError(t, err)
		return i.Calls >= calls
	}, 30*time.Second, time.Millisecond)
	return i
}

// A plugin whose results are good, but whose observations fail, is also quarantined.
func TestFailingObservations(t *testing.T) {
	r, err := plugins.New(plugins.Options{Log: slog.New(slog.DiscardHandler), MaxFaults: 3, Limits: patient()})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	odd := w.Join( // fails if the time is not 0
		[]byte{w.LocalGet, 0, w.F64Load, 3, 0}, w.ConstF64(0), []byte{0x62, w.If, w.Empty, w.Unreachable, w.End})
	module := w.Scorer(w.Scores(1)...).Add(w.Func{Export: "observe", Params: []byte{w.I32}, Code: odd}).Bytes()
	_, err = r.Put("mine", module, nil, false)
	require.NoError(t, err)
	s, err := r.Scorer("mine", plugins.FallbackRetry)
	require.NoError(t, err)
	var last plugins.Info
	for i, now := range []float64{1, 0, 0, 1, 0, 1} {
		require.False(t, last.Quarantined, "before %d", i)
		require.NoError(t, s.Score(rows{{}}, []float64{0}))
		r.Observe(&core.Observation{Now: now})
		last = afterCalls(t, r, "mine", uint64(2*i+2))
	}
	require.Eventually(t, func() bool {
		last, err = r.Get("mine")
		return err == nil && last.Quarantined
	}, 30*time.Second, time.Millisecond)
	require.Equal(t, []uint64{3, 12}, []uint64{last.Faults, last.Calls}, "of 6 answers and 6 observations")
	_, err = r.Release("mine")
	require.NoError(t, err)
	r.Observe(&core.Observation{Now: 1})
	require.False(t, afterCalls(t, r, "mine", 13).Quarantined, "the count begins anew")
}

// A plugin that fails for only one target, or in every second call, is quarantined within 50 calls.
func TestQuarantineByShare(t *testing.T) {
	for name, fails := range map[string]func(call int) bool{
		"every second call":      func(call int) bool { return call%2 == 1 },
		"one target of ten":      func(call int) bool { return call%10 == 9 },
		"good at first, then no": func(call int) bool { return call >= 40 && call%2 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			r := reopen(t, plugins.Options{Log: slog.New(slog.DiscardHandler), Limits: patient()})
			_, err := r.Put("mine", scriptedBackoff(7), nil, false)
			require.NoError(t, err)
			b, err := r.Backoff("mine")
			require.NoError(t, err)
			for call := range 50 {
				q := &core.BackoffRequest{Retry: 1, BaseDelay: 1, Multiplier: 2, Cap: 30}
				if fails(call) {
					q.RetryAfter = 2
				}
				_, err := b.Delay(q)
				require.NoError(t, err)
			}
			i, err := r.Get("mine")
			require.NoError(t, err)
			require.True(t, i.Quarantined)
			require.EqualValues(t, plugins.DefaultMaxFaults, i.Faults)
		})
	}
}

// A plugin that fails in one of twenty calls is not quarantined. Its info, and a warning every ten seconds,
// have the numbers of calls and faults.
func TestAPluginThatFailsSometimes(t *testing.T) {
	log, now := &entries{counts: map[slog.Level]int{}}, &clock{time.Unix(1.7e9, 0)}
	r, err := plugins.New(plugins.Options{Log: slog.New(log), Now: now.Now, MaxFaults: 2, Limits: patient()})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	_, err = r.Put("mine", scriptedBackoff(7), nil, false)
	require.NoError(t, err)
	log.take()
	b, err := r.Backoff("mine")
	require.NoError(t, err)
	var last time.Time
	for range 60 {
		for i := range 20 {
			q := &core.BackoffRequest{Retry: 1, BaseDelay: 1, Multiplier: 2, Cap: 30}
			if i == 10 {
				q.RetryAfter, last = 1, now.now
			}
			_, err := b.Delay(q)
			require.NoError(t, err)
		}
		now.now = now.now.Add(time.Second)
	}
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.Equal(t, plugins.StateReady, i.State)
	require.Equal(t, []uint64{60, 1200}, []uint64{i.Faults, i.Calls})
	require.Equal(t, last.UTC(), i.LastFaultAt)
	warnings, errors := log.take()
	require.Equal(t, []int{6, 0}, []int{warnings, errors})
	require.Equal(t, []string{"10", "200"}, []string{log.last["faults"], log.last["calls"]}, "since the warning before")
	i, err = r.Get("fixed")
	require.NoError(t, err)
	require.Zero(t, i.LastFaultAt)
}
