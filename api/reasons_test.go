package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// noAttempts is the JSON of the reasons of a proxy without attempts.
const noAttempts = `"reasons":[],"traffic":{"window":3600,"attempts":0,"statuses":{},"latency_p50":0,"latency_p95":0,` +
	`"bytes":0}`

// withReasons returns the JSON of a proxy as GET /proxies/{id} shows it if there were no attempts.
func withReasons(proxy string) string { return strings.TrimSuffix(proxy, "}") + "," + noAttempts + "}" }

// try counts an attempt through a proxy at shop.example.
func (r *rig) try(id string, cause core.Cause, status int) {
	r.metrics.reasons.CountAttempt(&core.AttemptEvent{ProxyID: id, Host: "shop.example", Started: r.now, Ended: r.now,
		Outcome: core.Outcome{Cause: cause, Status: status, Latency: 100 * time.Millisecond}}, &minutes.SeriesRef{})
}

func TestReasons(t *testing.T) {
	r := newRig(t, nil)
	r.try("F1", verdict.BannedHere, 403)
	r.now = noon.Add(2 * time.Minute)
	for range 2 {
		r.try("F1", verdict.Answered, 200)
	}
	r.try("F1", verdict.ProxyUnreachable, 0)
	r.metrics.reasons.CountBytes("F1", 4096)
	r.metrics.reasons.CountTargetBytes("shop.example", 2048, r.now)
	r.targets.list = []evidence.TargetView{{Name: "shop.example:443"}, {Name: "shop.example:80"}}
	const (
		reasons = `"reasons":[{"cause":"answered","count":2,"share":0.5,"last":"2026-11-28T12:02:00Z"},` +
			`{"cause":"banned_here","count":1,"share":0.25,"last":"2026-11-28T12:00:00Z"},` +
			`{"cause":"proxy_unreachable","count":1,"share":0.25,"last":"2026-11-28T12:02:00Z"}],` +
			`"traffic":{"window":3600,"attempts":4,"statuses":{"200":2,"2xx":2,"403":1,"4xx":1},` +
			`"latency_p50":0.092275,"latency_p95":0.092275,"bytes":`
		atHost = `{"host":"shop.example","banned":[],"avoided":[],` + reasons + `2048}}`
	)
	r.check(t,
		get("/targets/shop.example", 200, atHost),
		get("/targets/shop.example?window=60m", 200, atHost),
		get("/targets/other.example", 200, `{"host":"other.example","banned":[],"avoided":[],`+noAttempts+`}`),
	)
	for _, path := range []string{"/proxies/F1", "/circuit-breakers/F1", "/metrics/retries/by-proxy?window=1h"} {
		r.metrics.proxies = map[string]metrics.ProxyStats{"F1": {}}
		_, body := r.send(t, "GET", "/api/v1"+path, "")
		require.Contains(t, string(body), reasons+"4096}}", path)
	}
	_, body := r.send(t, "GET", "/api/v1/proxies/F1?window=1m", "")
	require.Contains(t, string(body), `"reasons":[{"cause":"answered","count":2,"share":0.666667,`)
	_, body = r.send(t, "GET", "/api/v1/targets?window=1h", "")
	require.Equal(t, 2, strings.Count(string(body), reasons))
	_, body = r.send(t, "GET", "/api/v1/targets", "")
	require.Equal(t, 2, strings.Count(string(body), reasons))
	for _, window := range []string{"", "1", "30s", "90s", "0m", "-1m", "169h", "1d", "%2B5m", "x"} {
		r.check(t, get("/proxies/F1?window="+window, 400))
	}
}

