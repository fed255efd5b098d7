package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

func TestS01DefaultPolicy(t *testing.T) {
	w := start(t, 1, "")
	p := w.getJSON("/retry/policy")
	time.Sleep(50 * time.Millisecond)
	require.Equal(t, p, w.getJSON("/retry/policy"))
	_, err := time.Parse(time.RFC3339, p["updated_at"].(string))
	require.NoError(t, err)
	delete(p, "updated_at")
	require.Equal(t, map[string]any{
		"max_attempts": 3.0, "backoff_strategy": "exponential", "base_delay": 1.0, "multiplier": 2.0,
		"max_backoff_delay": 30.0,
		"jitter":            false, "retry_status_codes": []any{502.0, 503.0, 504.0}, "timeout": nil,
		"retry_non_idempotent": false,
		"failover_delay":       nil, "source": "file",
	}, p)
}

func TestS02PutMerges(t *testing.T) {
	w := start(t, 1, confK)
	before := w.getJSON("/retry/policy")
	w.putPolicy(`{"max_attempts":5}`)
	p := w.getJSON("/retry/policy")
	require.Equal(t, 5.0, p["max_attempts"])
	require.Equal(t, "fixed", p["backoff_strategy"])
	require.Equal(t, "runtime", p["source"])
	require.True(t, w.parseTime(p["updated_at"]).After(w.parseTime(before["updated_at"])))
	w.putPolicy(`{"timeout":5}`)
	require.Equal(t, 5.0, w.getJSON("/retry/policy")["timeout"])
	w.putPolicy(`{"timeout":null}`)
	p = w.getJSON("/retry/policy")
	require.Nil(t, p["timeout"])
	w.putPolicy(`{}`)
	require.Equal(t, p, w.getJSON("/retry/policy"))
}

func TestS03LimitsOfRangesAreAccepted(t *testing.T) {
	w := start(t, 1, confK)
	for _, body := range []string{
		`{"max_attempts":1,"base_delay":0.1,"multiplier":1.1,"max_backoff_delay":1,"timeout":0.1,` +
			`"retry_status_codes":[]}`,
		`{"max_attempts":10,"base_delay":60,"multiplier":10,"max_backoff_delay":300,"timeout":1e300,` +
			`"retry_status_codes":[599,408,403,429,500]}`,
		`{"max_attempts":3.0}`,
	} {
		w.putPolicy(body)
		var sent map[string]any
		require.NoError(t, json.Unmarshal([]byte(body), &sent))
		for field, v := range sent {
			require.Equal(t, v, w.getJSON("/retry/policy")[field], field)
		}
	}
	require.Equal(t, 200, w.get().status, "with a timeout that no duration holds")
}

func TestS04To06BadPoliciesChangeNothing(t *testing.T) {
	w := start(t, 1, confK)
	_, before, _ := w.call("GET", "/retry/policy", "")
	bad := func(body string, statuses ...int) string {
		t.Helper()
		status, got, _ := w.call("PUT", "/retry/policy", body)
		require.Contains(t, statuses, status, "%.80s: %s", body, got)
		require.Contains(t, string(got), `"error"`)
		return string(got)
	}
	for field, values := range map[string]string{
		"max_attempts": `0|11|-1|3.5|"3"|true|null`, "base_delay": `0.0999|0|60.01|"1"`, "multiplier": `1.0|1.09|10.01`,
		"max_backoff_delay": `0.99|300.1`, "backoff_strategy": `"EXPONENTIAL"|""|1|"round_robin"`, "jitter": `"true"|1`,
		"retry_status_codes": `[399]|[200]|[600]|["503"]|503|null`, "timeout": `0|0.05|-1|1e400`,
		"updated_at": `"2026-01-01T00:00:00Z"`, "nope": `1`,
		"MAX_ATTEMPTS": `5`,
	} {
		for _, v := range strings.Split(values, "|") {
			require.Contains(t, bad(fmt.Sprintf(`{"%s":%s}`, field, v), 400), `"details":{"field":"`+field)
			bad(fmt.Sprintf(`{"jitter":true,"%s":%s}`, field, v), 400)
		}
	}
	for _, body := range []string{"{", "[]", "null", "{}{}", `{"max_attempts":5,"max_attempts":9}`,
		"{\"backoff_strategy\":\"\xff\"}", strings.Repeat("[", 10_000), `{"max_attempts":NaN}`} {
		bad(body, 400)
	}
	require.Contains(t, bad(`{"base_delay":60.01}`, 400), `"details":{"field":"base_delay","limit":"0.1 to 60"}`)
	bad(strings.Repeat(" ", 5<<20), 400, 413)
	status, _, _ := w.call("PUT", "/retry/policy", `{}`, "Content-Type", "text/plain")
	require.Equal(t, 415, status)
	_, after, _ := w.call("GET", "/retry/policy", "")
	require.Equal(t, string(before), string(after))
}

