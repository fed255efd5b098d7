package metrics

import (
	"cmp"
	"fmt"
	"math"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

var sample = regexp.MustCompile(`^([a-z_]+)(\{[^}]*\})? (\S+)\n$`)

// page is the content of /metrics.
type page string

func scrape(r *Recorder) page {
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return page(w.Body.String())
}

// sum returns the sum over a metric's series whose labels include want.
func (p page) sum(t require.TestingT, name, want string) float64 {
	sum := 0.0
	for line := range strings.Lines(string(p)) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m != nil && m[1] == name && strings.Contains(m[2], want) {
			v, err := strconv.ParseFloat(m[3], 64)
			require.NoError(t, err)
			sum += v
		}
	}
	return sum
}

// TestCountsMatchTheRecordedEvents records random events, and compares every query and the scrape with sums that it
// computes itself.
func TestCountsMatchTheRecordedEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := noon
		r := New(Config{Now: func() time.Time { return now }, RetentionHours: 24})
		var requests, attempts, retries, replays, delivered, recovered, limited, opens, quick, hedges, won uint64
		var waited, latency, all time.Duration
		byAttempt := map[string]uint64{}
		type sums struct{ ok, failed, cancelled uint64 }
		byProxy := map[string]*sums{}
		for range rapid.IntRange(0, 30).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "s")) * time.Second)
			tries := rapid.IntRange(0, 4).Draw(t, "tries")
			last := core.ResultFailure
			for i := range tries {
				id := fmt.Sprintf("p%d", rapid.IntRange(0, 2).Draw(t, "proxy"))
				if byProxy[id] == nil {
					byProxy[id] = &sums{}
				}
				if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
					r.Attempt(&core.AttemptEvent{ProxyID: id, Attempt: i, Started: now, Ended: now,
						Outcome: core.Outcome{Result: core.ResultReplay}})
					replays++
					attempts++
					byProxy[id].cancelled++
				}
				last = rapid.SampledFrom([]core.Result{core.ResultSuccess, core.ResultFailure, core.ResultTimeout,
					core.ResultCancelled}).Draw(t, "result")
				took := time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond
				e := core.AttemptEvent{ProxyID: id, Attempt: i, Started: now.Add(-took), Ended: now,
					Outcome: core.Outcome{Result: last}}
				latency += took
				if last != core.ResultSuccess {
					e.Outcome.Reason = rapid.SampledFrom([]string{"", "http_503", "connection_refused"}).Draw(t,
						"reason")
				}
				if i > 0 {
					e.RetryReason, e.Delay = "http_503",
						time.Duration(rapid.IntRange(0, 30).Draw(t, "delay"))*time.Second
					waited += e.Delay
					retries++
				}
				if e.Hedge = i == 1 && rapid.Bool().Draw(t, "hedge"); e.Hedge {
					hedges++
					if last == core.ResultSuccess {
						won++
					}
				}
				r.Attempt(&e)
				attempts++
				switch last {
				case core.ResultSuccess:
					byProxy[id].ok++
				case core.ResultCancelled:
					byProxy[id].cancelled++
				default:
					byProxy[id].failed++
				}
			}
			now = now.Add(time.Second)
			took := rapid.SampledFrom([]time.Duration{time.Millisecond, 10 * time.Millisecond, 11 * time.Millisecond,
				time.Minute}).Draw(t, "took")
			all += took
			if took <= 10*time.Millisecond {
				quick++
			}
			q := core.RequestEvent{Attempts: tries, Started: now.Add(-took), Ended: now, Final: core.FinalExhausted,
				PolicyHash: "h",
				Listener: rapid.SampledFrom([]core.Listener{core.ListenHTTP, core.ListenConnect,
					core.ListenAPI}).Draw(t, "listener")}
			if tries > 0 && last == core.ResultSuccess {
				q.Final, q.Delivered = core.FinalSuccess, true
				delivered++
				served := tries
				if q.LostHedge = tries > 1 && rapid.Bool().Draw(t, "lost"); q.LostHedge {
					served--
				}
				if served > 1 {
					recovered++
				}
				byAttempt[strconv.Itoa(served-1)]++
			} else if q.LimitReached = rapid.Bool().Draw(t, "limit"); q.LimitReached {
				limited++
			}
			r.Request(&q)
			requests++
			if rapid.IntRange(0, 9).Draw(t, "trip") == 0 {
				r.Transition(core.Transition{ProxyID: "p0", From: core.Closed, To: core.Open, At: now})
				opens++
			}
		}
		s := r.Summary()
		check := func(name string, got, want uint64) {
			if got != want {
				t.Fatalf("%s: %d, want %d", name, got, want)
			}
		}
		check("requests", s.Requests, requests)
		check("attempts", s.Attempts, attempts)
		check("retries", s.Retries, retries)
		check("replays", s.Replays, replays)
		check("events", s.Transitions, opens)
		if fmt.Sprint(s.SuccessByAttempt) != fmt.Sprint(byAttempt) {
			t.Fatalf("success_by_attempt %v, want %v", s.SuccessByAttempt, byAttempt)
		}
		check("seconds waited", uint64(s.BackoffTime/time.Second), uint64(waited/time.Second))
		var inDays uint64
		for _, p := range r.Series(24, 24*time.Hour) {
			inDays += p.Requests
			if h, m, s := p.Start.Clock(); h+m+s != 0 {
				t.Fatalf("a day begins at %v", p.Start)
			}
		}
		check("requests in days", inDays, requests)
		check("attempts in minutes", r.Reasons().SumAll(24*time.Hour).Attempts, attempts)
		for id, p := range r.ByProxy(24) {
			check("attempts of a proxy in minutes", r.Reasons().SumProxy(id, 24*time.Hour).Attempts, p.Attempts())
		}
		if days := len(r.Series(24, 24*time.Hour)); days > 2 {
			t.Fatalf("24 hours lie in %d days", days)
		}
		var perProxy time.Duration
		for _, p := range r.ByProxy(24) {
			perProxy += p.Latency
		}
		if perProxy != latency {
			t.Fatalf("%v in attempts, want %v", perProxy, latency)
		}
		var inPoints, retriesInPoints uint64
		points := r.Series(24, time.Hour)
		for i, p := range points {
			inPoints += p.Requests
			retriesInPoints += p.Retries
			if !p.Start.Equal(p.Start.Truncate(time.Hour)) || i > 0 && !p.Start.After(points[i-1].Start) {
				t.Fatalf("points are not hours, ascending: %v", points)
			}
		}
		check("requests in points", inPoints, requests)
		check("retries in points", retriesInPoints, retries)
		for id, p := range r.ByProxy(24) {
			want := byProxy[id]
			if want == nil {
				want = &sums{}
			}
			check(id+" successes", p.Successes, want.ok)
			check(id+" failures", p.Failures, want.failed)
			check(id+" cancelled", p.Cancelled, want.cancelled)
			check(id+" attempts", p.Attempts(), want.ok+want.failed+want.cancelled)
			if id == "p0" {
				check("openings", p.BreakerOpens, opens)
			}
		}
		transitions, _ := r.Transitions(24)
		check("transitions listed", uint64(len(transitions)), opens)
		for range 2 { // a second scrape must not count the same events again
			now := scrape(r)
			check("scraped requests", uint64(now.sum(t, "whirlpool_requests_total", "")), requests)
			check("scraped attempts", uint64(now.sum(t, "whirlpool_attempts_total", "")), attempts)
			check("scraped retries", uint64(now.sum(t, "whirlpool_retries_total", "")), retries)
			check("hedges", uint64(now.sum(t, "whirlpool_hedges_total", "")), hedges)
			check("hedges won", uint64(now.sum(t, "whirlpool_hedges_won_total", "")), won)
			check("saved by a retry", uint64(now.sum(t, "whirlpool_retry_success_total", "")), recovered)
			check("attempts spent", uint64(now.sum(t, "whirlpool_retry_limit_exceeded_total", "")), limited)
			check("scraped seconds waited", uint64(now.sum(t, "whirlpool_retry_wait_seconds_total", "")),
				uint64(waited/time.Second))
			check("requests of at most 10 ms",
				uint64(now.sum(t, "whirlpool_request_duration_seconds_bucket", `le="0.01"`)), quick)
			check("timed requests", uint64(now.sum(t, "whirlpool_request_duration_seconds_count", "")), requests)
			if sum := now.sum(t, "whirlpool_request_duration_seconds_sum", ""); math.Abs(sum-all.Seconds()) > 1e-6 {
				t.Fatalf("requests took %v s, want %v", sum, all)
			}
			check("scraped successes", uint64(now.sum(t, "whirlpool_requests_total", `outcome="success"`)), delivered)
		}
	})
}

