package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var attempts = []core.AttemptEvent{
	{ProxyID: "F1", Started: noon, Ended: noon.Add(1500 * time.Microsecond),
		Outcome: core.Outcome{Cause: verdict.ProxyUnreachable, Result: core.ResultFailure,
			Err: errors.New("refused")}},
	{ProxyID: "F2", Attempt: 1, Delay: time.Second, Started: noon, Ended: noon.Add(time.Second),
		Outcome: core.Outcome{Cause: verdict.Answered, Result: core.ResultSuccess, Status: 200}},
}

const attemptViews = `[{"attempt":0,"proxy_id":"F1","outcome":"failure","delay_before":0,"latency":0.0015,` +
	`"error_message":"refused","cause":"proxy_unreachable","started_at":"2026-11-28T12:00:00Z"},` +
	`{"attempt":1,"proxy_id":"F2","outcome":"success","status_code":200,"delay_before":1,"latency":1,` +
	`"cause":"answered","started_at":"2026-11-28T12:00:00Z"}]`

func TestRequests(t *testing.T) {
	r := newRig(t, nil)
	r.check(t, get("/requests", 200, `{"requests":[]}`))
	r.tracker.list = []metrics.Request{
		{ID: 0x10, Method: "GET", Host: "a.test", State: metrics.StateWaiting, Started: noon, CurrentAttempt: 1,
			ProxyID:   "F1",
			NextRetry: noon.Add(time.Second), Attempts: attempts[:1]},
		{ID: 0x11, Method: "GET", Host: "a.test", State: metrics.StateDone, Started: noon, CurrentAttempt: 1,
			ProxyID:   "F2",
			NextRetry: noon, Ended: noon.Add(3 * time.Second), Final: core.FinalSuccess, Status: 200,
			Attempts: attempts, ClientID: "a-1"},
		{ID: 0x12, Method: "CONNECT", Host: "a.test", State: metrics.StateSelecting, Started: noon},
		{ID: 0x14, Method: "GET", Host: "a.test", State: metrics.StateQueued, Started: noon,
			Priority: core.PriorityLow, Queued: 250 * time.Millisecond},
	}
	const (
		waiting = `{"id":"0000000000000010","method":"GET","host":"a.test","state":"waiting",` +
			`"current_attempt":1,"proxy_id":"F1",` +
			`"next_retry_time":"2026-11-28T12:00:01Z","started_at":"2026-11-28T12:00:00Z","finished_at":null,` +
			`"attempts":[` +
			`{"attempt":0,"proxy_id":"F1","outcome":"failure","delay_before":0,"latency":0.0015,` +
			`"error_message":"refused","cause":"proxy_unreachable","started_at":"2026-11-28T12:00:00Z"}]}`
		done = `{"id":"0000000000000011","client_request_id":"a-1","method":"GET","host":"a.test",` +
			`"state":"done","current_attempt":1,"proxy_id":"F2",` +
			`"next_retry_time":null,"started_at":"2026-11-28T12:00:00Z","finished_at":"2026-11-28T12:00:03Z",` +
			`"outcome":"success",` +
			`"status":200,"attempts":` + attemptViews + "}"
		selecting = `{"id":"0000000000000012","method":"CONNECT","host":"a.test","state":"selecting",` +
			`"current_attempt":0,"proxy_id":"",` +
			`"next_retry_time":null,"started_at":"2026-11-28T12:00:00Z","finished_at":null,"attempts":[]}`
		queued = `{"id":"0000000000000014","method":"GET","host":"a.test","state":"queued",` +
			`"current_attempt":0,"proxy_id":"",` +
			`"next_retry_time":null,"started_at":"2026-11-28T12:00:00Z","finished_at":null,"attempts":[],` +
			`"queue":{"priority":"low","waited":0.25}}`
	)
	limit := `{"error":"invalid_field","message":"limit must be one integer from 1 to 10000",` +
		`"details":{"field":"limit","limit":"1 to 10000"}}`
	state := bad("state", "state must be one of selecting, queued, attempting, waiting, streaming, tunnel, done")
	r.check(t,
		get("/requests", 200, `{"requests":[`+waiting+","+done+","+selecting+","+queued+"]}"),
		get("/requests/0000000000000010", 200, waiting),
		get("/requests/0000000000000011", 200, done),
		get("/requests/0000000000000013", 404,
			`{"error":"not_found",`+
				`"message":"no request \"0000000000000013\" is in flight or among the latest that have ended"}`),
		get("/requests/10", 404),
		get("/requests/000000000000001g", 404),
		get("/requests/%2e%2e", 404),
		get("/requests?limit=0", 400, limit),
		get("/requests?limit=10001", 400, limit),
		get("/requests?limit=x", 400, limit),
		get("/requests?limit=1&limit=1", 400, limit),
		get("/requests?state=nope", 400, state),
		get("/requests?state=", 400, state),
		get("/requests?state=done&state=done", 400, state),
	)
	for query, want := range map[string]fakeTracker{
		"": {limit: 200}, "?limit=10000": {limit: math.MaxInt},
		"?state=waiting&limit=1": {state: "waiting", limit: math.MaxInt},
	} {
		r.check(t, get("/requests"+query, 200))
		require.Equal(t, want, fakeTracker{state: r.tracker.state, limit: r.tracker.limit}, query)
	}
}

