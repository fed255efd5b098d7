package api

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestBreakers(t *testing.T) {
	r := newRig(t, nil)
	r.now = noon.Add(time.Minute)
	r.trip("F1")
	r.now = r.now.Add(10 * time.Second)
	const (
		open = `{"proxy_id":"F1","state":"open","failure_count":1,"failure_threshold":1,"window_duration":60,` +
			`"timeout_duration":30,"next_test_time":"2026-11-28T12:01:30Z","retry_in_seconds":20,` +
			`"last_state_change":"2026-11-28T12:01:00Z"`
		closed = `{"proxy_id":"F2","state":"closed","failure_count":0,"failure_threshold":1,"window_duration":60,` +
			`"timeout_duration":30,"next_test_time":null,"retry_in_seconds":null,` +
			`"last_state_change":"2026-11-28T12:00:00Z"`
		why = `,"why":{"summary":"","since":null,"failures":0,"successes":0,"evidence":0,"needed":13.5,` +
			`"own_failures":0,` +
			`"own_causes":{},"targets":[]},`
		fails = `"failure":{"cause":"","status":0,"host":"","reason":"unknown"},`
	)
	r.check(t,
		get("/circuit-breakers", 200, `{"circuit_breakers":[`+open+"},"+closed+"}]}"),
		get("/circuit-breakers/F1", 200, open+why+fails+noAttempts+"}"),
		get("/circuit-breakers/F%31", 200, open+why+fails+noAttempts+"}"),
		get("/circuit-breakers/F2", 200, closed+why+noAttempts+"}"),
		get("/circuit-breakers/nope", 404, `{"error":"not_found","message":"there is no proxy \"nope\""}`),
		get("/circuit-breakers/%00", 404),
		call("POST", "/circuit-breakers/nope/reset", "", 404),
		call("POST", "/circuit-breakers/F1/reset", "", 200, `{"proxy_id":"F1","state":"closed","failure_count":0,`+
			`"failure_threshold":1,"window_duration":60,"timeout_duration":30,"next_test_time":null,`+
			`"retry_in_seconds":null,`+
			`"last_state_change":"2026-11-28T12:01:10Z"}`),
	)
	require.Equal(t, core.Closed, r.pool.Snapshot().Get("F1").Breaker().State())
}

func TestRetryInIsNeverNegative(t *testing.T) {
	r := newRig(t, nil)
	r.trip("F1")
	late := noon.Add(time.Hour) // time of the API's clock; the breaker's clock stands still
	h := breakerHandler{pool: r.pool, now: func() time.Time { return late }}
	require.Zero(t, *h.view(r.pool.Snapshot().Get("F1")).RetryInSeconds)
}

func TestWhyOfABreaker(t *testing.T) {
	r := newRig(t, nil)
	r.now = noon.Add(time.Minute)
	h := breakerHandler{pool: r.pool, now: func() time.Time { return r.now }}
	own, atTarget, since := uint8(verdict.ProxyUnreachable), uint8(verdict.TunnelRefused), noon.Add(30*time.Second)
	why := evidence.Report{
		Since: 30 * time.Second, Failures: 3, Successes: 1, Evidence: 14, Needed: 13.5, OwnFailures: 2,
		OwnCauses: []evidence.CauseCount{{Cause: own, Count: 2}},
		Targets: []evidence.TargetReport{{
			Name: "a.test:443", Failures: 1, Attempts: 2, Causes: []evidence.CauseCount{{Cause: atTarget, Count: 1}},
			OtherFailures: 3, OtherAttempts: 4, Noise: 0.5, Evidence: 6,
		}},
	}
	v := h.viewOfWhy(why)
	require.Contains(t, v.Summary, "a.test:443")
	v.Summary = "" // the tests of package evidence check its text
	require.Equal(t, whyView{
		Since: &since, Failures: 3, Successes: 1, Evidence: 14, Needed: 13.5,
		OwnFailures: 2, OwnCauses: map[string]int{causeWord(own): 2},
		Targets: []targetEvidence{{
			Target: "a.test:443", Failures: 1, Attempts: 2, Causes: map[string]int{causeWord(atTarget): 1},
			RestFailures: 3, RestAttempts: 4,
			Noise: 0.5, Evidence: 6,
		}},
	}, v)
}

func TestTransitions(t *testing.T) {
	r := newRig(t, nil)
	r.check(t,
		get("/circuit-breakers/metrics", 200, `{"events":[],"counts":{},"truncated":false,"retention_hours":48}`),
	)
	require.Equal(t, 24, r.metrics.hours)
	r.metrics.transitions = []core.Transition{
		{ProxyID: "F1", To: core.Open, At: noon, FailureCount: 5, Reason: "threshold", Why: "it failed"},
		{ProxyID: "F1", From: core.Open, To: core.HalfOpen, At: noon.Add(time.Second), Reason: "timeout"},
		{ProxyID: "F1", From: core.HalfOpen, To: core.Open, At: noon.Add(2 * time.Second), Reason: "probe_failure"},
		{ProxyID: "F2", To: core.Open, At: noon.Add(3 * time.Second), Reason: "threshold"},
	}
	r.metrics.truncated = true
	r.check(t,
		get("/circuit-breakers/metrics?hours=168", 200, `{"events":[`+
			`{"proxy_id":"F1","from_state":"closed","to_state":"open","timestamp":"2026-11-28T12:00:00Z",`+
			`"failure_count":5,"reason":"threshold","why":"it failed"},`+
			`{"proxy_id":"F1","from_state":"open","to_state":"half_open","timestamp":"2026-11-28T12:00:01Z",`+
			`"failure_count":0,"reason":"timeout","why":""},`+
			`{"proxy_id":"F1","from_state":"half_open","to_state":"open","timestamp":"2026-11-28T12:00:02Z",`+
			`"failure_count":0,"reason":"probe_failure","why":""},`+
			`{"proxy_id":"F2","from_state":"closed","to_state":"open","timestamp":"2026-11-28T12:00:03Z",`+
			`"failure_count":0,"reason":"threshold","why":""}],`+
			`"counts":{"F1":{"half_open":1,"open":2},"F2":{"open":1}},"truncated":true,"retention_hours":48}`),
	)
	require.Equal(t, 168, r.metrics.hours)
	r.checkHours(t, "/circuit-breakers/metrics")
}

// checkHours sends invalid values of the parameter hours.
func (r *rig) checkHours(t *testing.T, path string) {
	t.Helper()
	for _, q := range []string{"", "0", "-1", "169", "1.5", "abc", "+1", "%2B1", "99999999999999999999", "1&hours=2",
		"0x1"} {
		r.check(t, get(path+"?hours="+q, 400,
			`{"error":"invalid_field","message":"hours must be one integer from 1 to 168",`+
				`"details":{"field":"hours","limit":"1 to 168"}}`))
	}
}
