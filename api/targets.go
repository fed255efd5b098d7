package api

import (
	"net"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// Targets lists the targets with recent failures.
type Targets interface {
	Targets() []evidence.TargetView
}

var _ Targets = (*evidence.Ledger)(nil)

// targetHandler serves /targets.
type targetHandler struct {
	ledger  Targets
	pool    Pool
	metrics Metrics
}

func (h *targetHandler) routes(r fiber.Router) { r.Get("/targets", h.list) }

// targetView is the JSON of a target with a recent failure.
type targetView struct {
	Target         string     `json:"target"` // host:port
	Attempts       int        `json:"attempts"`
	Failures       int        `json:"failures"`
	FailureRate    float64    `json:"failure_rate"`
	ProxiesFailing int        `json:"proxies_failing"`
	Suspect        bool       `json:"suspect"`
	LastFailure    time.Time  `json:"last_failure"`
	LastSuccess    *time.Time `json:"last_success"`

	*reasonsView // attempts at all ports of the host; only if the query has a window
}

// targetsView is the JSON of one page of the targets.
type targetsView struct {
	Targets []targetView `json:"targets"`
	pageView
}

// defaultTargets is the default limit of a page of targets.
const defaultTargets = 100

// list responds with the targets: by default suspect ones first, then by the number of failures.
func (h *targetHandler) list(c *fiber.Ctx) error {
	p, err := parsePage(c, targetOrders, nil, maxPage, defaultTargets)
	if err != nil {
		return err
	}
	states, err := queryWords(c, "state", []string{"suspect"})
	if err != nil {
		return err
	}
	all := h.ledger.Targets()
	slices.SortFunc(all, func(a, b evidence.TargetView) int { return a.Rank().Compare(b.Rank()) })
	for i := range all {
		if t := &all[i]; (states == nil || t.Suspect) && containsText(p.text, t.Name) {
			p.list = append(p.list, t)
		}
	}
	window, err := queryWindow(c)
	if err != nil {
		return err
	}
	_, withReasons := queryValue(c, "window")
	p.hasTotal = true // the response has always been a page
	list, fields := p.takePage()
	v := targetsView{Targets: make([]targetView, 0, len(list)), pageView: *fields}
	for _, t := range list {
		view := h.view(t)
		if host, _, err := net.SplitHostPort(t.Name); err == nil && withReasons {
			sum := h.metrics.Reasons().SumTarget(host, window)
			reasons := viewOfReasons(&sum, window)
			view.reasonsView = &reasons
		}
		v.Targets = append(v.Targets, view)
	}
	return send(c, v)
}

var targetOrders = []order[*evidence.TargetView]{
	textOrder("target", func(t *evidence.TargetView) string { return t.Name }),
	numberOrder("attempts", func(t *evidence.TargetView) float64 { return float64(t.Attempts) }),
	numberOrder("failures", func(t *evidence.TargetView) float64 { return float64(t.Failures) }),
	numberOrder("failure_rate", func(t *evidence.TargetView) float64 { return t.FailureRate }),
	numberOrder("proxies_failing", func(t *evidence.TargetView) float64 { return float64(t.Proxies) }),
	numberOrder("last_failure", func(t *evidence.TargetView) float64 { return float64(t.LastFailure) }),
}

func (h *targetHandler) view(t *evidence.TargetView) targetView {
	v := targetView{
		Target: t.Name, Attempts: t.Attempts, Failures: t.Failures, FailureRate: t.FailureRate,
		ProxiesFailing: t.Proxies, Suspect: t.Suspect, LastFailure: h.pool.TimeAt(t.LastFailure).UTC(),
	}
	if t.LastSuccess > 0 {
		at := h.pool.TimeAt(t.LastSuccess).UTC()
		v.LastSuccess = &at
	}
	return v
}
