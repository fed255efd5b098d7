package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// statusResponses are the responses of a gateway with five proxies.
func statusResponses() map[string][]string {
	return map[string][]string{
		"GET /config": {`200 {"gateway":"127.0.0.1:8888","reload":{"ok":false,"at":"2026-11-29T03:00:00Z","faults":[` +
			`{"file":"k.toml","line":3,"key":"log.level","message":"must be debug"}],"restart":["api.listen"]}}`},
		"GET /status": {`200 {"summary":"2 of 5 proxies fail","proxies":{"total":5,"in_service":1,"closed":3,` +
			`"open":1,"half_open":1,"draining":1,"unreached":1},` +
			`"failures":[{"proxies":2,"reason":"403 at shop.example","example":"d"}],` +
			`"losses":[{"requests":1,"proxies":1,"proxy":"d","reason":"403 at shop.example"},` +
			`{"requests":2,"proxies":2,"reason":"proxy unreachable"},` +
			`{"requests":3,"reason":"all breakers open"}]}`},
		"GET /circuit-breakers": {`200 {"circuit_breakers":[{"proxy_id":"b c","state":"open"},` +
			`{"proxy_id":"d","state":"half_open"}]}`},
		"GET /circuit-breakers/b c": {`200 {"last_state_change":"2026-11-29T03:00:00Z","why":{"summary":"5 of 5"}}`},
		"GET /metrics/retries": {`200 {"total_requests":200,"total_attempts":230,"total_retries":30,` +
			`"retention_hours":24,"success_by_attempt":{"0":150,"1":49},` +
			`"by_policy":{"since the start only":{"requests":2,"successes":1}}}`},
		"GET /targets": {`200 {"targets":[{"target":"dead.example:80","failures":7,"suspect":true},` +
			`{"target":"fine.example:80","failures":1,"suspect":false}]}`},
	}
}

func TestStatus(t *testing.T) {
	f := newFakeAPI(t, statusResponses())
	out, errs, code := run("status")
	require.Zero(t, code, errs)
	for _, line := range []string{
		`status +2 of 5 proxies fail\n`,
		`gateway +127\.0\.0\.1:8888\n`,
		`proxies +5: 1 in service, 1 half-open, 1 open, 1 draining, 1 unreached\n`,
		`requests +200 in 24 h, 99\.50 % delivered; 230 attempts, 30 retries\n`,
		`failing +2 proxies: 403 at shop\.example, such as d\n`,
		`lost +1 request: 403 at shop\.example, through d\n`,
		`lost +2 requests: proxy unreachable, through 2 proxies\n`, `lost +3 requests: all breakers open\n`,
		`breaker +b c: open since 2026-11-\d\d \d\d:\d\d:\d\d: 5 of 5\n`,
		`target +dead\.example:80 fails through every proxy \(7 failures\)\n`,
		`not in force: k\.toml:3: log\.level: must be debug\n`,
		`takes effect at the next start: api\.listen\n`,
	} {
		require.Regexp(t, line, out)
	}
	require.NotContains(t, out, "fine.example")
	require.True(t, f.keys["Bearer the-key"])

	out, _, code = run("status", "--json")
	require.Zero(t, code)
	var s gatewayStatus
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.Equal(t, proxyCounts{Total: 5, InService: 1, HalfOpen: 1, Open: 1, Draining: 1, Unreached: 1}, s.Proxies)
	require.Equal(t, requestCounts{Hours: 24, Requests: 200, Delivered: 199, Attempts: 230, Retries: 30}, s.Requests)
	require.Len(t, s.Failing, 2, "d is named although it was removed meanwhile")
}

// Without failures the lists in the JSON are empty, not null.
func TestStatusWithoutFailures(t *testing.T) {
	newFakeAPI(t, map[string][]string{
		"GET /config":          {`200 {"gateway":"127.0.0.1:8888","reload":{"ok":true}}`},
		"GET /status":          {`200 {"summary":"all proxies work","proxies":{"total":2,"in_service":2,"closed":2}}`},
		"GET /metrics/retries": {`200 {"total_requests":0}`},
		"GET /targets":         {`200 {"targets":[]}`},
	})
	out, errs, code := run("status", "--json")
	require.Zero(t, code, errs)
	require.NotContains(t, out, "null")
}