func TestMinutesBeyondTheRetention(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }, RetentionHours: 1})
	e := core.AttemptEvent{ProxyID: "p", Started: now, Ended: now, Outcome: core.Outcome{Result: core.ResultSuccess}}
	r.Attempt(&e)
	r.Request(&core.RequestEvent{Attempts: 1, Ended: now, Final: core.FinalSuccess, Delivered: true})
	now = noon.Add(60 * time.Minute)
	assert.EqualValues(t, 1, r.Summary().Requests, "a datum of exactly the retention's age is kept")
	now = noon.Add(61 * time.Minute)
	assert.Zero(t, r.Summary().Requests)
	assert.Empty(t, r.Series(24, time.Hour), "who asks for more gets what is retained")
	assert.Len(t, r.ByProxy(1), 1, "per proxy the old edge is up to an hour over-inclusive")
	r.Prune(func(string) bool { return false })
	assert.Len(t, r.ByProxy(1), 1)
	now = noon.Add(2*time.Hour + time.Minute)
	assert.Empty(t, r.ByProxy(1))
	r.Prune(func(string) bool { return false })
	_, ok := r.proxies.Load("p")
	assert.False(t, ok)
}

// A clock that was wrong by more than the retention, as on a machine without a real-time clock, is set back.
// Later events are all counted.
func TestAClockThatIsSetBack(t *testing.T) {
	now := noon.Add(48 * time.Hour)
	r := New(Config{Now: func() time.Time { return now }, RetentionHours: 1})
	one := func() {
		r.Attempt(&core.AttemptEvent{ProxyID: "p", Started: now, Ended: now,
			Outcome: core.Outcome{Result: core.ResultSuccess}})
		r.Request(&core.RequestEvent{Attempts: 1, Ended: now, Final: core.FinalSuccess, Delivered: true})
	}
	for range len(r.minutes) {
		one()
		now = now.Add(time.Minute)
	}
	now = noon
	for range 60 {
		one()
		now = now.Add(time.Minute)
	}
	assert.EqualValues(t, 60, r.Summary().Requests)
	assert.EqualValues(t, 60, r.ByProxy(1)["p"].Successes)
}