// The parameter proxy_id selects the requests of which any attempt, even one in flight, uses the proxy. The parameter
// host selects the requests for exactly this host, with any port.
func TestRequestsOfAProxyAndOfATarget(t *testing.T) {
	r := newRig(t, nil)
	through := func(id core.RequestID, host, current string, proxies ...string) metrics.Request {
		q := metrics.Request{ID: id, Method: "GET", Host: host, State: metrics.StateDone, Started: noon, Ended: noon,
			ProxyID: current}
		for _, p := range proxies {
			q.Attempts = append(q.Attempts, core.AttemptEvent{ProxyID: p, Started: noon, Ended: noon})
		}
		return q
	}
	r.tracker.list = []metrics.Request{
		through(1, "a.test", "F2", "F1", "F2"),
		through(2, "b.test", "F10", "F10"),
		through(3, "f1.test", "F2", "F2"),
		through(4, "a.test.example", "F1"), // a request in flight
		through(5, "2001:db8::1", "F1", "F1"),
	}
	long := strings.Repeat("p", 256) // the longest id of a proxy
	for query, want := range map[string]string{
		"proxy_id=F1":                           "1 4 5",
		"proxy_id=F2":                           "1 3",
		"proxy_id=f1":                           "",
		"proxy_id=" + long:                      "",
		"host=a.test":                           "1",
		"host=A.Test.":                          "1",
		"host=2001:DB8::1":                      "5",
		"host=[2001:db8::1]":                    "5",
		"proxy_id=F1&host=a.test":               "1",
		"proxy_id=F1&q=a.test":                  "1 4",
		"proxy_id=F1&limit=1":                   "1",
		"proxy_id=F1&limit=1&cursor=1":          "4",
		"proxy_id=F1&state=done&sort=-attempts": "1 5 4",
	} {
		_, body := r.send(t, "GET", "/api/v1/requests?"+query, "")
		var v struct {
			Requests []struct{ ID string }
			Total    int
		}
		require.NoError(t, json.Unmarshal(body, &v), "%s", body)
		ids := []string{}
		for _, q := range v.Requests {
			ids = append(ids, strings.TrimLeft(q.ID, "0"))
		}
		require.Equal(t, want, strings.Join(ids, " "), query)
	}
	_, body := r.send(t, "GET", "/api/v1/requests?proxy_id=F1&limit=1", "")
	require.Contains(t, string(body), `"total":3,"next_cursor":"1-`)
	r.check(t,
		get("/requests?proxy_id=", 400, bad("proxy_id", "proxy_id must be one id")),
		get("/requests?proxy_id=F1&proxy_id=F2", 400, bad("proxy_id", "proxy_id must be one id")),
		get("/requests?host=", 400),
		get("/requests?host=*.test", 400, bad("host", "host must be one host, without *")),
		get("/requests?host=a.test:80", 400),
		get("/requests?proxy=F1", 400),
	)
}

