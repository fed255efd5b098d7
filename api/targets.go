package api

import (
	"cmp"
	"net"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
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

// targetView is the JSON of a target with failures or refusals. For a target of the ledger, it counts the attempts
// since the target's first recent failure. For any other target, it counts the attempts of the window in the kept
// metrics.
type targetView struct {
	Target         string     `json:"target"` // host:port; a host for a target that is not in the ledger
	Attempts       uint64     `json:"attempts"`
	Failures       uint64     `json:"failures"`
	Refused        uint64     `json:"refused"` // attempts of the window with status 403 or 429, and no ban
	FailureRate    float64    `json:"failure_rate"`
	ProxiesFailing int        `json:"proxies_failing"` // 0 for a target that is not in the ledger
	Suspect        bool       `json:"suspect"`
	LastFailure    time.Time  `json:"last_failure"`
	LastSuccess    *time.Time `json:"last_success"`

	*reasonsView // attempts at all ports of the host
}

// host returns the target's name without the port.
func (v *targetView) host() string {
	if host, _, err := net.SplitHostPort(v.Target); err == nil {
		return host
	}
	return v.Target
}

// targetsView is the JSON of one page of the targets.
type targetsView struct {
	Targets []*targetView `json:"targets"`
	pageView
}

// defaultTargets is the default limit of a page of targets.
const defaultTargets = 100

// list responds with two groups of targets. First come the targets of the ledger, which have a recent failure: by
// default suspect ones first, then by the number of failures. Then come the other targets that have failures in the
// window, as far as the metrics are kept.
func (h *targetHandler) list(c *fiber.Ctx) error {
	p, err := parsePage(c, targetOrders, nil, maxPage, defaultTargets)
	if err != nil {
		return err
	}
	states, err := queryWords(c, "state", []string{"suspect"})
	if err != nil {
		return err
	}
	window, err := queryWindow(c)
	if err != nil {
		return err
	}
	all := h.recentTargets()
	all = append(all, h.keptTargets(window, all)...)
	for _, t := range all {
		if (states == nil || t.Suspect) && containsText(p.text, t.Target) {
			p.elements = append(p.elements, t)
		}
	}
	p.hasTotal = true // the response has always been a page
	list, fields := p.takePage()
	for _, t := range list {
		sum := h.metrics.Reasons().SumTarget(t.host(), window)
		reasons := viewOfReasons(&sum, window)
		t.reasonsView = &reasons
		t.Refused = refusals(&sum)
	}
	return send(c, targetsView{append([]*targetView{}, list...), *fields})
}

var targetOrders = []order[*targetView]{
	textOrder("target", func(t *targetView) string { return t.Target }),
	numberOrder("attempts", func(t *targetView) float64 { return float64(t.Attempts) }),
	numberOrder("failures", func(t *targetView) float64 { return float64(t.Failures) }),
	numberOrder("failure_rate", func(t *targetView) float64 { return t.FailureRate }),
	numberOrder("proxies_failing", func(t *targetView) float64 { return float64(t.ProxiesFailing) }),
	numberOrder("last_failure", func(t *targetView) float64 { return float64(t.LastFailure.UnixNano()) }),
}

// recentTargets returns the targets of the ledger.
func (h *targetHandler) recentTargets() []*targetView {
	all := h.ledger.Targets()
	slices.SortFunc(all, func(a, b evidence.TargetView) int { return a.Rank().Compare(b.Rank()) })
	views := make([]*targetView, len(all))
	for i := range all {
		t := &all[i]
		views[i] = &targetView{
			Target: t.Name, Attempts: uint64(t.Attempts), Failures: uint64(t.Failures), FailureRate: t.FailureRate,
			ProxiesFailing: t.Proxies, Suspect: t.Suspect, LastFailure: timeAt(h.pool, t.LastFailure),
		}
		if t.LastSuccess > 0 {
			at := timeAt(h.pool, t.LastSuccess)
			views[i].LastSuccess = &at
		}
	}
	return views
}

// refusals returns the number of attempts that the target refused, without the attempts that count as failures at the
// target.
func refusals(s *minutes.Sum) (n uint64) {
	for k, tally := range s.Counts {
		if k.IsRefusal() && verdict.AtTarget(k.Cause()) == core.Success {
			n += tally.N
		}
	}
	return n
}

// keptTargets returns the targets with failures or refusals in the window, from the metrics, which survive a restart.
// It leaves out the targets whose host is in shown.
func (h *targetHandler) keptTargets(window time.Duration, shown []*targetView) []*targetView {
	known := map[string]struct{}{}
	for _, t := range shown {
		known[t.host()] = struct{}{}
	}
	all := h.metrics.Reasons().FailingTargets(window,
		func(k minutes.Key) core.Verdict { return verdict.AtTarget(k.Cause()) })
	slices.SortFunc(all, func(a, b minutes.TargetCounts) int {
		return cmp.Or(cmp.Compare(b.Failures, a.Failures), cmp.Compare(b.Refused, a.Refused),
			cmp.Compare(a.Host, b.Host))
	})
	views := []*targetView{}
	for i := range all {
		t := &all[i]
		if _, shown := known[t.Host]; shown {
			continue
		}
		v := &targetView{Target: t.Host, Attempts: t.Attempts, Failures: t.Failures,
			FailureRate: ratio(t.Failures, t.Attempts), LastFailure: t.LastFailure}
		if !t.LastSuccess.IsZero() {
			v.LastSuccess = &t.LastSuccess
		}
		views = append(views, v)
	}
	return views
}
