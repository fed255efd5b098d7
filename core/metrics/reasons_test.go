package metrics

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestRecentAttempts(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	end := func(result core.Result, status int) {
		r.Attempt(&core.AttemptEvent{ProxyID: "a", Host: "x.test", Ended: noon,
			Outcome: core.Outcome{Cause: 1, Result: result, Status: status}})
	}
	require.False(t, new(RecentAttempts).IsFailing())
	end(core.ResultSuccess, 200)
	recent := r.RecentAttempts("a")
	require.False(t, recent.IsFailing())
	require.Zero(t, recent.LastBad)
	end(core.ResultSuccess, 403)
	end(core.ResultCancelled, 0) // counts as none
	recent = r.RecentAttempts("a")
	require.Equal(t, RecentAttempts{
		Attempts: 2, BadAttempts: 1, LastBad: BadAttempt{minutes.KeyOf(1, 403), "x.test", noon},
	}, recent)
	require.True(t, recent.IsFailing())
	for range maxRecentAttempts {
		end(core.ResultFailure, 0)
	}
	recent = r.RecentAttempts("a")
	require.Equal(t, maxRecentAttempts, recent.Attempts)
	require.Equal(t, maxRecentAttempts, recent.BadAttempts)
	for range maxRecentAttempts {
		end(core.ResultSuccess, 200)
	}
	recent = r.RecentAttempts("a")
	require.Zero(t, recent.BadAttempts, "it has recovered")
	require.Zero(t, r.RecentAttempts("unknown"))
}

func TestAClosedBreakerEndsTheRecentFailures(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	fail := func() {
		r.Attempt(&core.AttemptEvent{ProxyID: "a", Ended: noon,
			Outcome: core.Outcome{Cause: 1, Result: core.ResultFailure}})
	}
	fails := func() bool { recent := r.RecentAttempts("a"); return recent.IsFailing() }
	fail()
	r.Transition(core.Transition{ProxyID: "a", From: core.Closed, To: core.Open, At: noon})
	require.True(t, fails())
	r.Transition(core.Transition{ProxyID: "a", From: core.HalfOpen, To: core.Closed, At: noon})
	require.False(t, fails())
	fail()
	require.True(t, fails())
	r.ForgetRecentAttempts("a")
	r.ForgetRecentAttempts("unknown")
	require.False(t, fails())
}

// FailingProxies lists the same proxies as RecentAttempts, after any sequence of attempts, resets and removals.
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
			"reset":  func(t *rapid.T) { r.ForgetRecentAttempts(rapid.SampledFrom(ids).Draw(t, "id")) },
			"remove": func(t *rapid.T) { r.forgetProxy(rapid.SampledFrom(ids).Draw(t, "id")) },
			"": func(t *rapid.T) {
				want := map[string]RecentAttempts{}
				for _, id := range ids {
					if recent := r.RecentAttempts(id); recent.IsFailing() {
						want[id] = recent
					}
				}
				require.Equal(t, want, r.FailingProxies())
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
	require.Equal(t, WindowCounts{Requests: 3, Delivered: 2, Refused: 1}, r.CountsWithin(6*time.Minute))
	require.Equal(t, WindowCounts{Requests: 4, Delivered: 3, Refused: 1}, r.CountsWithin(time.Hour))
}

// Requests are counted while they are read.
func TestRefusedRequestsAreDelivered(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 20_000 {
				r.Request(&core.RequestEvent{Ended: noon, Delivered: true, Attempts: 1, Status: 403})
			}
		})
	}
	for w := (WindowCounts{}); w.Requests < 40_000; {
		w = r.CountsWithin(time.Minute)
		require.LessOrEqual(t, w.Refused, w.Delivered)
		require.LessOrEqual(t, w.Delivered, w.Requests)
	}
	wg.Wait()
}

// After a restart, the proxies that failed in the last minutes count as failing, but not those that had recovered.
func TestFailingProxiesAfterARestart(t *testing.T) {
	now := noon
	clock := func() time.Time { return now }
	r := New(Config{Now: clock, RetentionHours: 3})
	attempt := func(id, host string, c core.Cause, status, times int) {
		result := core.ResultFailure
		if c == verdict.Answered {
			result = core.ResultSuccess
		}
		for range times {
			r.Attempt(&core.AttemptEvent{ProxyID: id, Host: host, Started: now, Ended: now,
				Outcome: core.Outcome{Cause: c, Status: status, Result: result}})
		}
	}
	attempt("old", "shop.example", verdict.BannedHere, 403, 9)
	now = now.Add(7 * time.Minute)
	attempt("recovered", "other.example", verdict.NoAnswerInTime, 0, 9)
	r.Transition(core.Transition{ProxyID: "recovered", From: core.HalfOpen, To: core.Closed, At: now})
	attempt("refused", "shop.example", verdict.BannedHere, 403, 30)
	attempt("refused", "other.example", verdict.Answered, 200, 10)
	attempt("plain", "shop.example", verdict.Answered, 403, 2)
	attempt("good", "shop.example", verdict.BannedHere, 403, 2)
	attempt("good", "other.example", verdict.Answered, 200, 3)
	attempt("dead", "other.example", verdict.ProxyUnreachable, 0, 1)
	attempt("left", "other.example", verdict.ClientLeft, 0, 5)

	r.Transition(core.Transition{ProxyID: "dead", From: core.Closed, To: core.Open, At: now})

	restored := New(Config{Now: clock, RetentionHours: 3})
	saved := saveWhole(r, true)
	now = now.Add(time.Minute)
	restored.Restore(&saved)
	restored.EndRestore()
	bad := func(c core.Cause, status int, host string) BadAttempt {
		return BadAttempt{minutes.KeyOf(c, status), host, now}
	}
	require.Equal(t, map[string]RecentAttempts{
		"refused": {20, 15, bad(verdict.BannedHere, 403, "shop.example")},
		"plain":   {2, 2, bad(verdict.Answered, 403, "shop.example")},
		"dead":    {1, 1, bad(verdict.ProxyUnreachable, 0, "other.example")},
	}, restored.FailingProxies())

	again := New(Config{Now: clock, RetentionHours: 3}) // a second restart, before the next attempt
	saved = saveWhole(restored, true)
	again.Restore(&saved)
	again.EndRestore()
	require.Equal(t, restored.FailingProxies(), again.FailingProxies())
}
