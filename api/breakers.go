package api

import (
	"fmt"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// breakerHandler serves the endpoints under /circuit-breakers.
type breakerHandler struct {
	pool    Pool
	lists   *poolLists
	metrics Metrics
	now     func() time.Time
	cluster Cluster // nil without a cluster
}

func (h *breakerHandler) routes(r fiber.Router) {
	r.Get("/circuit-breakers", h.list)
	r.Get("/circuit-breakers/metrics", h.transitions) // must precede :id, which would match "metrics", too
	r.Get("/circuit-breakers/:id", h.get)
	r.Post("/circuit-breakers/:id/reset", h.reset)
}

// breakerView is the JSON of one breaker. Durations are seconds.
type breakerView struct {
	ProxyID          string     `json:"proxy_id"`
	State            string     `json:"state"`
	FailureCount     int        `json:"failure_count"`
	FailureThreshold int        `json:"failure_threshold"`
	WindowDuration   float64    `json:"window_duration"`
	TimeoutDuration  float64    `json:"timeout_duration"`
	NextTestTime     *time.Time `json:"next_test_time"`   // null unless the breaker is open
	RetryInSeconds   *float64   `json:"retry_in_seconds"` // seconds until NextTestTime
	LastStateChange  time.Time  `json:"last_state_change"`
}

func (h *breakerHandler) view(u *upstream.Upstream) breakerView {
	b := u.Breaker().Snapshot()
	v := breakerView{
		ProxyID: u.ID(), State: b.State.String(), FailureCount: b.FailureCount,
		FailureThreshold: b.Config.FailureThreshold, WindowDuration: b.Config.WindowDuration.Seconds(),
		TimeoutDuration: b.Config.TimeoutDuration.Seconds(), LastStateChange: b.LastChange.UTC(),
	}
	if b.State == core.Open {
		nextTest, remaining := b.NextTest.UTC(), max(b.NextTest.Sub(h.now()).Seconds(), 0)
		v.NextTestTime, v.RetryInSeconds = &nextTest, &remaining
	}
	return v
}

func (h *breakerHandler) list(c *fiber.Ctx) error {
	proxies, fields, err := h.lists.proxiesOfQuery(c)
	if err != nil {
		return err
	}
	out := make([]breakerView, len(proxies))
	for i, u := range proxies {
		out[i] = h.view(u)
	}
	return send(c, struct {
		Breakers []breakerView `json:"circuit_breakers"`
		*pageView
	}{out, fields})
}

func (h *breakerHandler) get(c *fiber.Ctx) error {
	u, reasons, err := proxyWithReasons(c, h.pool, h.metrics)
	if err != nil {
		return err
	}
	return send(c, struct {
		breakerView
		Why     whyView      `json:"why"`
		Failure *failureView `json:"failure,omitempty"`
		reasonsView
	}{h.view(u), h.viewOfWhy(u.EvidenceReport()), h.lists.failureOf(u, h.lists.findFailing()), reasons})
}

func (h *breakerHandler) reset(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	u.Reset()
	if h.cluster != nil {
		h.cluster.ResetProxy(u)
	}
	return send(c, h.view(u))
}

// whyView is the JSON of the evidence that explains a breaker's state. The evidence compares the breaker's proxy with
// the other proxies.
type whyView struct {
	Summary     string           `json:"summary"`
	Since       *time.Time       `json:"since"`
	Failures    int              `json:"failures"`
	Successes   int              `json:"successes"`
	Evidence    float64          `json:"evidence"`     // evidence in nats
	Needed      float64          `json:"needed"`       // evidence, in nats, at which the breaker opens
	OwnFailures int              `json:"own_failures"` // failures that only the proxy can have caused
	OwnCauses   map[string]int   `json:"own_causes"`
	Targets     []targetEvidence `json:"targets"`
}

// targetEvidence compares a proxy with the other proxies at one target.
type targetEvidence struct {
	Target       string         `json:"target"`
	Failures     int            `json:"failures"`
	Attempts     int            `json:"attempts"`
	Causes       map[string]int `json:"causes"`
	RestFailures int            `json:"rest_failures"`
	RestAttempts int            `json:"rest_attempts"`
	Noise        float64        `json:"noise"` // the usual share of failures at this target, 0 to 1
	Evidence     float64        `json:"evidence"`
}

func (h *breakerHandler) viewOfWhy(w evidence.Report) whyView {
	v := whyView{
		Summary: w.Text(causeWord), Failures: w.Failures, Successes: w.Successes, Evidence: w.Evidence,
		Needed: w.Needed, OwnFailures: w.OwnFailures, OwnCauses: countsByCause(w.OwnCauses),
		Targets: make([]targetEvidence, 0, len(w.Targets)),
	}
	if w.Failures > 0 {
		at := timeAt(h.pool, w.Since)
		v.Since = &at
	}
	for _, t := range w.Targets {
		v.Targets = append(v.Targets, targetEvidence{
			Target: t.Name, Failures: t.Failures, Attempts: t.Attempts, Causes: countsByCause(t.Causes),
			RestFailures: t.OtherFailures, RestAttempts: t.OtherAttempts, Noise: t.Noise, Evidence: t.Evidence,
		})
	}
	return v
}

func causeWord(cause uint8) string { return verdict.CauseName(core.Cause(cause)) }

func countsByCause(list []evidence.CauseCount) map[string]int {
	out := map[string]int{}
	for _, c := range list {
		out[causeWord(c.Cause)] = c.Count
	}
	return out
}

// transitionView is the JSON of one transition of a breaker.
type transitionView struct {
	ProxyID      string    `json:"proxy_id"`
	FromState    string    `json:"from_state"`
	ToState      string    `json:"to_state"`
	Timestamp    time.Time `json:"timestamp"`
	FailureCount int       `json:"failure_count"`
	Reason       string    `json:"reason"`
	Why          string    `json:"why"`
}

func viewOfTransition(t core.Transition) transitionView {
	return transitionView{
		ProxyID: t.ProxyID, FromState: t.From.String(), ToState: t.To.String(), Timestamp: t.At.UTC(),
		FailureCount: t.FailureCount, Reason: t.Reason, Why: t.Why,
	}
}

const maxIDs = 50

var transitionOrders = []order[core.Transition]{
	numberOrder("timestamp", func(t core.Transition) float64 { return float64(t.At.UnixNano()) }),
}

// transitionsView is the JSON of the transitions within a time window, the oldest first unless the query asks for
// another order.
type transitionsView struct {
	Events         []transitionView          `json:"events"`
	Counts         map[string]map[string]int `json:"counts"`    // proxy id -> new state -> number of transitions
	Truncated      bool                      `json:"truncated"` // some transitions of the window are no longer kept
	RetentionHours int                       `json:"retention_hours"`

	*pageView
}

func (h *breakerHandler) transitions(c *fiber.Ctx) error {
	hours, err := queryHours(c)
	if err != nil {
		return err
	}
	p, err := parsePage(c, transitionOrders, nil, maxPage, 0)
	if err != nil {
		return err
	}
	states, err := queryWords(c, "state", []string{
		core.Closed.String(), core.Open.String(), core.HalfOpen.String(),
	})
	if err != nil {
		return err
	}
	ids := queryValues(c, "proxy_id")
	if len(ids) > maxIDs || slices.Contains(ids, "") {
		return badField("proxy_id", fmt.Sprintf("proxy_id must be an id; it may occur up to %d times", maxIDs))
	}
	all, truncated := h.metrics.Transitions(hours)
	v := transitionsView{
		Events: []transitionView{}, Counts: map[string]map[string]int{},
		Truncated: truncated, RetentionHours: h.metrics.RetentionHours(),
	}
	for _, t := range all {
		if states != nil && !slices.Contains(states, t.To.String()) || ids != nil && !slices.Contains(ids, t.ProxyID) ||
			!containsText(p.text, t.ProxyID, t.Reason, t.Why) {
			continue
		}
		p.elements = append(p.elements, t)
		if v.Counts[t.ProxyID] == nil {
			v.Counts[t.ProxyID] = map[string]int{}
		}
		v.Counts[t.ProxyID][t.To.String()]++
	}
	list, fields := p.takePage()
	for _, t := range list {
		v.Events = append(v.Events, viewOfTransition(t))
	}
	v.pageView = fields
	return send(c, v)
}
