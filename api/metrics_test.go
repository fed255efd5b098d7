package api

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestSummary(t *testing.T) {
	r := newRig(t, nil)
	r.check(t, get("/metrics/retries", 200, `{"total_requests":0,"total_attempts":0,"total_retries":0,`+
		`"replays":0,"success_by_attempt":null,"target_refused":0,"banned_responses":0,`+
		`"circuit_breaker_events_count":0,"retry_latency_seconds_total":0,`+
		`"by_policy":{},"retention_hours":48}`))
	policy := retry.DefaultPolicy()
	r.metrics.summary = metrics.Summary{
		Requests: 10, Attempts: 14, Retries: 3, Replays: 1, SuccessByAttempt: map[string]uint64{"0": 7, "1": 2},
		Transitions: 4, Banned: 5,
		BackoffTime: 1500000500 * time.Nanosecond, ByPolicy: map[string]metrics.PolicyCounts{
			"abc": {Policy: &policy, Requests: 8, Successes: 6}, "other": {Requests: 2},
		},
	}
	r.check(t, get("/metrics/retries", 200, `{"total_requests":10,"total_attempts":14,"total_retries":3,`+
		`"replays":1,"success_by_attempt":{"0":7,"1":2},"target_refused":0,"banned_responses":5,`+
		`"circuit_breaker_events_count":4,`+
		`"retry_latency_seconds_total":1.500001,`+
		`"by_policy":{"abc":{"policy":{"max_attempts":3,"backoff_strategy":"exponential","base_delay":1,`+
		`"multiplier":2,`+
		`"max_backoff_delay":30,"jitter":false,"retry_status_codes":[502,503,504],"timeout":null,`+
		`"retry_non_idempotent":false,`+
		`"failover_delay":null},"requests":8,"successes":6,"success_rate":0.75},"other":{"requests":2,`+
		`"successes":0,"success_rate":0}},`+
		`"retention_hours":48}`))
}

func TestSeries(t *testing.T) {
	r := newRig(t, nil)
	const path = "/metrics/retries/timeseries"
	r.check(t, get(path, 200, `{"data_points":[],"retention_hours":48}`))
	require.Equal(t, 24, r.metrics.hours)
	require.Equal(t, time.Hour, r.metrics.step)
	r.metrics.points = []metrics.SeriesPoint{
		{Start: noon, Requests: 4, Delivered: 3, Attempts: 4, Retries: 1, Latency: 2 * time.Second},
		{Start: noon.Add(time.Hour), Attempts: 1, Latency: time.Second},
	}
	r.check(t, get(path+"?interval=day&hours=2", 200, `{"data_points":[`+
		`{"timestamp":"2026-11-28T12:00:00Z","total_requests":4,"total_retries":1,"success_rate":0.75,`+
		`"avg_latency":0.5},`+
		`{"timestamp":"2026-11-28T13:00:00Z","total_requests":0,"total_retries":0,"success_rate":1,`+
		`"avg_latency":1}],"retention_hours":48}`))
	require.Equal(t, 2, r.metrics.hours)
	require.Equal(t, 24*time.Hour, r.metrics.step)
	r.check(t, get(path+"?interval=hour", 200))
	require.Equal(t, time.Hour, r.metrics.step)
	const wrong = `{"error":"invalid_field","message":"interval must be hour or day","details":{"field":"interval"}}`
	r.check(t,
		get(path+"?interval=week", 400, wrong),
		get(path+"?interval=", 400, wrong),
		get(path+"?interval=day&interval=hour", 400, wrong),
	)
	r.checkHours(t, path)
}

func TestByProxy(t *testing.T) {
	r := newRig(t, nil)
	const path = "/metrics/retries/by-proxy"
	r.check(t, get(path, 200, `{"proxies":{},"retention_hours":48}`))
	r.metrics.proxies = map[string]metrics.ProxyStats{
		"F2": {BreakerOpens: 1},
		"F1": {Successes: 2, Failures: 1, Cancelled: 1, Latency: time.Second, BreakerOpens: 3},
	}
	r.metrics.counts = map[string][]minutes.Count{"F1": {{Key: minutes.KeyOf(verdict.Answered, 200), N: 2},
		{Key: minutes.KeyOf(verdict.ProxyUnreachable, 0), N: 1}}}
	r.check(t, get(path+"?hours=3", 200, `{"proxies":{`+
		`"F1":{"proxy_id":"F1","total_attempts":4,"success_count":2,"failure_count":1,"cancelled_count":1,`+
		`"avg_latency":0.25,"circuit_breaker_opens":3,`+
		`"causes":{"answered":2,"proxy_unreachable":1},"statuses":{"200":2,"2xx":2}},`+
		`"F2":{"proxy_id":"F2","total_attempts":0,"success_count":0,"failure_count":0,"cancelled_count":0,`+
		`"avg_latency":0,"circuit_breaker_opens":1,"causes":{},"statuses":{}}},`+
		`"retention_hours":48}`))
	require.Equal(t, 3, r.metrics.hours)
	r.checkHours(t, path)
}

// Only the proxies with the most failures have causes: the causes of 10,000 proxies would take half a second.
func TestByProxyOfManyProxies(t *testing.T) {
	r := newRig(t, nil)
	r.metrics.proxies = map[string]metrics.ProxyStats{}
	for i := range uint64(150) {
		r.metrics.proxies[fmt.Sprint(i)] = metrics.ProxyStats{Failures: i}
	}
	_, body := r.send(t, "GET", "/api/v1/metrics/retries/by-proxy", "")
	var v struct {
		Proxies map[string]struct {
			FailureCount int `json:"failure_count"`
			Causes       map[string]int
		}
	}
	require.NoError(t, json.Unmarshal(body, &v))
	require.Len(t, v.Proxies, 150)
	for id, p := range v.Proxies {
		require.Equal(t, p.FailureCount >= 50, p.Causes != nil, id)
	}
}
