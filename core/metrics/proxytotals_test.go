package metrics

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// pooled is a recorder with a pool whose proxies come and go.
type pooled struct {
	*Recorder
	now  time.Time
	pool []ProxyState
}

func newPooled(max int, ids ...string) *pooled {
	p := &pooled{now: noon}
	p.Recorder = New(Config{Now: func() time.Time { return p.now }})
	p.SetMaxProxies(max)
	p.SetSources(func() []ProxyState { return p.pool }, nil, nil)
	for _, id := range ids {
		p.pool = append(p.pool, ProxyState{ID: id})
	}
	return p
}

func (p *pooled) attempts(id string, n int, c core.Cause) {
	for range n {
		p.Attempt(&core.AttemptEvent{ProxyID: id, Started: p.now.Add(-30 * time.Millisecond), Ended: p.now,
			Outcome: core.Outcome{Cause: c, Result: core.ResultSuccess}})
	}
}

func TestTheSeriesOfAProxy(t *testing.T) {
	p := newPooled(100, "a", "b")
	p.attempts("a", 3, verdict.Answered)
	p.attempts("a", 1, verdict.ProxyUnreachable)
	p.pool[0].Up, p.pool[0].Down = 10, 200
	page := scrape(p.Recorder)
	require.EqualValues(t, 3, page.sum(t, "whirlpool_proxy_attempts_total", `cause="answered",proxy_id="a"`))
	require.EqualValues(t, 1, page.sum(t, "whirlpool_proxy_attempts_total", `cause="proxy_unreachable",proxy_id="a"`))
	require.EqualValues(t, 4, page.sum(t, "whirlpool_proxy_attempt_duration_seconds_count", `"a"`))
	require.InDelta(t, 0.12, page.sum(t, "whirlpool_proxy_attempt_duration_seconds_sum", `"a"`), 1e-9)
	require.EqualValues(t, 0, page.sum(t, "whirlpool_proxy_attempt_duration_seconds_bucket", `"a",le="0.025"`))
	require.EqualValues(t, 4, page.sum(t, "whirlpool_proxy_attempt_duration_seconds_bucket", `"a",le="0.05"`))
	require.EqualValues(t, 0, page.sum(t, "whirlpool_proxy_attempt_duration_seconds_count", `"b"`))
	require.EqualValues(t, 10, page.sum(t, "whirlpool_proxy_bytes_total", `direction="up",proxy_id="a"`))
	require.EqualValues(t, 200, page.sum(t, "whirlpool_proxy_bytes_total", `direction="down",proxy_id="a"`))
	require.NotContains(t, string(page), `"other"`)

	p.pool[0].Up, p.pool[0].Down = 5, 5 // another proxy has the id
	page = scrape(p.Recorder)
	require.EqualValues(t, 15, page.sum(t, "whirlpool_proxy_bytes_total", `direction="up",proxy_id="a"`))
}

// The busiest proxies have series. Another proxy replaces one of these proxies only if it is twice as busy.
func TestTheBusiestHaveSeries(t *testing.T) {
	p := newPooled(2, "a", "b", "c", "d")
	named := func() string {
		names := ""
		for _, id := range []string{"a", "b", "c", "d"} {
			if scrape(p.Recorder).sum(t, "whirlpool_proxy_attempt_duration_seconds_count", `"`+id+`"`) > 0 {
				names += id
			}
		}
		return names
	}
	for id, n := range map[string]int{"a": 10, "b": 1, "c": 5, "d": 7} {
		p.attempts(id, n, verdict.Answered)
	}
	require.Equal(t, "ad", named())
	p.attempts("c", 9, verdict.Answered) // 14
	require.Equal(t, "ad", named())
	p.attempts("c", 2, verdict.Answered) // 16 > 2 * 7
	named()
	p.attempts("c", 1, verdict.Answered)
	require.Equal(t, "ac", named())
	p.SetMaxProxies(1)
	p.attempts("c", 1, verdict.Answered)
	require.Equal(t, "c", named())
	p.SetMaxProxies(0)
	require.Empty(t, named())
	require.EqualValues(t, 1+16, scrape(p.Recorder).sum(t, "whirlpool_proxy_attempts_total", `"other"`),
		"b, and c until it got its series")
}