func TestPoliciesAreBounded(t *testing.T) {
	r := New(Config{})
	for i := range maxPolicies + 5 {
		r.Request(&core.RequestEvent{PolicyHash: fmt.Sprint(i), Policy: i, Started: noon, Ended: noon})
	}
	p := r.Summary().ByPolicy
	require.Len(t, p, maxPolicies+1)
	require.Equal(t, PolicyCounts{Requests: 5}, p[otherPolicies])
	require.Equal(t, PolicyCounts{Policy: 7, Requests: 1}, p["7"])
}

// The time until the response's head does not include the time of connecting.
func TestThePhasesOfAnAttempt(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }})
	r.Attempt(&core.AttemptEvent{ProxyID: "p", Started: now, Ended: now,
		Outcome: core.Outcome{Result: core.ResultSuccess, Status: 200,
			Latency: 4 * time.Second, Timing: core.Timing{Dial: time.Second, Handshake: 2 * time.Second}}})
	for phase, want := range map[string]float64{"dial": 1, "handshake": 2, "ttfb": 1} {
		require.Equal(t, want, scrape(r).sum(t, "whirlpool_attempt_duration_seconds_sum", phase), phase)
	}
}

// If a request waits at the end of an hour, its attempts are in one point, and its end is in the next point. The first
// point shows no failed request.
func TestAnHourWithAttemptsOnly(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }})
	r.Attempt(&core.AttemptEvent{ProxyID: "p", Started: now, Ended: now,
		Outcome: core.Outcome{Result: core.ResultFailure}})
	now = noon.Add(time.Hour)
	r.Attempt(&core.AttemptEvent{ProxyID: "p", Attempt: 1, Started: now, Ended: now,
		Outcome: core.Outcome{Result: core.ResultFailure}})
	r.Request(&core.RequestEvent{Attempts: 2, Ended: now, Final: core.FinalExhausted})
	points := r.Series(24, time.Hour)
	require.Len(t, points, 2)
	assert.Equal(t, SeriesPoint{Start: noon, Attempts: 1}, points[0])
	assert.Equal(t, SeriesPoint{Start: now, Requests: 1, Attempts: 1, Retries: 1}, points[1])
}

