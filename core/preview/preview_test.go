package preview_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/preview"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func policy(t *testing.T, change func(*retry.Policy)) *retry.Policy {
	t.Helper()
	p := retry.DefaultPolicy()
	p.BaseDelay = 2
	change(&p)
	require.NoError(t, p.Validate(func(string) bool { return true }))
	return &p
}

var begin = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// attempt is a recorded attempt of one second.
func attempt(proxy string, o core.Outcome, delay time.Duration) core.AttemptEvent {
	return core.AttemptEvent{ProxyID: proxy, Outcome: o, Delay: delay, Started: begin, Ended: begin.Add(time.Second)}
}

// response is the outcome of an attempt with a response under the default policy.
func response(status int) core.Outcome {
	f := verdict.Facts{Status: status, Idempotent: true, Replayable: true}
	p := retry.DefaultPolicy()
	f.StatusRetried, f.StatusCounted = p.RetriesStatus(status), p.RetriesStatus(status)
	return verdict.Judge(&f)
}

func failure(c core.Cause) core.Outcome {
	f := verdict.Facts{Idempotent: true, Replayable: true, Err: &verdict.Error{Cause: c}}
	return verdict.Judge(&f)
}

func course(attempts int, waited time.Duration, result preview.Result, status int) preview.RequestCourse {
	return preview.RequestCourse{Attempts: attempts, BackoffTime: waited, Result: result, Status: status}
}

func TestUnder(t *testing.T) {
	served := preview.Request{Method: "GET", Final: core.FinalSuccess, Status: 200, Attempts: []core.AttemptEvent{
		attempt("a", response(503), 0), attempt("b", failure(verdict.ProxyUnreachable), 2*time.Second),
		attempt("c", response(200), 0),
	}}
	exhausted := preview.Request{Method: "GET", Final: core.FinalExhausted, Status: 503, Attempts: []core.AttemptEvent{
		attempt("a", response(503), 0), attempt("a", response(503), 2*time.Second),
		attempt("a", response(503), 4*time.Second),
	}}
	limited := preview.Request{Method: "GET", Final: core.FinalSuccess, Status: 429,
		Attempts: []core.AttemptEvent{attempt("a", response(429), 0)}}
	stopped := exhausted // another reason than max_attempts
	stopped.Attempts = exhausted.Attempts[:2]
	earlier := stopped
	earlier.Earlier = true
	post := limited
	post.Method = "POST"
	connect := preview.Request{Method: "CONNECT", Final: core.FinalExhausted, Status: 502,
		Attempts: []core.AttemptEvent{attempt("a", failure(verdict.ProxyUnreachable), 0)}}
	half, two, hour := 0.5, 2.0, 3600.0
	for name, tt := range map[string]struct {
		request preview.Request
		change  func(*retry.Policy)
		want    preview.RequestCourse
	}{
		"no change": {served, func(*retry.Policy) {}, course(3, 2*time.Second, preview.Served, 200)},
		"fewer attempts": {served, func(p *retry.Policy) { p.MaxAttempts = 2 },
			course(2, 2*time.Second, preview.Refused, 502)},
		"status is not retried": {served, func(p *retry.Policy) { p.RetryStatusCodes = []int{502} },
			course(1, 0, preview.Refused, 503)},
		"shorter delay": {served, func(p *retry.Policy) { p.BaseDelay = 0.1 },
			course(3, 100*time.Millisecond, preview.Served, 200)},
		"failover delay": {served, func(p *retry.Policy) { p.FailoverDelay = &half },
			course(3, time.Second, preview.Served, 200)},
		"linear": {exhausted, func(p *retry.Policy) { p.BackoffStrategy = "linear" },
			course(3, 6*time.Second, preview.Refused, 503)},
		"exponential with a cap": {exhausted, func(p *retry.Policy) { p.Multiplier, p.MaxBackoffDelay = 10, 5 },
			course(3, 7*time.Second, preview.Refused, 503)},
		"a backoff that is not built in": {exhausted, func(p *retry.Policy) { p.BackoffStrategy = "mine" },
			course(3, 6*time.Second, preview.Refused, 503)},
		"more attempts": {exhausted, func(p *retry.Policy) { p.MaxAttempts = 5 },
			course(4, 6*time.Second, preview.Unknown, 0)},
		"more attempts, but something else has stopped it": {stopped, func(p *retry.Policy) { p.MaxAttempts = 5 },
			course(2, 2*time.Second, preview.Refused, 503)},
		"more attempts, the last policy has stopped it": {earlier, func(p *retry.Policy) { p.MaxAttempts = 5 },
			course(3, 2*time.Second, preview.Unknown, 0)},
		"status is retried": {limited, func(p *retry.Policy) { p.RetryStatusCodes = []int{429} },
			course(2, 0, preview.Unknown, 0)},
		"status is retried, but not for POST": {post, func(p *retry.Policy) { p.RetryStatusCodes = []int{429} },
			course(1, 0, preview.Refused, 429)},
		"status is retried, for POST too": {post,
			func(p *retry.Policy) { p.RetryStatusCodes, p.RetryNonIdempotent = []int{429}, true },
			course(2, 0, preview.Unknown, 0)},
		"a tunnel that something else has stopped": {connect, func(p *retry.Policy) { p.MaxAttempts = 5 },
			course(1, 0, preview.Refused, 502)},
		"total timeout in an attempt": {served, func(p *retry.Policy) { p.Timeout = &half },
			course(1, 0, preview.Refused, 504)},
		"total timeout in a backoff": {served, func(p *retry.Policy) { p.Timeout = &two },
			course(1, 0, preview.Refused, 504)},
		"long total timeout": {served, func(p *retry.Policy) { p.Timeout = &hour },
			course(3, 2*time.Second, preview.Served, 200)},
	} {
		t.Run(name, func(t *testing.T) {
			now := policy(t, func(*retry.Policy) {})
			require.Equal(t, tt.want, preview.CourseUnder(&tt.request, policy(t, tt.change), now))
		})
	}
}