func TestS07S08Breakers(t *testing.T) {
	w := start(t, 3, confKB)
	list := w.getJSON("/circuit-breakers")["circuit_breakers"].([]any)
	require.Len(t, list, 3)
	for i, v := range list {
		b := v.(map[string]any)
		require.Equal(t, fmt.Sprintf("F%d", i+1), b["proxy_id"])
		require.Equal(t, "closed", b["state"])
		require.Equal(t, 0.0, b["failure_count"])
		require.Equal(t, 5.0, b["failure_threshold"])
		require.Nil(t, b["next_test_time"])
	}
	status, body, _ := w.call("POST", "/proxies", `{"url":"http://u:hunter2secret@127.0.0.1:9"}`)
	require.Equal(t, 201, status, "%s", body)
	for path, want := range map[string]int{
		"127.0.0.1:9": 200, "127.0.0.1%3A9": 200, "unknown": 404, "..%2Fretry%2Fpolicy": 404,
		strings.Repeat("x", 300): 404, "%00": 404,
	} {
		status, body, _ := w.call("GET", "/circuit-breakers/"+path, "")
		require.Equal(t, want, status, "%s: %s", path, body)
		require.True(t, strings.HasPrefix(string(body), "{"))
	}
}

func TestS10Hours(t *testing.T) {
	w := start(t, 1, confK)
	for _, path := range []string{"/circuit-breakers/metrics", "/metrics/retries/timeseries",
		"/metrics/retries/by-proxy"} {
		for query, want := range map[string]int{
			"": 200, "?hours=1": 200, "?hours=24": 200, "?hours=168": 200, "?hours=0": 400, "?hours=-1": 400,
			"?hours=169": 400,
			"?hours=1.5": 400, "?hours=abc": 400, "?hours=": 400, "?hours=99999999999999999999": 400,
			"?hours=1&hours=2": 400,
		} {
			status, body, _ := w.call("GET", path+query, "")
			require.Equal(t, want, status, "%s%s: %s", path, query, body)
		}
	}
}

func TestS11Reset(t *testing.T) {
	w := start(t, 1, confOpen)
	w.setAll(lab.Status(503))
	for range 5 {
		w.get()
	}
	require.Equal(t, "open", w.breaker("F1")["state"])
	w.setAll(lab.OK())
	status, body, _ := w.call("POST", "/circuit-breakers/F1/reset", "")
	require.Equal(t, 200, status)
	require.Contains(t, string(body), `"state":"closed","failure_count":0`)
	require.Equal(t, 200, w.get().status)
	events := len(w.getJSON("/circuit-breakers/metrics")["events"].([]any))
	w.call("POST", "/circuit-breakers/F1/reset", "")
	require.Len(t, w.getJSON("/circuit-breakers/metrics")["events"], events, "no event of a closed one's reset")
	status, _, _ = w.call("POST", "/circuit-breakers/nope/reset", "")
	require.Equal(t, 404, status)
	status, _, h := w.call("GET", "/circuit-breakers/F1/reset", "")
	require.Equal(t, 405, status)
	require.Equal(t, "POST", h.Get("Allow"))

	// A probe that is in flight during a reset of the breaker has no effect.
	w.writeConfig(strings.Replace(confKB, `"2s"`, `"10m"`, 1))
	eventually(t, "short open times", func() bool { return w.breaker("F1")["timeout_duration"] == 1.0 })
	w.setAll(lab.Status(503))
	for range 5 {
		w.get()
	}
	hold := make(chan struct{})
	w.setAll(lab.Behaviour{Status: 503, WaitFor: hold})
	eventually(t, "half open", func() bool { return w.breaker("F1")["state"] == "half_open" })
	done := make(chan response)
	arrived := w.fakes[0].Count()
	go func() { done <- w.get() }()
	eventually(t, "the probe arrives", func() bool { return w.fakes[0].Count() > arrived })
	w.call("POST", "/circuit-breakers/F1/reset", "")
	close(hold)
	<-done
	require.Equal(t, "closed", w.breaker("F1")["state"])
}