func TestHistory(t *testing.T) {
	r := newRig(t, nil)
	r.try("F1", verdict.BannedHere, 403)
	r.now = noon.Add(7 * time.Minute)
	r.try("F2", verdict.Answered, 200)
	r.metrics.points = []metrics.SeriesPoint{{Start: noon, Requests: 9, Delivered: 7, Refused: 2, Retries: 1,
		Banned: 3, Cost: 0.5}}
	const (
		first = `{"timestamp":"2026-11-28T12:00:00Z","attempts":1,"causes":{"banned_here":1},` +
			`"statuses":{"403":1,"4xx":1},"latency_p50":0.092275,"latency_p95":0.092275,"bytes":0`
		requests = `,"requests":9,"delivered":7,"target_refused":2,"retries":1,` +
			`"banned_responses":3,"cost":0.5`
		second = `{"timestamp":"2026-11-28T12:05:00Z","attempts":1,"causes":{"answered":1},` +
			`"statuses":{"200":1,"2xx":1},"latency_p50":0.092275,"latency_p95":0.092275,"bytes":0`
	)
	history := func(points string, step string) string {
		return `{"changes":[{"at":"2026-11-28T12:00:00Z","type":"start","text":"the gateway has started"}],` +
			`"points":[` + points + `],"retention_hours":48,"step":` + step + `,"window":3600}`
	}
	r.check(t,
		get("/metrics/history?window=1h&step=5m", 200, history(first+requests+`},`+second+`}`, "300")),
		get("/metrics/history?window=1h&step=5m&proxy_id=F1", 200, history(first+`}`, "300")),
		get("/metrics/history?window=1h&step=5m&proxy_id=F9", 200, history("", "300")),
		get("/metrics/history?window=1h&step=5m&host=shop.example", 200, history(first+`},`+second+`}`, "300")),
		get("/metrics/history?host=shop.example&proxy_id=F1", 409),
		get("/metrics/history?host=a:b", 400), get("/metrics/history?proxy_id=", 400),
		get("/metrics/history?window=168h&step=1m&proxy_id=F9", 200,
			`{"changes":[{"at":"2026-11-28T12:00:00Z","type":"start","text":"the gateway has started"}],"points":[],`+
				`"retention_hours":48,"step":360,"window":604800}`),
		get("/metrics/history?step=30s", 400), get("/metrics/history", 200),
	)
	require.Equal(t, 24, r.metrics.hours)
	require.Equal(t, 5*time.Minute, r.metrics.step, "a 288th of 24 hours")
}

// The sentence of GET /status.
func TestTheSummaryOfTheStatus(t *testing.T) {
	at := func(cause core.Cause, status int, host string) metrics.RecentAttempts {
		return metrics.RecentAttempts{Attempts: 4, BadAttempts: 2, LastBad: metrics.BadAttempt{
			Key: minutes.KeyOf(cause, status), Host: host, At: noon,
		}}
	}
	for name, x := range map[string]struct {
		proxies int
		fails   func(i int) metrics.RecentAttempts
		open    int // number of proxies with an open breaker
		window  metrics.WindowCounts
		want    string
	}{
		"all is well": {proxies: 3, window: metrics.WindowCounts{Requests: 200, Delivered: 199},
			want: "all 3 proxies work; 99 % delivered in the last 5 minutes"},
		"both work": {proxies: 2, want: "both proxies work; no requests in the last 5 minutes"},
		"the only one": {proxies: 1, fails: func(int) metrics.RecentAttempts {
			return at(verdict.ProxyUnreachable, 0, "shop.example")
		}, want: "the proxy fails with proxy unreachable; no requests in the last 5 minutes"},
		"the only one, without attempts": {proxies: 1, open: 1,
			want: "the proxy fails; no requests in the last 5 minutes"},
		"idle":       {proxies: 1, want: "the proxy works; no requests in the last 5 minutes"},
		"no proxies": {want: "the pool is empty; no requests in the last 5 minutes"},
		"a site refuses most of them": {proxies: 412,
			fails: func(i int) metrics.RecentAttempts {
				switch {
				case i < 31:
					return at(verdict.Answered, 403, "shop.example")
				case i < 37:
					return at(verdict.ProxyUnreachable, 0, "shop.example")
				}
				return metrics.RecentAttempts{Attempts: 20, BadAttempts: 9}
			},
			window: metrics.WindowCounts{Requests: 100, Delivered: 98, Refused: 2},
			want: "37 of 412 proxies fail, 31 of them with 403 at shop.example; " +
				"96 % delivered in the last 5 minutes"},
		"one": {proxies: 9, fails: func(i int) metrics.RecentAttempts {
			if i == 3 {
				return at(verdict.ProxyUnreachable, 0, "shop.example")
			}
			return metrics.RecentAttempts{}
		}, want: "1 of 9 proxies fails with proxy unreachable; no requests in the last 5 minutes"},
		"all with one reason": {proxies: 2, fails: func(int) metrics.RecentAttempts {
			return at(verdict.NoAnswerInTime, 0, "a.test")
		}, want: "2 of 2 proxies fail, both with no answer in time at a.test; " +
			"no requests in the last 5 minutes"},
		"different reasons": {proxies: 3, fails: func(i int) metrics.RecentAttempts {
			return at(verdict.Answered, 403, []string{"a.test", "b.test", "c.test"}[i])
		}, want: "3 of 3 proxies fail, for different reasons; no requests in the last 5 minutes"},
		"two reasons": {proxies: 2, fails: func(i int) metrics.RecentAttempts {
			return at([]core.Cause{verdict.BannedHere, verdict.RetryStatus}[i], 429+i*74, "a.test")
		}, want: "2 of 2 proxies fail, with banned here (429) at a.test and with 503 at a.test; " +
			"no requests in the last 5 minutes"},
		"breakers that are open since before": {proxies: 2, open: 1,
			want: "1 of 2 proxies fails; no requests in the last 5 minutes"},
	} {
		r := newRig(t, nil)
		r.setPool(t, x.proxies, func(i int, s *upstream.Spec) {
			if x.fails != nil {
				if r.metrics.recent == nil {
					r.metrics.recent = map[string]metrics.RecentAttempts{}
				}
				r.metrics.recent[s.ID] = x.fails(i)
			}
		})
		for i := range x.open {
			r.trip([]string{"p0", "p1"}[i])
		}
		r.metrics.window = x.window
		_, body := r.send(t, "GET", "/api/v1/status", "")
		require.Contains(t, string(body), `{"summary":"`+x.want+`",`, name)
		require.Less(t, len(body), 2000)
	}
}