func TestTransitionsAreTruncated(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }})
	for i := range maxTransitions + 1 {
		r.Transition(core.Transition{ProxyID: "p", From: core.Closed, To: core.Open,
			At: noon.Add(time.Duration(i) * time.Millisecond)})
	}
	now = noon.Add(time.Hour)
	list, truncated := r.Transitions(24)
	assert.True(t, truncated)
	assert.Len(t, list, maxTransitions)
	assert.Equal(t, noon.Add(time.Millisecond), list[0].At)
	now = now.Add(time.Minute)
	_, truncated = r.Transitions(1)
	assert.False(t, truncated, "the one that was overwritten is older than an hour")
}

func TestConcurrentCounting(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 500 {
				e := core.AttemptEvent{ProxyID: fmt.Sprintf("p%d", k%3), Started: now, Ended: now,
					Outcome: core.Outcome{Result: core.ResultFailure, Reason: "http_503"}}
				r.Attempt(&e)
				r.Request(&core.RequestEvent{Attempts: 1, Started: now, Ended: now, Final: core.FinalExhausted,
					PolicyHash: fmt.Sprint(i % 2)})
				if k%100 == 0 {
					r.Summary()
					r.ByProxy(24)
					scrape(r).sum(t, "whirlpool_attempts_total", "")
				}
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 4000, r.Summary().Attempts)
	assert.EqualValues(t, 4000, scrape(r).sum(t, "whirlpool_attempts_total", `error="http_503"`))
}

func TestARecordAllocatesNothing(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }})
	tr := NewTracker()
	entry := tr.Track()
	a := core.AttemptEvent{ProxyID: "p", Started: now, Ended: now,
		Outcome: core.Outcome{Result: core.ResultSuccess, Status: 200}}
	q := core.RequestEvent{Attempts: 1, Started: now, Ended: now, Final: core.FinalSuccess, Delivered: true,
		PolicyHash: "h"}
	one := func() {
		entry.Begin(1, "GET", "a.test", now)
		entry.BeginAttempt(0, "p")
		entry.EndAttempt(&a)
		r.Attempt(&a)
		r.Request(&q)
		entry.End(core.FinalSuccess, 200, now)
	}
	for range 2 * maxEnded {
		one()
	}
	assert.Zero(t, testing.AllocsPerRun(1000, one))
}

func BenchmarkRecord(b *testing.B) {
	r := New(Config{})
	a := core.AttemptEvent{ProxyID: "p", Outcome: core.Outcome{Result: core.ResultSuccess, Status: 200}}
	q := core.RequestEvent{Attempts: 1, Final: core.FinalSuccess, Delivered: true, PolicyHash: "h"}
	now := time.Now()
	a.Started, a.Ended, q.Started, q.Ended = now, now, now, now
	b.ReportAllocs()
	for b.Loop() {
		r.Attempt(&a)
		r.Request(&q)
	}
}

func TestAMinuteWithTransitionsOnly(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	r.Transition(core.Transition{ProxyID: "p", To: core.Open, At: noon})
	require.Empty(t, r.Series(24, time.Hour))
	stats := r.ByProxy(24)["p"]
	require.Equal(t, ProxyStats{BreakerOpens: 1}, stats)
	require.Zero(t, stats.AvgLatency())
}

func TestTransitionsOfAWindow(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }, RetentionHours: 2})
	add := func(id string, ago time.Duration) {
		r.Transition(core.Transition{ProxyID: id, To: core.Open, At: now.Add(-ago)})
	}
	ids := func(hours int) (out []string) {
		list, truncated := r.Transitions(hours)
		require.False(t, truncated)
		for _, t := range list {
			out = append(out, t.ProxyID)
		}
		return out
	}
	add("oldest", 2*time.Hour+time.Second)
	add("old", 2*time.Hour)
	add("new", time.Second)
	add("late", time.Minute) // an open breaker becomes half-open at the time when it was due
	add("hour", time.Hour)
	require.Equal(t, []string{"hour", "late", "new"}, ids(1))
	require.Equal(t, []string{"old", "hour", "late", "new"}, ids(2))
	require.Equal(t, []string{"old", "hour", "late", "new"}, ids(24), "the retention is two hours")
}