// responseOf returns the result of a request whose response has the given body.
func responseOf(body string) *engine.Result {
	return &engine.Result{ID: 0x20, Final: core.FinalSuccess, Attempts: attempts, Response: &http.Response{
		StatusCode: 200, Header: http.Header{"X-A": {"b", "c"}}, Body: io.NopCloser(strings.NewReader(body)),
	}}
}

func TestSendRequest(t *testing.T) {
	r := newRig(t, nil)
	const head = `{"request_id":"0000000000000020","outcome":"success","status":200,"headers":{"X-A":["b","c"]},`
	send := func(body string) engine.Call {
		t.Helper()
		r.engine.calls, r.engine.result = nil, responseOf("hi")
		r.check(t, call("POST", "/request", body, 200,
			head+`"body":"hi","truncated":false,"attempts":`+attemptViews+"}"))
		require.Len(t, r.engine.calls, 1)
		return r.engine.calls[0]
	}
	c := send(`{"url":"https://a.test:8/p?q"}`)
	require.Equal(t, "GET", c.Request.Method)
	require.Equal(t, "https://a.test:8/p?q", c.Request.URL.String())
	require.Nil(t, c.Request.Body)
	require.Nil(t, c.Policy)
	c = send(`{"url":"http://a.test/","method":"PUT","headers":{"host":"b.test","x-a":"c"},"body":"text",` +
		`"region":"EU","region_strict":true,"retry":{"max_attempts":7}}`)
	require.Equal(t, "PUT", c.Request.Method)
	require.Equal(t, "b.test", c.Request.Host)
	require.Equal(t, http.Header{"X-A": {"c"}}, c.Request.Header)
	body, err := io.ReadAll(c.Request.Body)
	require.NoError(t, err)
	require.Equal(t, "text", string(body))
	require.EqualValues(t, 4, c.Request.ContentLength)
	require.Equal(t, "EU", c.Region)
	require.True(t, c.RegionStrict)
	require.Equal(t, 7, *c.Override.MaxAttempts)
	require.Equal(t, 3, r.policies.Current().MaxAttempts, "the global policy stays")
	c = send(`{"url":"http://a.test/","body_base64":"/wAB"}`)
	body, err = io.ReadAll(c.Request.Body)
	require.NoError(t, err)
	require.Equal(t, "\xff\x00\x01", string(body))

	r.engine.result = responseOf("\xff\x00\x01")
	r.check(t, call("POST", "/request", `{"url":"http://a.test/"}`, 200,
		head+`"body_base64":"/wAB","truncated":false,"attempts":`+attemptViews+"}"))
}

func TestLongAndBrokenResponses(t *testing.T) {
	long := strings.Repeat("a", maxResponseBody)
	for _, x := range []struct {
		name      string
		body      io.Reader
		want      string
		truncated string
	}{
		{"at the limit", strings.NewReader(long), `"body":"` + long + `"`, `"truncated":false`},
		{"longer", strings.NewReader(long + "\xff"), `"body":"` + long + `"`, `"truncated":true`},
		{"broken", io.MultiReader(strings.NewReader("hal"), &brokenReader{}), `"body":"hal"`, `"truncated":true`},
		{"binary", strings.NewReader("\xff"), `"body_base64":"` + base64.StdEncoding.EncodeToString([]byte("\xff")) +
			`"`, `"truncated":false`},
	} {
		r := newRig(t, nil)
		r.engine.result = responseOf("")
		closed := &closeRecorder{Reader: x.body}
		r.engine.result.Response.Body = closed
		response, body := r.send(t, "POST", "/api/v1/request", `{"url":"http://a.test/"}`)
		require.Equal(t, 200, response.StatusCode, x.name)
		require.True(t, strings.Contains(string(body), x.want), x.name)
		require.Contains(t, string(body[max(0, len(body)-400):]), x.truncated, x.name)
		require.True(t, closed.closed, x.name)
	}
}

type brokenReader struct{}

