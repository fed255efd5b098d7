package metrics

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
)

func TestRecentAttempts(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	end := func(result core.Result, status int) {
		r.Attempt(&core.AttemptEvent{ProxyID: "a", Host: "x.test", Ended: noon,
			Outcome: core.Outcome{Cause: 1, Result: result, Status: status}})
	}
	require.False(t, new(Recent).Fails())
	end(core.ResultSuccess, 200)
	recent := r.Recent("a")
	require.False(t, recent.Fails())
	require.Zero(t, recent.Last)
	end(core.ResultSuccess, 403)
	end(core.ResultCancelled, 0) // counts as none
	recent = r.Recent("a")
	require.Equal(t, Recent{Attempts: 2, Bad: 1, Last: Bad{minutes.KeyOf(1, 403), "x.test", noon}}, recent)
	require.True(t, recent.Fails())
	for range recentAttempts {
		end(core.ResultFailure, 0)
	}
	recent = r.Recent("a")
	require.Equal(t, recentAttempts, recent.Attempts)
	require.Equal(t, recentAttempts, recent.Bad)
	for range recentAttempts {
		end(core.ResultSuccess, 200)
	}
	recent = r.Recent("a")
	require.Zero(t, recent.Bad, "it has recovered")
	require.Zero(t, r.Recent("unknown"))
}

func TestAClosedBreakerEndsTheRecentFailures(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	fail := func() {
		r.Attempt(&core.AttemptEvent{ProxyID: "a", Ended: noon,
			Outcome: core.Outcome{Cause: 1, Result: core.ResultFailure}})
	}
	fails := func() bool { recent := r.Recent("a"); return recent.Fails() }
	fail()
	r.Transition(core.Transition{ProxyID: "a", From: core.Closed, To: core.Open, At: noon})
	require.True(t, fails())
	r.Transition(core.Transition{ProxyID: "a", From: core.HalfOpen, To: core.Closed, At: noon})
	require.False(t, fails())
	fail()
	require.True(t, fails())
	r.ForgetRecent("a")
	r.ForgetRecent("unknown")
	require.False(t, fails())
}

// Failing lists the same proxies as Recent, whatever attempts, resets and removals come before.
func TestFailing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := New(Config{Now: func() time.Time { return noon }})
		ids := []string{"a", "b", "c"}
		t.Repeat(map[string]func(*rapid.T){
			"attempt": func(t *rapid.T) {
				results := []core.Result{core.ResultSuccess, core.ResultFailure, core.ResultCancelled}
				result := rapid.SampledFrom(results).Draw(t, "result")
				r.Attempt(&core.AttemptEvent{ProxyID: rapid.SampledFrom(ids).Draw(t, "id"), Ended: noon,
					Outcome: core.Outcome{Cause: 1, Result: result}})
			},
			"reset":  func(t *rapid.T) { r.ForgetRecent(rapid.SampledFrom(ids).Draw(t, "id")) },
			"remove": func(t *rapid.T) { r.forget(rapid.SampledFrom(ids).Draw(t, "id")) },
			"": func(t *rapid.T) {
				want := map[string]Recent{}
				for _, id := range ids {
					if recent := r.Recent(id); recent.Fails() {
						want[id] = recent
					}
				}
				require.Equal(t, want, r.Failing())
			},
		})
	})
}

func TestBytesOfProxies(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	r.CountBytes("a", 0)
	r.CountBytes("a", 1000)
	r.CountBytes("a", 1500)
	r.CountBytes("b", 10)
	r.CountBytes("b", 4) // another proxy has the id now
	require.EqualValues(t, 1500, r.Reasons().SumProxy("a", time.Hour).Bytes)
	require.EqualValues(t, 14, r.Reasons().SumProxy("b", time.Hour).Bytes)
	require.EqualValues(t, 1514, r.Reasons().SumAll(time.Hour).Bytes)
}

func TestTheRequestsOfAWindow(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }})
	for _, status := range []int{200, 403, 200} {
		r.Request(&core.RequestEvent{Ended: now, Delivered: true, Attempts: 1, Status: status})
		now = now.Add(3 * time.Minute)
	}
	r.Request(&core.RequestEvent{Ended: now, Status: 502})
	require.Equal(t, Window{Requests: 3, Delivered: 2, Refused: 1}, r.Window(6*time.Minute))
	require.Equal(t, Window{Requests: 4, Delivered: 3, Refused: 1}, r.Window(time.Hour))
}