func TestRequestsThatKeepTheirCourse(t *testing.T) {
	now := policy(t, func(*retry.Policy) {})
	one := policy(t, func(p *retry.Policy) { p.MaxAttempts = 1 })
	two := []core.AttemptEvent{attempt("a", response(503), 0), attempt("b", response(200), time.Second)}
	hedge := []core.AttemptEvent{two[0], two[1]}
	hedge[1].Hedge = true
	for name, r := range map[string]preview.Request{
		"no attempt":      {Method: "GET", Final: core.FinalPoolEmpty, Status: 503},
		"client has left": {Method: "GET", Final: core.FinalCancelled, Attempts: two},
		"hedge":           {Method: "GET", Final: core.FinalSuccess, Status: 200, Attempts: hedge},
	} {
		require.Equal(t, preview.RecordedCourse(&r), preview.CourseUnder(&r, one, now), name)
	}
}

// A rule permits more attempts than the policy. A policy with one attempt permits no retries.
func TestMaxAttemptsOfARule(t *testing.T) {
	now := policy(t, func(*retry.Policy) {})
	banned := func(proxy string) core.AttemptEvent {
		o := verdict.ApplyRule(response(403), verdict.Instruction{Next: verdict.NextOtherProxy}, false)
		a := attempt(proxy, o, 0)
		a.RuleLimit = 5
		return a
	}
	served := preview.Request{Method: "GET", Final: core.FinalSuccess, Status: 200, Attempts: []core.AttemptEvent{
		banned("a"), banned("b"), banned("c"), banned("d"), attempt("e", response(200), 0),
	}}
	refused := preview.Request{Method: "GET", Final: core.FinalExhausted, Status: 403, Attempts: []core.AttemptEvent{
		banned("a"), banned("b"), banned("c"), banned("d"), banned("e"),
	}}
	stopped := refused // no proxy was left
	stopped.Attempts = refused.Attempts[:4]
	for _, tt := range []struct {
		name        string
		request     preview.Request
		maxAttempts int
		want        preview.RequestCourse
	}{
		{"the current policy", served, 3, course(5, 0, preview.Served, 200)},
		{"fewer attempts", served, 2, course(5, 0, preview.Served, 200)},
		{"no retries", served, 1, course(1, 0, preview.Refused, 403)},
		{"the rule's number", refused, 4, course(5, 0, preview.Refused, 403)},
		{"a higher number", refused, 6, course(6, 0, preview.Unknown, 0)},
		{"something else has stopped it", stopped, 10, course(4, 0, preview.Refused, 403)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := policy(t, func(p *retry.Policy) { p.MaxAttempts = tt.maxAttempts })
			require.Equal(t, tt.want, preview.CourseUnder(&tt.request, p, now))
		})
	}
}

// A replay is no attempt of the policy.
func TestReplays(t *testing.T) {
	now := policy(t, func(*retry.Policy) {})
	one := policy(t, func(p *retry.Policy) { p.MaxAttempts = 1 })
	r := preview.Request{Method: "GET", Final: core.FinalSuccess, Status: 200, Attempts: []core.AttemptEvent{
		attempt("a", failure(verdict.StaleConnection), 0), attempt("a", response(200), 0),
	}}
	require.Equal(t, course(1, 0, preview.Served, 200), preview.CourseUnder(&r, one, now))
}

// The total timeout is longer than the one that has ended the request.
func TestALongerTotalTimeout(t *testing.T) {
	short, long := 1.5, 10.0
	now := policy(t, func(p *retry.Policy) { p.Timeout = &short })
	f := verdict.Facts{Idempotent: true, Replayable: true, TotalTimeout: true,
		Err: &verdict.Error{Cause: verdict.NoAnswerInTime}}
	r := preview.Request{Method: "GET", Final: core.FinalTimeout, Status: 504,
		Attempts: []core.AttemptEvent{attempt("a", verdict.Judge(&f), 0)}}
	require.Equal(t, course(1, 0, preview.Refused, 504), preview.CourseUnder(&r, now, now))
	later := policy(t, func(p *retry.Policy) { p.Timeout = &long })
	require.Equal(t, preview.Unknown, preview.CourseUnder(&r, later, now).Result)
}