func (*brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

type closeRecorder struct {
	io.Reader
	closed bool
}

func (c *closeRecorder) Close() error {
	c.closed = true
	return nil
}

func TestRequestWithoutAResponse(t *testing.T) {
	stopped := proxyhttp.StoppedResponse(executor.ErrShutdown)
	for _, x := range []struct {
		name       string
		result     engine.Result
		status     int
		code       string
		message    string
		retryAfter string
	}{
		{"exhausted", engine.Result{Final: core.FinalExhausted,
			Failure: &proxyhttp.ErrorResponse{Status: 502, Code: "connect_failed", Message: "no luck"}},
			502, "exhausted", "no luck", ""},
		{"not retryable", engine.Result{Final: core.FinalNotRetryable, Failure: &proxyhttp.ErrorResponse{Status: 504,
			Code: "response_timeout", Message: "late"}},
			504, "response_timeout", "late", ""},
		{"open breakers", engine.Result{Final: core.FinalAllBreakersOpen,
			Failure: &proxyhttp.ErrorResponse{Status: 503, Code: "x", Message: "all open",
				RetryAfter: 1100 * time.Millisecond}},
			503, "all_breakers_open", "all open", "2"},
		{"stopping", engine.Result{Final: core.FinalCancelled, Failure: &stopped},
			503, "shutting_down", "the gateway is shutting down", ""},
	} {
		r := newRig(t, nil)
		x.result.ID, x.result.Attempts = 0x20, attempts
		r.engine.result = &x.result
		response, body := r.send(t, "POST", "/api/v1/request", `{"url":"http://a.test/"}`)
		require.Equal(t, x.status, response.StatusCode, x.name)
		require.Equal(t, x.retryAfter, response.Header.Get("Retry-After"), x.name)
		require.Equal(t, `{"error":"`+x.code+`","message":"`+x.message+`","details":{"attempts":`+attemptViews+
			`,"request_id":"0000000000000020"}}`+"\n", string(body), x.name)
	}
}

// Shutdown cancels a request with the cause ErrShutdown, so that it does not look as if the client had
// left.
func TestShutdownIsTheCauseOfACancelledRequest(t *testing.T) {
	r := newRig(t, nil)
	stopped := proxyhttp.StoppedResponse(executor.ErrShutdown)
	r.engine.result = &engine.Result{Final: core.FinalCancelled, Failure: &stopped}
	r.send(t, "POST", "/api/v1/request", `{"url":"http://a.test/"}`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, r.Shutdown(ctx))
	<-r.engine.ctx.Done()
	require.ErrorIs(t, context.Cause(r.engine.ctx), executor.ErrShutdown)
}

func TestWrongRequests(t *testing.T) {
	r := newRig(t, nil)
	const url = bodyPrefix
	r.check(t,
		call("POST", "/request", `{}`, 400, bad("url", "url must be an absolute http:// or https:// URL")),
		call("POST", "/request", `{"url":"/p"}`, 400, bad("url", "url must be an absolute http:// or https:// URL")),
		call("POST", "/request", `{"url":"ftp://a.test/"}`, 400,
			bad("url", "url must be an absolute http:// or https:// URL")),
		call("POST", "/request", `{"url":"http://%zz/"}`, 400),
		call("POST", "/request", url+`"region_strict":true}`, 400,
			bad("region_strict", "region_strict needs a region")),
		call("POST", "/request", url+`"body":"","body_base64":""}`, 400,
			bad("body", "body and body_base64 exclude each other")),
		call("POST", "/request", url+`"body_base64":"*"}`, 400, bad("body_base64", "body_base64 is not base64")),
		call("POST", "/request", url+`"retry":{"max_attempts":0}}`, 400,
			`{"error":"invalid_field","message":"retry.max_attempts must be 1 to 10, not 0",`+
				`"details":{"field":"retry.max_attempts","limit":"1 to 10"}}`),
		call("POST", "/request", url+`"retry":{"nope":0}}`, 400),
		call("POST", "/request", url+`"headers":{"A":1}}`, 400),
	)
	require.Empty(t, r.engine.calls)
	r.engine.err = &engine.RequestError{Msg: "the method is not a token"}
	r.check(t, apiCase{name: "the engine's own check", method: "POST", path: "/request",
		body: url + `"method":"A B"}`, status: 400,
		want: `{"error":"invalid_request","message":"the method is not a token"}`})
}

const bodyPrefix = `{"url":"http://a.test/",`