// In a cluster, the status says which node the gateway is, and what all nodes have served.
func TestStatusOfACluster(t *testing.T) {
	responses := statusResponses()
	responses["GET /status"] = []string{`200 {"summary":"both proxies work","proxies":{"total":2,"in_service":2},` +
		`"cluster":{"name":"whirlpool","node":"gw-1","state":"isolated","live_nodes":3,` +
		`"requests":{"window":300,"total":1000,"delivered":999,"target_refused":4,"attempts":1100,` +
		`"retries":100}}}`}
	newFakeAPI(t, responses)
	out, errs, code := run("status")
	require.Zero(t, code, errs)
	require.Regexp(t, `cluster +whirlpool: this gateway is gw-1 \(isolated\), 3 live\n`+
		` +all together: 1000 requests in the last 5 minutes, 99\.50 % delivered; 1100 attempts, 100 retries\n`, out)
	out, _, _ = run("status", "--json")
	require.Contains(t, out, `"live_nodes": 3`)
}

// Requests that the target refuses are not among the delivered ones.
func TestStatusOfRefusedRequests(t *testing.T) {
	responses := statusResponses()
	responses["GET /metrics/retries"] = []string{`200 {"total_requests":50,"total_attempts":50,"total_retries":0,` +
		`"target_refused":40,"retention_hours":24,"success_by_attempt":{"0":50}}`}
	newFakeAPI(t, responses)
	out, errs, code := run("status")
	require.Zero(t, code, errs)
	require.Regexp(t, `requests +50 in 24 h, 20\.00 % delivered, 40 refused by the target \(403 or 429\); 50 `, out)
}

// A gateway that fails, or is not a gateway, is an error with a message.
func TestStatusWithoutAGateway(t *testing.T) {
	responses := statusResponses()
	responses["GET /targets"] = []string{`403 {"error":"forbidden","message":"the key may not read"}`}
	newFakeAPI(t, responses)
	_, errs, code := run("status")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "the key may not read; give an admin's key")
	for _, command := range []string{"status", "events"} {
		_, errs, code = run(command, "--to", "http://127.0.0.1:1")
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, "no response from the API at 127.0.0.1:1")
	}
}

func TestHealth(t *testing.T) {
	newFakeAPI(t, map[string][]string{"GET /healthz": {`200 {"status":"ok","version":"1"}`},
		"GET /readyz": {`503 {"error":"not_ready","message":"all breakers are open"}`}})
	out, errs, code := run("health")
	require.Zero(t, code, errs)
	require.Equal(t, "ok\n", out)
	_, errs, code = run("health", "--ready")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "all breakers are open")
	t.Setenv(urlVar, "http://127.0.0.1:1")
	_, _, code = run("health")
	require.Equal(t, exitFailed, code)
}

func TestEvents(t *testing.T) {
	const stream = "200 retry: 2000\n\n: a comment\n\nid: 1\nevent: policy\ndata: {\"max_attempts\":4}\n\n" +
		"event: reload\ndata: {\"ok\":true}\n\n"
	newFakeAPI(t, map[string][]string{"GET /events": {stream}})
	out, errs, code := run("events", "--type", "policy,reload")
	require.Equal(t, exitFailed, code, "the stream has ended")
	require.Contains(t, errs, "has ended the stream")
	require.Regexp(t, `^\S+ \S+ policy \{"max_attempts":4\}\n\S+ \S+ reload \{"ok":true\}\n$`, out)
	out, _, _ = run("events", "--json")
	require.Equal(t, `{"id":"1","type":"policy","data":{"max_attempts":4}}`+"\n"+
		`{"id":"1","type":"reload","data":{"ok":true}}`+"\n", out)

	newFakeAPI(t, map[string][]string{"GET /events": {
		"200 event: policy\ndata: {\"updated_at\":\"2026-11-01T12:00:00Z\"}\n\n" +
			"event: breaker\ndata: {\"timestamp\":\"2026-11-02T12:00:00Z\"}\n\n" +
			"event: ban\ndata: {\"at\":\"2026-11-03T12:00:00Z\"}\n\n"}})
	out, _, _ = run("events", "--follow=false")
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		at := time.Date(2026, 11, 1+i, 12, 0, 0, 0, time.UTC)
		require.Contains(t, line, at.Local().Format(time.DateTime), "the time of the event itself")
	}

	for message, args := range map[string][]string{
		"--sample needs --type":      {"--sample", "0.5"},
		"number above 0 and up to 1": {"--type", "request", "--sample", "1.5"},
		"did you mean exhaustion":    {"--type", "exhaustions"},
	} {
		_, errs, code = run(append([]string{"events"}, args...)...)
		require.NotZero(t, code)
		require.Contains(t, errs, message)
	}

	newFakeAPI(t,
		map[string][]string{"GET /events": {`400 {"error":"bad_query","message":"type must be one of a, b"}`}})
	_, errs, code = run("events")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "type must be one of a, b")
}
