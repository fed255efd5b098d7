package api

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// reasonsView is the JSON of the attempts within a time window (such as the last hour) by cause, the most frequent
// cause first.
type reasonsView struct {
	Reasons []reasonView `json:"reasons"`
	Traffic trafficView  `json:"traffic"`
}

// reasonView is the JSON of the attempts with one cause.
type reasonView struct {
	Cause string    `json:"cause"` // one of the causes in docs/verdicts.md
	Count uint64    `json:"count"`
	Share float64   `json:"share"` // share of all attempts of the window, 0 to 1
	Last  time.Time `json:"last"`  // beginning of the latest minute with such an attempt
}

// trafficView is the JSON of the number, the statuses, the latencies and the bytes of all attempts within a time
// window.
type trafficView struct {
	Window   float64           `json:"window"` // s
	Attempts uint64            `json:"attempts"`
	Statuses map[string]uint64 `json:"statuses"` // number of attempts by class, such as 4xx, and by status, such as 403
	P50      float64           `json:"latency_p50"`
	P95      float64           `json:"latency_p95"` // s
	Bytes    uint64            `json:"bytes"`
}

func viewOfReasons(s *minutes.Sum, window time.Duration) reasonsView {
	byCause := map[core.Cause]minutes.Tally{}
	for k, n := range s.Counts {
		t := byCause[k.Cause()]
		t.N += n.N
		if n.LastMinute.After(t.LastMinute) {
			t.LastMinute = n.LastMinute
		}
		byCause[k.Cause()] = t
	}
	v := reasonsView{[]reasonView{}, trafficView{
		Window: window.Seconds(), Attempts: s.Attempts, Statuses: statuses(s), P50: seconds(s.Latencies.Quantile(0.5)),
		P95: seconds(s.Latencies.Quantile(0.95)), Bytes: s.Bytes,
	}}
	for cause, t := range byCause {
		share := math.Round(float64(t.N)/float64(s.Attempts)*1e6) / 1e6
		v.Reasons = append(v.Reasons, reasonView{verdict.CauseName(cause), t.N, share, t.LastMinute})
	}
	slices.SortFunc(v.Reasons, func(a, b reasonView) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Cause, b.Cause))
	})
	return v
}

// statuses returns the numbers of attempts by the status of their responses, such as 403, and by the class of the
// status, such as 4xx.
func statuses(s *minutes.Sum) map[string]uint64 {
	out := map[string]uint64{}
	for k, n := range s.Counts {
		addStatus(out, k, n.N)
	}
	return out
}

// addStatus adds n attempts with a key to the numbers of attempts by status.
func addStatus(out map[string]uint64, k minutes.Key, n uint64) {
	if status := k.Status(); status != 0 {
		out[strconv.Itoa(status/100)+"xx"] += n
		out[strconv.Itoa(status)] += n
	}
}

// queryMinutes returns a query parameter that is a number of minutes or hours, such as 5m or 24h.
func queryMinutes(c *fiber.Ctx, name string, defaultValue time.Duration) (time.Duration, error) {
	text, given := queryValue(c, name)
	if !given {
		return defaultValue, nil
	}
	d, err := time.ParseDuration(text)
	const maxDuration = metrics.MaxRetentionHours * time.Hour
	if err != nil || d < time.Minute || d > maxDuration || d%time.Minute != 0 || strings.HasPrefix(text, "+") {
		limit := fmt.Sprintf("1m to %dh", metrics.MaxRetentionHours)
		return 0, outOfRange(name, limit, name+" must be a number of minutes or hours from "+limit+
			", such as 5m or 24h")
	}
	return d, nil
}

const defaultWindow = time.Hour

func queryWindow(c *fiber.Ctx) (time.Duration, error) {
	return queryMinutes(c, "window", defaultWindow)
}