// The status has the reasons of lost requests, even if no proxy fails.
func TestTheSummaryOfLostRequests(t *testing.T) {
	loss := func(proxy string, cause core.Cause, status int) metrics.Loss {
		return metrics.Loss{Key: minutes.KeyOf(cause, status), ProxyID: proxy, Host: "shop.example",
			Final: core.FinalSuccess}
	}
	r := newRig(t, nil)
	r.setPool(t, 2, func(int, *upstream.Spec) {})
	r.metrics.window = metrics.WindowCounts{Requests: 10, Delivered: 9, Refused: 2}
	status := func() (s statusView) {
		_, body := r.send(t, "GET", "/api/v1/status", "")
		require.NoError(t, json.Unmarshal(body, &s))
		return s
	}
	const summary = "both proxies work; 70 % delivered in the last 5 minutes"
	require.Equal(t, summary, status().Summary)
	r.tracker.losses = []metrics.Loss{loss("p0", verdict.Answered, 403), loss("p0", verdict.Answered, 403)}
	require.Equal(t, summary+", the rest lost with 403 at shop.example", status().Summary)
	r.tracker.losses = append(r.tracker.losses, loss("p0", verdict.ProxyUnreachable, 0),
		loss("p1", verdict.ProxyUnreachable, 0), loss("p1", verdict.ProxyUnreachable, 0),
		metrics.Loss{Host: "a.test", Final: core.FinalAllBusy})
	s := status()
	require.Equal(t, summary+", most of the rest lost with proxy unreachable", s.Summary)
	require.Equal(t, []lossView{
		{Requests: 3, Proxies: 2, Cause: "proxy_unreachable", Reason: "proxy unreachable"},
		{Requests: 2, Proxies: 1, Proxy: "p0", Cause: "answered", Status: 403, Host: "shop.example",
			Reason: "403 at shop.example"},
		{Requests: 1, Cause: "all_proxies_busy", Reason: "all proxies busy"},
	}, s.Losses)

	// If no request was delivered, the summary does not have the words "most of the rest".
	r.metrics.window.Refused = 9
	require.Equal(t, "both proxies work; 0 % delivered in the last 5 minutes, most lost with proxy unreachable",
		status().Summary)
	r.tracker.losses = r.tracker.losses[:2]
	require.Equal(t, "both proxies work; 0 % delivered in the last 5 minutes, lost with 403 at shop.example",
		status().Summary)
	r.metrics.window.Refused = 2

	// The summary states a reason only once.
	r.metrics.recent = map[string]metrics.RecentAttempts{"p0": {Attempts: 4, BadAttempts: 4,
		LastBad: metrics.BadAttempt{
			Key: minutes.KeyOf(verdict.Answered, 403), Host: "shop.example", At: noon}}}
	require.Equal(t, "1 of 2 proxies fails with 403 at shop.example; 70 % delivered in the last 5 minutes",
		status().Summary)
}

