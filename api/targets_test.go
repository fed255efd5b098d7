package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestTargets(t *testing.T) {
	r := newRig(t, nil)
	r.now = noon.Add(time.Minute)
	r.check(t, get("/targets", 200, `{"targets":[],"total":0,"next_cursor":null}`))
	r.targets.list = []evidence.TargetView{
		{Name: "b.test:80", Attempts: 4, Failures: 1, FailureRate: 0.25, Proxies: 1, LastFailure: time.Second,
			LastSuccess: 2 * time.Second},
		{Name: "a.test:80", Attempts: 4, Failures: 1, FailureRate: 0.25, Proxies: 1, LastFailure: time.Second},
		{Name: "c.test:80", Attempts: 4, Failures: 3, FailureRate: 0.75, Proxies: 2, LastFailure: time.Second},
		{Name: "d.test:80", Attempts: 2, Failures: 2, FailureRate: 1, Proxies: 2, Suspect: true,
			LastFailure: time.Second},
	}
	const (
		none = `,"reasons":[],"traffic":{"window":3600,"attempts":0,"statuses":{},"latency_p50":0,"latency_p95":0,` +
			`"bytes":0}}`
		d = `{"target":"d.test:80","attempts":2,"failures":2,"refused":0,"failure_rate":1,"proxies_failing":2,` +
			`"suspect":true,"last_failure":"2026-11-28T12:00:01Z","last_success":null` + none
		c = `{"target":"c.test:80","attempts":4,"failures":3,"refused":0,"failure_rate":0.75,"proxies_failing":2,` +
			`"suspect":false,"last_failure":"2026-11-28T12:00:01Z","last_success":null` + none
		a = `{"target":"a.test:80","attempts":4,"failures":1,"refused":0,"failure_rate":0.25,"proxies_failing":1,` +
			`"suspect":false,"last_failure":"2026-11-28T12:00:01Z","last_success":null` + none
		b = `{"target":"b.test:80","attempts":4,"failures":1,"refused":0,"failure_rate":0.25,"proxies_failing":1,` +
			`"suspect":false,"last_failure":"2026-11-28T12:00:01Z","last_success":"2026-11-28T12:00:02Z"` + none
	)
	limit := `{"error":"invalid_field","message":"limit must be one integer from 1 to 1000",` +
		`"details":{"field":"limit","limit":"1 to 1000"}}`
	r.check(t,
		get("/targets", 200, `{"targets":[`+d+","+c+","+a+","+b+`],"total":4,"next_cursor":null}`),
		get("/targets?limit=3", 200, `{"targets":[`+d+","+c+","+a+`],"total":4,"next_cursor":"3"}`),
		get("/targets?limit=3&cursor=3", 200, `{"targets":[`+b+`],"total":4,"next_cursor":null}`),
		get("/targets?limit=1&cursor=1", 200, `{"targets":[`+c+`],"total":4,"next_cursor":"2"}`),
		get("/targets?cursor=4", 200, `{"targets":[],"total":4,"next_cursor":null}`),
		get("/targets?cursor=999999999&limit=1000", 200),
		get("/targets?limit=0", 400, limit),
		get("/targets?limit=1001", 400, limit),
		get("/targets?limit=1&limit=2", 400, limit),
		get("/targets?cursor=-1", 400),
		get("/targets?cursor=1073741825", 400),
		get("/targets?cursor=x", 400),
	)
}

// The list has the targets of the ledger and, after them, the targets of the kept metrics.
func TestTargetsOfTheKeptMetrics(t *testing.T) {
	r := newRig(t, nil)
	attempt := func(host string, cause core.Cause, status int) {
		r.metrics.reasons.CountAttempt(&core.AttemptEvent{ProxyID: "F1", Host: host, Started: r.now, Ended: r.now,
			Outcome: core.Outcome{Cause: cause, Status: status, Latency: 100 * time.Millisecond}}, &minutes.SeriesRef{})
	}
	for _, a := range []struct {
		host   string
		cause  core.Cause
		status int
	}{
		{"a.test", verdict.BannedHere, 403}, {"a.test", verdict.Answered, 200}, {"c.test", verdict.TunnelTimeout, 0},
		{"c.test", verdict.TunnelTimeout, 0}, {"d.test", verdict.TunnelFailed, 0}, {"fine.test", verdict.Answered, 200},
		{"own.test", verdict.ProxyUnreachable, 0},
	} {
		attempt(a.host, a.cause, a.status)
	}
	r.now = noon.Add(time.Minute)
	r.targets.list = []evidence.TargetView{{Name: "d.test:80", Attempts: 1, Failures: 1, FailureRate: 1, Suspect: true}}
	type list struct {
		Targets []struct {
			Target             string
			Attempts, Failures int
			LastFailure        time.Time  `json:"last_failure"`
			LastSuccess        *time.Time `json:"last_success"`
			Traffic            struct{ Attempts int }
		}
	}
	read := func(query string) (names []string, l list) {
		_, body := r.send(t, "GET", "/api/v1/targets"+query, "")
		require.NoError(t, json.Unmarshal(body, &l))
		for _, target := range l.Targets {
			names = append(names, target.Target)
		}
		return names, l
	}
	names, l := read("?window=24h")
	require.Equal(t, []string{"d.test:80", "c.test", "a.test"}, names)
	a := l.Targets[2]
	require.Equal(t, []int{2, 1, 2}, []int{a.Attempts, a.Failures, a.Traffic.Attempts})
	require.Equal(t, []time.Time{noon, noon}, []time.Time{a.LastFailure, *a.LastSuccess})
	require.Nil(t, l.Targets[1].LastSuccess)
	attempt("late.test", verdict.TunnelFailed, 0)
	r.now = noon.Add(61 * time.Minute)
	for query, want := range map[string][]string{
		"":                              {"d.test:80", "late.test"},
		"?window=24h&state=suspect":     {"d.test:80"},
		"?window=24h&q=A.":              {"a.test"},
		"?window=24h&sort=target":       {"a.test", "c.test", "d.test:80", "late.test"},
		"?window=24h&limit=1&cursor=2":  {"a.test"},
		"?window=24h&sort=last_failure": {"d.test:80", "c.test", "a.test", "late.test"},
	} {
		names, _ := read(query)
		require.Equal(t, want, names, query)
	}
}