func TestS12Keys(t *testing.T) {
	w := start(t, 1, confK+"[[api.keys]]\nname=\"a\"\nkey=\"adminkey1234\"\nrole=\"admin\"\n[[api.keys]]\n"+
		"name=\"r\"\nkey=\"readkey12345\"\nrole=\"read\"\n")
	for _, path := range []string{"/retry/policy", "/circuit-breakers", "/circuit-breakers/F1",
		"/circuit-breakers/metrics", "/metrics/retries", "/metrics/retries/timeseries", "/metrics/retries/by-proxy"} {
		for key, want := range map[string]int{"": 401, "Bearer wrongkey1234": 401, "Bearer x": 401,
			"Basic adminkey1234": 401, "Bearer adminkey1234": 200, "Bearer readkey12345": 200} {
			status, _, _ := w.call("GET", path, "", "Authorization", key)
			require.Equal(t, want, status, "%s with %q", path, key)
		}
	}
	status, _, _ := w.call("PUT", "/retry/policy", "{}", "Authorization", "Bearer readkey12345")
	require.Equal(t, 403, status)
	status, _, _ = w.call("PUT", "/retry/policy", "{}", "Authorization", "Bearer adminkey1234")
	require.Equal(t, 200, status)
	status, _, _ = w.call("OPTIONS", "/retry/policy", "", "Origin", "https://page.example",
		"Access-Control-Request-Method", "PUT")
	require.Equal(t, 401, status, "a page of another origin may not even ask")
	status, _, _ = w.call("PUT", "/proxies/nope", "{}", "Authorization", "Bearer adminkey1234", "Origin",
		"https://whirlpool.example")
	require.Equal(t, 405, status, "behind a reverse proxy that gives another Host the dashboard's requests are taken")
	_, _, _ = w.call("POST", "/request", `{"url":"http://origin.test/"}`, "Authorization", "Bearer adminkey1234")
	eventually(t, "what changed is logged, and by whom", func() bool {
		return strings.Contains(w.log.String(),
			`msg="changed through the API" method=PUT path=/api/v1/retry/policy key=a`)
	})
	require.Equal(t, 1, strings.Count(w.log.String(), "changed through the API"),
		"no refusal, no look and no request is: %s", w.log)
	// A client that may not upload gets an error before it sends a large body. In this test the body never comes.
	for key, want := range map[string]int{"": 401, "Authorization: Bearer wrongkey1234\r\n": 401,
		"Authorization: Bearer readkey12345\r\n": 403} {
		r, body := sendRaw(t, w.api, "POST /api/v1/plugins?name=x HTTP/1.1\r\nHost: x\r\n"+
			"Content-Type: application/wasm\r\n"+key+"Content-Length: 20000000\r\n\r\n")
		require.Equal(t, want, r.StatusCode, "%q: %s", key, body)
	}
	large := strings.Repeat(" ", 2<<20)
	status, body, _ := w.call("POST", "/plugins?name=x", large, "Authorization", "Bearer adminkey1234", "Content-Type",
		"application/wasm")
	require.Equal(t, 422, status, string(body))
	status, body, _ = w.call("PUT", "/retry/policy", large, "Authorization", "Bearer adminkey1234")
	require.Equal(t, 413, status)
	require.Contains(t, string(body), "larger than 1048576 bytes")
	// A client that uses the API as if it were the gateway gets an explanation, and not the dashboard.
	for _, ask := range []string{"GET http://origin.test/", "CONNECT origin.test:443"} {
		r, body := sendRaw(t, w.api, ask+" HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		require.Equal(t, 421, r.StatusCode, "%s: %s", ask, body)
	}
	status, body, _ = w.call("GET", "", "")
	require.Equal(t, 200, status, "what serve prints leads somewhere")
	require.Contains(t, string(body), `"openapi":"3.0.3"`)
	r, err := http.Get("http://" + w.gateway + "/api/v1/retry/policy")
	require.NoError(t, err)
	r.Body.Close()
	require.Equal(t, 400, r.StatusCode)
	require.NotContains(t, w.log.String(), "adminkey1234")
}

func TestS13Methods(t *testing.T) {
	w := start(t, 1, confK)
	for _, q := range [][2]string{{"PATCH", "/retry/policy"}, {"DELETE", "/retry/policy"},
		{"POST", "/metrics/retries"}} {
		status, body, h := w.call(q[0], q[1], "")
		require.Equal(t, 405, status, "%v", q)
		require.NotEmpty(t, h.Get("Allow"))
		require.Contains(t, string(body), `"error"`)
	}
	status, body, _ := w.call("GET", "/nowhere", "")
	require.Equal(t, 404, status)
	require.Contains(t, string(body), `"error"`)
	status, body, _ = w.call("HEAD", "/retry/policy", "")
	require.Equal(t, 200, status)
	require.Empty(t, body)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			status, _, _ := w.call("GET", "/metrics/retries", "")
			if status != 200 {
				t.Error(status)
			}
		})
	}
	wg.Wait()
}