// Proxies that have not been reached do not count as failing, but the summary does not state that they work. A banned
// proxy may also count as a proxy that works.
func TestTheSummaryOfThePool(t *testing.T) {
	for want, counts := range map[string]poolCounts{
		"the proxy has not been reached":       {Total: 1, Unreached: 1},
		"1 of 3 proxies has not been reached":  {Total: 3, Unreached: 1},
		"2 of 3 proxies have not been reached": {Total: 3, Unreached: 2},
		"the proxy works, and is banned":       {Total: 1, Banned: 1},
		"both proxies work, 1 banned":          {Total: 2, Banned: 1},
	} {
		v := statusView{Proxies: counts}
		require.Equal(t, want, v.poolText())
	}
}

// The views of a proxy and of its breaker have the reason of the failures: from the requests or, without any, from the
// checks.
func TestTheFailureOfAProxy(t *testing.T) {
	r := newRig(t, nil)
	r.metrics.recent = map[string]metrics.RecentAttempts{"F1": {Attempts: 1, BadAttempts: 1,
		LastBad: metrics.BadAttempt{
			Key: minutes.KeyOf(verdict.BannedHere, 403), Host: "a.test", At: noon,
		}}}
	u := r.pool.Snapshot().Get("F2")
	u.CountUnreached(verdict.ProxyUnreachable, 5)
	for id, want := range map[string]string{
		"F1": `,"failure":{"cause":"banned_here","status":403,"host":"a.test",` +
			`"reason":"banned here (403) at a.test"},"reasons":`,
		"F2": `,"failure":{"cause":"proxy_unreachable","status":0,"host":"","reason":"proxy unreachable"},"reasons":`,
	} {
		for _, path := range []string{"/proxies/", "/circuit-breakers/"} {
			_, body := r.send(t, "GET", "/api/v1"+path+id, "")
			require.Contains(t, string(body), want)
		}
	}
	u.Reset()
	_, body := r.send(t, "GET", "/api/v1/proxies/F2", "")
	require.NotContains(t, string(body), "failure")
}

// Proxies that are avoided for a target are shown at the target's host and at the proxy.
func TestAvoided(t *testing.T) {
	r := newRig(t, nil)
	r.engine.avoided = []ban.Pair{
		{ProxyID: "F1", Host: "shop.example:443", Since: time.Minute, Until: 2 * time.Minute},
		{ProxyID: "F1", Host: "other.example:80"},
		{ProxyID: "F2", Host: "[::1]:80"},
	}
	for path, want := range map[string]string{
		"/targets/shop.example": "F1 shop.example:443",
		"/targets/::1":          "F2 [::1]:80",
		"/targets/none.example": "",
		"/proxies/F1":           "F1 shop.example:443, F1 other.example:80",
		"/proxies/F2":           "F2 [::1]:80",
	} {
		_, body := r.send(t, "GET", "/api/v1"+path, "")
		var v struct {
			Avoided []struct {
				ProxyID      string `json:"proxy_id"`
				Host         string
				Since, Until time.Time
			}
		}
		require.NoError(t, json.Unmarshal(body, &v))
		var got []string
		for _, a := range v.Avoided {
			got = append(got, a.ProxyID+" "+a.Host)
			if a.Host == "shop.example:443" {
				require.Equal(t, time.Minute, a.Until.Sub(a.Since))
			}
		}
		require.Equal(t, want, strings.Join(got, ", "), path)
		require.Contains(t, string(body), `"avoided":[`)
	}
}