// In any case, the sum of the other proxies never decreases, at most max proxies are named, and all series together
// (current and ended) contain each attempt once.
func TestTheSumOfTheOthersIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPooled(2, "p0", "p1", "p2")
		total, other, last := 0.0, 0.0, map[string]float64{}
		ended := 0.0
		t.Repeat(map[string]func(*rapid.T){
			"attempts": func(t *rapid.T) {
				n := rapid.IntRange(1, 9).Draw(t, "n")
				id := fmt.Sprint("p", rapid.IntRange(0, 5).Draw(t, "id"))
				p.attempts(id, n, rapid.SampledFrom([]core.Cause{verdict.Answered, verdict.ProxyUnreachable}).Draw(t,
					"cause"))
				total += float64(n)
			},
			"change the pool": func(t *rapid.T) {
				p.pool = nil
				for i := range 6 {
					if rapid.Bool().Draw(t, "in the pool") {
						p.pool = append(p.pool, ProxyState{ID: fmt.Sprint("p", i)})
					}
				}
			},
			"time passes": func(t *rapid.T) {
				p.now = p.now.Add(time.Duration(rapid.IntRange(0, 26).Draw(t, "hours")) * time.Hour)
				p.Prune(func(id string) bool {
					for _, s := range p.pool {
						if s.ID == id {
							return true
						}
					}
					return false
				})
			},
			"another maximum": func(t *rapid.T) { p.SetMaxProxies(rapid.IntRange(0, 3).Draw(t, "max")) },
			"": func(t *rapid.T) {
				page := scrape(p.Recorder)
				now := map[string]float64{}
				sum := 0.0
				for id := range p.namedProxies.baselines {
					now[id] = page.sum(t, "whirlpool_proxy_attempts_total", `"`+id+`"`)
					sum += now[id]
				}
				require.LessOrEqual(t, len(now), min(p.namedProxies.max, len(p.pool)))
				for id, value := range last {
					if _, has := now[id]; !has || now[id] < value {
						ended += value // the last value that a scrape has seen
					}
				}
				last = now
				if len(p.pool) > len(now) {
					value := page.sum(t, "whirlpool_proxy_attempts_total", `"other"`)
					require.GreaterOrEqual(t, value, other)
					other = value
					require.LessOrEqual(t, value+sum+ended, total)
				}
				require.LessOrEqual(t, sum, total)
			},
		})
	})
}

// A client that accepts OpenMetrics gets an exemplar for each bucket: the id of a recent request.
func TestExemplars(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	end := func(id core.RequestID, took time.Duration, at time.Time) {
		r.Request(&core.RequestEvent{Request: id, Started: at.Add(-took), Ended: at, Final: core.FinalSuccess})
	}
	end(0xa, 3*time.Millisecond, noon)
	end(0xb, 4*time.Millisecond, noon.Add(exemplarEvery/2)) // the exemplar is recent
	end(0xc, 40*time.Second, noon)
	get := func(accept string) (contentType, body string) {
		w, q := httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)
		q.Header.Set("Accept", accept)
		r.Handler().ServeHTTP(w, q)
		return w.Header().Get("Content-Type"), w.Body.String()
	}
	kind, body := get("application/openmetrics-text; version=1.0.0")
	require.Contains(t, kind, "application/openmetrics-text")
	require.Regexp(t,
		`whirlpool_request_duration_seconds_bucket{le="0\.005"} 2 # {request_id="000000000000000a"} 0\.003 `,
		body)
	require.Regexp(t, `whirlpool_request_duration_seconds_bucket{le="\+Inf"} 3 # {request_id="000000000000000c"} 40`,
		body)
	require.Contains(t, body, "# EOF\n")
	kind, body = get("text/plain")
	require.Contains(t, kind, "text/plain")
	require.NotContains(t, body, "request_id")

	end(0xd, 4*time.Millisecond, noon.Add(exemplarEvery))
	_, body = get("application/openmetrics-text")
	require.Contains(t, body, `000000000000000d`)
	r.totals.requestExemplars[2].version.Add(1) // being written
	_, body = get("application/openmetrics-text")
	require.NotContains(t, body, `000000000000000d`)
	end(0xe, 4*time.Millisecond, noon.Add(time.Hour)) // another writer leaves it
	require.EqualValues(t, 0xd, r.totals.requestExemplars[2].id.Load())
}

// Recording allocates nothing, except for the first attempt of a proxy with a cause.
func TestAllocOfProxyTotals(t *testing.T) {
	p := newPooled(1, "a")
	p.attempts("a", 1, verdict.Answered)
	e := &core.AttemptEvent{ProxyID: "a", Started: noon, Ended: noon, Outcome: core.Outcome{Cause: verdict.Answered,
		Result: core.ResultSuccess}}
	q := &core.RequestEvent{Request: 1, Started: noon, Ended: noon, Final: core.FinalSuccess}
	p.Request(q)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p.Attempt(e)
		q.Ended = q.Ended.Add(2 * exemplarEvery)
		p.Request(q)
	}))
}