func TestOneOffRequest(t *testing.T) {
	w := start(t, 3, confK)
	w.fakes[0].SetBehaviour(lab.Status(503))
	status, body, _ := w.call("POST", "/request",
		`{"url":"http://origin.test/x","headers":{"X-A":"b"},"retry":{"max_attempts":2}}`)
	require.Equal(t, 200, status, "%s", body)
	require.Contains(t, string(body), `"status":200`)
	require.Contains(t, string(body), `"attempts":[{"attempt":0,"proxy_id":"F1","outcome":"failure","status_code":503`)
	status, body, _ = w.call("POST", "/request", `{"url":"http://origin.test/x","retry":{"max_attempts":11}}`)
	require.Equal(t, 400, status)
	require.Contains(t, string(body), `"details":{"field":"retry.max_attempts","limit":"1 to 10"}`)
	status, _, _ = w.call("POST", "/request", `{"url":"nonsense"}`)
	require.Equal(t, 400, status)
	w.reconcile(0)
}

// The rules own_error of a proxy can be set, read, replaced and removed through the API. An invalid rule is
// refused, and the error names the invalid part.
func TestOwnErrorsThroughTheAPI(t *testing.T) {
	w := start(t, 1, confK)
	rules := func() any { return w.getJSON("/proxies/x")["own_error"] }
	status, body, _ := w.call("POST", "/proxies",
		`{"id":"x","url":"http://127.0.0.1:9","own_error":[{"status":500,"header":"X-Error: quota"},{"body":"Out of `+
			`traffic"}]}`)
	require.Equal(t, 201, status, "%s", body)
	require.Equal(t, []any{map[string]any{"status": 500.0, "header": "X-Error: quota"},
		map[string]any{"body": "Out of traffic"}}, rules())
	status, body, _ = w.call("PATCH", "/proxies/x", `{"weight":2}`)
	require.Equal(t, 200, status, "%s", body)
	require.Len(t, rules(), 2)
	status, body, _ = w.call("PATCH", "/proxies/x", `{"own_error":[]}`)
	require.Equal(t, 200, status, "%s", body)
	require.Equal(t, []any{}, rules())
	require.Equal(t, []any{}, w.getJSON("/proxies/F1")["own_error"])
	for bad, field := range map[string]string{
		`[{}]`: "own_error[0]", `[{"status":500},{"status":200}]`: "own_error[1].status",
		`[{"header":": x"}]`: "own_error[0].header",
		`[{"header":"a b"}]`: "own_error[0].header", `[{"body":"` + strings.Repeat("x",
			1025) + `"}]`: "own_error[0].body", `[{"status":"500"}]`: "own_error",
	} {
		status, body, _ = w.call("PATCH", "/proxies/x", `{"own_error":`+bad+`}`)
		require.Equal(t, 400, status, "%s", body)
		require.Contains(t, string(body), field)
	}
	require.Equal(t, []any{}, rules())
}

