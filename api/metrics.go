package api

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Metrics is the metrics recorder.
type Metrics interface {
	Summary() metrics.Summary
	Series(hours int, step time.Duration) []metrics.SeriesPoint
	ByProxy(hours int) map[string]metrics.ProxyStats
	Counts(proxyID string, hours int) []minutes.Count
	Transitions(hours int) (list []core.Transition, truncated bool)
	RetentionHours() int
	Handler() http.Handler
	Reasons() *minutes.Store
	RecentAttempts(proxyID string) metrics.RecentAttempts
	FailingProxies() map[string]metrics.RecentAttempts
	ForgetRecentAttempts(proxyID string)
	CountsWithin(d time.Duration) metrics.WindowCounts
}

var _ Metrics = (*metrics.Recorder)(nil)

// metricsHandler serves the endpoints under /metrics/retries, and the scrapes of Prometheus.
type metricsHandler struct {
	metrics Metrics
	events  *Events
}

func (h *metricsHandler) routes(r fiber.Router) {
	r.Get("/metrics/retries", h.summary)
	r.Get("/metrics/retries/timeseries", h.series)
	r.Get("/metrics/retries/by-proxy", h.byProxy)
	r.Get("/metrics/history", h.history)
}

func (h *metricsHandler) scrapeHandler() fiber.Handler {
	return adaptor.HTTPHandler(h.metrics.Handler())
}

// summaryView is the JSON of the totals over the last RetentionHours hours.
type summaryView struct {
	TotalRequests uint64 `json:"total_requests"`
	TotalAttempts uint64 `json:"total_attempts"`
	TotalRetries  uint64 `json:"total_retries"`
	Replays       uint64 `json:"replays"`
	// SuccessByAttempt has the numbers of delivered requests by the number of their last attempt, from "0".
	SuccessByAttempt          map[string]uint64 `json:"success_by_attempt"`
	TargetRefused             uint64            `json:"target_refused"`   // requests relayed with status 403 or 429
	BannedResponses           uint64            `json:"banned_responses"` // attempts whose response is a ban
	CircuitBreakerEventsCount uint64            `json:"circuit_breaker_events_count"`
	RetryLatencySecondsTotal  float64           `json:"retry_latency_seconds_total"` // sum of all backoffs
	// ByPolicy has the requests since the start, by the hash of their policy. The hash "other" stands for all
	// policies after the first 1,000.
	ByPolicy       map[string]policyCounts `json:"by_policy"`
	RetentionHours int                     `json:"retention_hours"`
}

// policyCounts is the JSON of the requests under one policy.
type policyCounts struct {
	Policy      *policyView `json:"policy,omitempty"` // absent for the hash "other"
	Requests    uint64      `json:"requests"`
	Successes   uint64      `json:"successes"`
	SuccessRate float64     `json:"success_rate"`
}

func (h *metricsHandler) summary(c *fiber.Ctx) error { return send(c, h.totals()) }

func (h *metricsHandler) totals() summaryView {
	s := h.metrics.Summary()
	v := summaryView{
		TotalRequests: s.Requests, TotalAttempts: s.Attempts, TotalRetries: s.Retries, Replays: s.Replays,
		SuccessByAttempt: s.SuccessByAttempt, TargetRefused: s.TargetRefused,
		BannedResponses: s.Banned, CircuitBreakerEventsCount: s.Transitions,
		RetryLatencySecondsTotal: seconds(s.BackoffTime), ByPolicy: map[string]policyCounts{},
		RetentionHours: h.metrics.RetentionHours(),
	}
	for hash, n := range s.ByPolicy {
		rate := ratio(n.Successes, n.Requests)
		counts := policyCounts{Requests: n.Requests, Successes: n.Successes, SuccessRate: rate}
		if p, ok := n.Policy.(*retry.Policy); ok {
			fields := viewOfPolicy(p)
			counts.Policy = &fields
		}
		v.ByPolicy[hash] = counts
	}
	return v
}

// pointView is the JSON of one hour or day of the time series.
type pointView struct {
	Timestamp     time.Time `json:"timestamp"` // start of the hour or day
	TotalRequests uint64    `json:"total_requests"`
	TotalRetries  uint64    `json:"total_retries"`
	SuccessRate   float64   `json:"success_rate"` // share of delivered requests; 1 if there are no requests
	AvgLatency    float64   `json:"avg_latency"`  // s, mean over attempts, without backoff
}