// If several goroutines begin a minute at the same moment, its bucket is cleared once.
func TestAMinuteThatBeginsForMany(t *testing.T) {
	now := noon
	r := New(Config{Now: func() time.Time { return now }, RetentionHours: 24})
	const minutes, counters = 100, 8
	for range minutes {
		r.rotate.Lock()
		var wg sync.WaitGroup
		for range counters {
			wg.Go(func() { r.Request(&core.RequestEvent{Started: now, Ended: now, Final: core.FinalExhausted}) })
		}
		for range 100 { // most of them find the bucket of another minute, and wait for rotate
			runtime.Gosched()
		}
		r.rotate.Unlock()
		wg.Wait()
		now = now.Add(time.Minute)
	}
	require.EqualValues(t, minutes*counters, r.Summary().Requests)
}

func TestProxiesOfAScrapeAreBounded(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	r.SetSources(func() []ProxyState {
		list := make([]ProxyState, DefaultMaxProxies+5)
		for i := range list {
			list[i] = ProxyState{ID: strconv.Itoa(i), State: core.Open, InFlight: 1}
		}
		return list
	}, func() []PluginState { return []PluginState{{Name: "a", Quarantined: true}, {Name: "b"}} }, nil)
	page := scrape(r)
	require.EqualValues(t, DefaultMaxProxies+5, page.sum(t, "whirlpool_proxies", `state="open"`))
	require.EqualValues(t, DefaultMaxProxies+5, page.sum(t, "whirlpool_proxy_in_flight", ""))
	require.EqualValues(t, 5, page.sum(t, "whirlpool_proxy_in_flight", `"other"`))
	require.EqualValues(t, DefaultMaxProxies, page.sum(t, "whirlpool_circuit_breaker_state", ""))
	require.EqualValues(t, 1, page.sum(t, "whirlpool_plugin_quarantined", `"a"`))
	require.EqualValues(t, 0, page.sum(t, "whirlpool_plugin_quarantined", `"b"`))
}

// A proxy has a bucket only for each hour in which it was used, within the retention. Lists that change
// often therefore need little memory.
func TestAProxyHasBucketsOnlyForItsHours(t *testing.T) {
	p := &proxy{keepHours: 24}
	at := func(h int) time.Time { return noon.Add(time.Duration(h) * time.Hour) }
	use := func(h int) {
		p.countAttempt(&core.AttemptEvent{Ended: at(h), Outcome: core.Outcome{Result: core.ResultSuccess}}, time.Second)
	}
	held := func() (hours []int, n uint32) {
		for _, h := range p.hours {
			hours, n = append(hours, int(h.number-at(0).Unix()/3600)), n+h.success
		}
		return hours, n
	}
	use(0)
	use(0)
	require.Len(t, p.hours, 1)
	require.LessOrEqual(t, cap(p.hours), 1)
	use(5)
	use(3) // the clock was set back
	use(3)
	hours, n := held()
	require.Equal(t, []int{0, 3, 5}, hours)
	require.EqualValues(t, 5, n)
	use(27)
	hours, n = held()
	require.Equal(t, []int{3, 5, 27}, hours, "what is older than the retention goes")
	require.EqualValues(t, 4, n)
	for h := 28; h < 200; h++ {
		use(h)
	}
	require.Len(t, p.hours, 25)
	require.True(t, slices.IsSortedFunc(p.hours, func(a, b hour) int { return cmp.Compare(a.number, b.number) }))
}