func TestProxiesComeAndGo(t *testing.T) {
	w := start(t, 1, confK)
	extra, err := lab.Start("X", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(extra.Close)
	status, body, _ := w.call("POST", "/proxies", `{"id":"x","url":"http://u:hunter2secret@`+extra.Addr+`"}`)
	require.Equal(t, 201, status, "%s", body)
	w.get()
	w.get()
	require.Equal(t, 1, extra.Count())
	require.Equal(t, "Basic dTpodW50ZXIyc2VjcmV0", extra.Arrivals()[0].Header.Get("Proxy-Authorization"))
	status, _, _ = w.call("POST", "/proxies", `{"id":"x","url":"http://127.0.0.1:1"}`)
	require.Equal(t, 409, status)
	status, body, _ = w.call("PATCH", "/proxies/x", `{"weight":2,"region":"EU"}`)
	require.Equal(t, 200, status, "%s", body)
	shown := w.getJSON("/proxies/x")["url"].(string)
	status, body, _ = w.call("PATCH", "/proxies/x", `{"url":"`+shown+`"}`)
	require.Equal(t, 400, status, "what is shown has no credentials: %s", body)
	for bad, field := range map[string]string{`{"id":"y"}`: "url", `{"url":"ftp://h"}`: "url",
		`{"url":"http://h:1","cost":-1}`: "cost", `{"url":"http://h:1","id":"metrics"}`: "id"} {
		status, body, _ = w.call("POST", "/proxies", bad)
		require.Equal(t, 400, status, "%s", body)
		require.Contains(t, string(body), `"details":{"field":"`+field+`"}`)
		status, body, _ = w.call("POST", "/proxies", `{"proxies":[{"url":"http://127.0.0.1:1"},`+bad+`]}`)
		require.Equal(t, 400, status, "%s", body)
		require.Contains(t, string(body), `"message":"proxies[1]: `)
		require.Contains(t, string(body), `"details":{"field":"proxies[1].`+field+`"}`)
	}
	status, _, _ = w.call("DELETE", "/proxies/x?drain=true", "")
	require.Equal(t, 204, status)
	eventually(t, "gone", func() bool { s, _, _ := w.call("GET", "/proxies/x", ""); return s == 404 })
	for range 4 {
		require.Equal(t, 200, w.get().status)
	}
	require.Equal(t, 1, extra.Count())
}

// SIGTERM while a POST /request is in flight: the request may finish within the grace period. After that it
// gets a 503.
func TestS66OneOffRequestsDrain(t *testing.T) {
	t.Parallel()
	for grace, want := range map[string]int{"5m": 200, "2s": 503} {
		w := start(t, 1, confK+"[gateway]\ndrain_grace = \""+grace+"\"\n[timeouts]\nattempt = \"10m\"\n")
		hold := make(chan struct{})
		w.setAll(lab.Behaviour{WaitFor: hold})
		w.getJSON("/proxies") // leaves an idle connection open
		got := make(chan int, 1)
		go func() {
			status, body, _ := w.call("POST", "/request", `{"url":"http://origin.test/"}`)
			if status == 503 && !strings.Contains(string(body), "shutting_down") {
				t.Errorf("%s", body)
			}
			got <- status
		}()
		eventually(t, "it runs", func() bool { return w.arrivals() == 1 })
		w.signal(syscall.SIGTERM)
		eventually(t, "it drains", func() bool { return strings.Contains(w.log.String(), "draining") })
		begin := time.Now()
		if want == 200 {
			close(hold)
		}
		require.Equal(t, want, <-got)
		require.NoError(t, w.cmd.Wait(), "exit 0")
		require.Less(t, time.Since(begin), eventTimeout, "neither the grace period of 5 min nor the attempt of 10 min")
		if want == 503 {
			close(hold)
		}
	}
}