func (h *metricsHandler) series(c *fiber.Ctx) error {
	hours, err := queryHours(c)
	if err != nil {
		return err
	}
	step := time.Hour
	switch interval, given := queryValue(c, "interval"); {
	case !given, interval == "hour":
	case interval == "day":
		step = 24 * time.Hour
	default:
		return badField("interval", "interval must be hour or day"+strict.DidYouMean(interval, []string{"hour", "day"}))
	}
	points := []pointView{}
	for _, p := range h.metrics.Series(hours, step) {
		v := pointView{
			Timestamp: p.Start.UTC(), TotalRequests: p.Requests, TotalRetries: p.Retries,
			SuccessRate: 1, AvgLatency: seconds(p.AvgLatency()),
		}
		if p.Requests > 0 {
			v.SuccessRate = ratio(p.Delivered, p.Requests)
		}
		points = append(points, v)
	}
	return send(c, fiber.Map{"data_points": points, "retention_hours": h.metrics.RetentionHours()})
}

// proxyStatsView is the JSON of the attempts through one proxy.
type proxyStatsView struct {
	ProxyID             string  `json:"proxy_id"`
	TotalAttempts       uint64  `json:"total_attempts"` // success + failure + cancelled
	SuccessCount        uint64  `json:"success_count"`
	FailureCount        uint64  `json:"failure_count"`
	CancelledCount      uint64  `json:"cancelled_count"` // the client left, or the attempt was followed by a replay
	AvgLatency          float64 `json:"avg_latency"`     // s
	CircuitBreakerOpens uint64  `json:"circuit_breaker_opens"`

	*causesView  // nil except for the maxCauses proxies with the most failures
	*reasonsView // nil unless the query has a window
}

// causesView is the JSON of the attempts through one proxy by cause and status.
type causesView struct {
	Causes   map[string]uint64 `json:"causes"`   // number of attempts by cause; causes are in docs/verdicts.md
	Statuses map[string]uint64 `json:"statuses"` // number of attempts by class, such as 4xx, and by status, such as 403
}

// maxCauses is the maximum number of proxies in a response that have the fields of causesView. To compute them takes
// about 50 us for one proxy with 24 busy hours.
const maxCauses = 100

func (h *metricsHandler) byProxy(c *fiber.Ctx) error {
	hours, err := queryHours(c)
	if err != nil {
		return err
	}
	window, err := queryWindow(c)
	if err != nil {
		return err
	}
	_, withReasons := queryValue(c, "window")
	proxies := map[string]*proxyStatsView{}
	list := []*proxyStatsView{}
	for id, p := range h.metrics.ByProxy(hours) {
		v := &proxyStatsView{
			ProxyID: id, TotalAttempts: p.Attempts(), SuccessCount: p.Successes, FailureCount: p.Failures,
			CancelledCount: p.Cancelled, AvgLatency: seconds(p.AvgLatency()), CircuitBreakerOpens: p.BreakerOpens,
		}
		if withReasons {
			sum := h.metrics.Reasons().SumProxy(id, window)
			reasons := viewOfReasons(&sum, window)
			v.reasonsView = &reasons
		}
		proxies[id] = v
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b *proxyStatsView) int {
		return cmp.Or(cmp.Compare(b.FailureCount, a.FailureCount), cmp.Compare(a.ProxyID, b.ProxyID))
	})
	for _, v := range list[:min(len(list), maxCauses)] {
		v.causesView = viewOfCauses(h.metrics.Counts(v.ProxyID, hours))
	}
	return send(c, fiber.Map{"proxies": proxies, "retention_hours": h.metrics.RetentionHours()})
}

func viewOfCauses(counts []minutes.Count) *causesView {
	v := &causesView{Causes: map[string]uint64{}, Statuses: map[string]uint64{}}
	for _, c := range counts {
		v.Causes[verdict.CauseName(c.Key.Cause())] += c.N
		addStatus(v.Statuses, c.Key, c.N)
	}
	return v
}

// seconds returns a duration in seconds, rounded to microseconds.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e6 }

// ratio returns part / whole; 0 if whole is 0.
func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