// Each metric has a description and the form that Prometheus requires. (In the metrics of tally, the
// description is the name.)
func TestEachMetricHasAHelpText(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	r.Attempt(&core.AttemptEvent{Started: noon, Ended: noon, Attempt: 1, RetryReason: "http_503",
		Outcome: core.Outcome{Result: core.ResultFailure, Reason: "http_503"}})
	r.AddTunnelBytes(1, 2)
	r.AddIntercepted(true)
	r.AddIntercepted(false)
	r.AddRefused(core.ListenSOCKS5, "user_requests_spent")
	r.AddRefused(core.ListenSOCKS5, "user_requests_spent")
	r.RecordReload(true, noon)
	r.SetSources(func() []ProxyState { return []ProxyState{{ID: "\"p\"\\"}, {ID: "q", State: core.Open, InFlight: 3}} },
		func() []PluginState {
			return []PluginState{{Name: "a", Calls: 2, Faults: 1, FaultsBy: map[string]uint64{"trap": 1},
				OwnMetrics: map[string]float64{"level": -2.5}}}
		},
		func() int { return 1 })
	r.SetBanSource(func() (int, int) { return 7, 3 })
	r.SetQueueSource(func() []QueueState {
		return []QueueState{{Queue: "place", Priority: "low", Waiting: 3, Queued: 9, Expired: 4, Full: 5,
			WaitTime: 1500 * time.Millisecond}}
	})
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	help := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# HELP (whirlpool_\S+) (.*)$`).FindAllStringSubmatch(text, -1) {
		help[m[1]] = m[2]
	}
	for _, m := range slices.Concat(counters, gauges) {
		require.Equal(t, m.help, help["whirlpool_"+m.name], m.name)
		require.Contains(t, text, "\nwhirlpool_"+m.name, "it has a value")
	}
	require.Contains(t, text, `whirlpool_refused_total{listener="socks5",reason="user_requests_spent"} 2`)
	require.Equal(t, 3.0, scrape(r).sum(t, "whirlpool_plugin_duration_seconds_count", `plugin="a"`))
	require.Equal(t, 1.0, scrape(r).sum(t, "whirlpool_plugin_calls_total", `result="fault"`))
	require.Contains(t, text, `whirlpool_plugin_metric{name="level",plugin="a"} -2.5`)
	for name, value := range map[string]string{
		"queue_waiting": "3", "queued_total": "9", "queue_expired_total": "4", "queue_full_total": "5",
		"queue_wait_seconds_total": "1.5",
	} {
		require.Contains(t, text, "\nwhirlpool_"+name+`{priority="low",queue="place"} `+value+"\n")
	}
	require.Contains(t, text, "\nwhirlpool_resting_pairs 7\n")
	require.Contains(t, text, "\nwhirlpool_banned_proxies 3\n")
	problems, err := promlint.New(w.Body).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

// A response with status 403 or 429 counts as delivered, and also separately. The metrics therefore show a pool that
// all targets block..
func TestRefusalsOfTheTarget(t *testing.T) {
	r := New(Config{})
	now := time.Now()
	for status, n := range map[int]int{200: 3, 403: 5, 429: 2, 404: 1, 503: 4} {
		for range n {
			r.Request(&core.RequestEvent{
				Status: status, Final: core.FinalSuccess, Delivered: status != 503, Attempts: 1, Started: now,
				Ended: now,
			})
		}
	}
	s := r.Summary()
	require.EqualValues(t, 7, s.TargetRefused)
	require.EqualValues(t, 11, s.SuccessByAttempt["0"])
	require.EqualValues(t, 7, scrape(r).sum(t, "whirlpool_target_refused_total", ""))
}

// The slot of a proxy leads to the same counters as a look-up by id, even if the counters were deleted, or if the slot
// holds the counters of another recorder.
func TestCountersInASlot(t *testing.T) {
	now := noon
	slot, e := &core.Slot{}, core.AttemptEvent{ProxyID: "p"}
	attempts := func(r *Recorder) uint64 {
		e.Started, e.Ended = now, now
		r.CountAttempt(&e, slot)
		stats := r.ByProxy(1)["p"]
		return stats.Attempts()
	}
	r := New(Config{RetentionHours: 1, Now: func() time.Time { return now }})
	require.EqualValues(t, 1, attempts(r))
	r.Attempt(&e)
	require.EqualValues(t, 3, attempts(r))
	now = now.Add(3 * time.Hour)
	r.Prune(func(string) bool { return false })
	require.EqualValues(t, 1, attempts(r), "a proxy with the same id has come back")
	other := New(Config{RetentionHours: 1, Now: func() time.Time { return now }})
	require.EqualValues(t, 1, attempts(other))
	require.EqualValues(t, 2, attempts(r))
}