// proxyWithReasons returns the proxy that the path of a request names, and the result of reasonsOf for this proxy.
func proxyWithReasons(c *fiber.Ctx, pool Pool, m Metrics) (u *upstream.Upstream, v reasonsView, err error) {
	if u, err = proxyByID(c, pool); err != nil {
		return nil, v, err
	}
	v, err = reasonsOf(c, m, u)
	return u, v, err
}

// reasonsOf returns the attempts through a proxy in the window that the query asks for.
func reasonsOf(c *fiber.Ctx, m Metrics, u *upstream.Upstream) (v reasonsView, err error) {
	window, err := queryWindow(c)
	if err != nil {
		return v, err
	}
	sum := m.Reasons().SumProxy(u.ID(), window)
	return viewOfReasons(&sum, window), nil
}

const maxPoints = 2000

// historyPoint is the JSON of one step of a history.
type historyPoint struct {
	Timestamp time.Time         `json:"timestamp"` // beginning of the step
	Attempts  uint64            `json:"attempts"`
	Causes    map[string]uint64 `json:"causes"`
	Statuses  map[string]uint64 `json:"statuses"`
	P50       float64           `json:"latency_p50"` // s
	P95       float64           `json:"latency_p95"` // s
	Bytes     uint64            `json:"bytes"`

	*requestPoint
}

// requestPoint is the JSON of the client requests in one step of a history. Only a history of all proxies has it,
// because a request may use several proxies.
type requestPoint struct {
	Requests  uint64 `json:"requests"`
	Delivered uint64 `json:"delivered"`
	Refused   uint64 `json:"target_refused"`
	Retries   uint64 `json:"retries"`

	Banned uint64  `json:"banned_responses"`
	Cost   float64 `json:"cost"`
}

// history serves GET /metrics/history: the attempts in each step (a part of the window, such as five minutes), of all
// proxies, or of one proxy or target.
func (h *metricsHandler) history(c *fiber.Ctx) error {
	window, err := queryMinutes(c, "window", 24*time.Hour)
	if err != nil {
		return err
	}
	step, err := queryMinutes(c, "step", max(time.Minute, (window/288).Truncate(time.Minute)))
	if err != nil {
		return err
	}
	if window/step > maxPoints {
		step = (window/maxPoints + time.Minute - 1).Truncate(time.Minute)
	}
	id, ofProxy := queryValue(c, "proxy_id")
	host, ofTarget := queryValue(c, "host")
	var sums []minutes.Sum
	points := map[int64]*requestPoint{}
	switch {
	case ofProxy && ofTarget:
		return conflict("proxy_id and host exclude each other")
	case ofProxy && id == "":
		return badField("proxy_id", "proxy_id must be one id")
	case ofProxy:
		sums = h.metrics.Reasons().ProxyHistory(id, window, step)
	case ofTarget:
		if host, err = hostField(host); err != nil {
			return err
		}
		sums = h.metrics.Reasons().TargetHistory(host, window, step)
	default:
		sums = h.metrics.Reasons().History(window, step)
		for _, p := range h.metrics.Series(int(math.Ceil(window.Hours())), step) {
			points[p.Start.Unix()] = &requestPoint{
				p.Requests, p.Delivered, p.Refused, p.Retries, p.Banned, p.Cost,
			}
		}
	}
	out := make([]historyPoint, len(sums))
	for i := range sums {
		s := &sums[i]
		out[i] = historyPoint{
			Timestamp: s.Start, Attempts: s.Attempts, Causes: map[string]uint64{}, Statuses: statuses(s),
			P50: seconds(s.Latencies.Quantile(0.5)), P95: seconds(s.Latencies.Quantile(0.95)), Bytes: s.Bytes,
			requestPoint: points[s.Start.Unix()],
		}
		for k, n := range s.Counts {
			out[i].Causes[verdict.CauseName(k.Cause())] += n.N
		}
	}
	return send(c, fiber.Map{
		"window": window.Seconds(), "step": step.Seconds(), "points": out,
		"retention_hours": h.metrics.RetentionHours(), "changes": h.events.marksSince(window),
	})
}
