package api

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// The lists of the cluster have a row for each proxy or target. Each row names the nodes that reported the proxy or
// target.

// clusterBreakerRow is the JSON of a breaker that is not closed on some node, or open for the cluster.
type clusterBreakerRow struct {
	ProxyID string            `json:"proxy_id"`
	State   string            `json:"state"`   // open if open on a node or for the cluster, else half_open
	Cluster bool              `json:"cluster"` // the breaker is open for the cluster
	Why     string            `json:"why"`     // reason why the breaker is open for the cluster
	Nodes   []nodeBreakerView `json:"nodes"`   // nodes on which the breaker is not closed
}

// nodeBreakerView is the JSON of a breaker on one node.
type nodeBreakerView struct {
	Node     string     `json:"node"`
	State    string     `json:"state"` // open or half_open
	Failures int        `json:"failure_count"`
	NextTest *time.Time `json:"next_test_time"` // null unless the breaker is open
}

// clusterTargetRow is the JSON of a target with a recent failure on some node.
type clusterTargetRow struct {
	Target         string           `json:"target"`
	Attempts       int              `json:"attempts"` // sum over all nodes
	Failures       int              `json:"failures"` // sum over all nodes
	FailureRate    float64          `json:"failure_rate"`
	ProxiesFailing int              `json:"proxies_failing"` // largest number on one node
	Suspect        bool             `json:"suspect"`         // the target is suspect on at least one node
	LastFailure    time.Time        `json:"last_failure"`
	Nodes          []nodeTargetView `json:"nodes"`
}

func (r *clusterTargetRow) rank() evidence.TargetRank {
	return evidence.TargetRank{Suspect: r.Suspect, Failures: r.Failures, Name: r.Target}
}

// nodeTargetView is the JSON of a target on one node.
type nodeTargetView struct {
	Node           string    `json:"node"`
	Attempts       int       `json:"attempts"`
	Failures       int       `json:"failures"`
	ProxiesFailing int       `json:"proxies_failing"`
	Suspect        bool      `json:"suspect"`
	LastFailure    time.Time `json:"last_failure"`
}

var clusterBreakerOrders = []order[*clusterBreakerRow]{
	textOrder("proxy_id", func(r *clusterBreakerRow) string { return r.ProxyID }),
	numberOrder("nodes", func(r *clusterBreakerRow) float64 { return float64(len(r.Nodes)) }),
}

var clusterTargetOrders = []order[*clusterTargetRow]{
	textOrder("target", func(r *clusterTargetRow) string { return r.Target }),
	numberOrder("attempts", func(r *clusterTargetRow) float64 { return float64(r.Attempts) }),
	numberOrder("failures", func(r *clusterTargetRow) float64 { return float64(r.Failures) }),
	numberOrder("failure_rate", func(r *clusterTargetRow) float64 { return r.FailureRate }),
	numberOrder("nodes", func(r *clusterTargetRow) float64 { return float64(len(r.Nodes)) }),
	numberOrder("last_failure", func(r *clusterTargetRow) float64 { return float64(r.LastFailure.UnixNano()) }),
}

// reports returns the reports of the nodes. Without a cluster, the result has no nodes.
func (h *clusterHandler) reports() cluster.Reports {
	var r cluster.Reports
	if h.cluster != nil {
		r = h.cluster.Reports()
	}
	if r.Missing == nil {
		r.Missing = []string{}
	}
	return r
}

// breakers serves GET /cluster/breakers: it responds with the breakers that are not closed. By default, the order is by
// the number of nodes on which a breaker is not closed, the largest number first.
func (h *clusterHandler) breakers(c *fiber.Ctx) error {
	p, err := parsePage(c, clusterBreakerOrders, nil, maxPage, defaultTargets)
	if err != nil {
		return err
	}
	reports := h.reports()
	rows := map[string]*clusterBreakerRow{}
	rowOf := func(id string) *clusterBreakerRow {
		if rows[id] == nil {
			rows[id] = &clusterBreakerRow{ProxyID: id, State: core.HalfOpen.String(), Nodes: []nodeBreakerView{}}
		}
		return rows[id]
	}
	for _, n := range reports.Nodes {
		for _, b := range n.Breakers {
			r, view := rowOf(b.Proxy), nodeBreakerView{Node: n.Node, State: b.State, Failures: b.Failures}
			if b.State == core.Open.String() {
				due := b.Due.UTC()
				r.State, view.NextTest = b.State, &due
			}
			r.Nodes = append(r.Nodes, view)
		}
	}
	if h.cluster != nil {
		for _, b := range h.cluster.Status().Breakers {
			r := rowOf(proxyIDOfKey(b.Proxy))
			r.Cluster, r.Why, r.State = true, b.Why, core.Open.String()
		}
	}
	for _, r := range rows {
		if containsText(p.text, r.ProxyID, r.Why) {
			p.elements = append(p.elements, r)
		}
	}
	slices.SortFunc(p.elements, func(a, b *clusterBreakerRow) int {
		return cmp.Or(len(b.Nodes)-len(a.Nodes), strings.Compare(a.ProxyID, b.ProxyID))
	})
	p.hasTotal = true
	list, rest := p.takePage()
	return send(c, struct {
		Breakers     []*clusterBreakerRow `json:"breakers"`
		MissingNodes []string             `json:"missing_nodes"`
		pageView
	}{append([]*clusterBreakerRow{}, list...), reports.Missing, *rest})
}

// targets serves GET /cluster/targets. Unless the query asks for another order, suspect targets come first, and
// targets with more failures come before targets with fewer.
func (h *clusterHandler) targets(c *fiber.Ctx) error {
	p, err := parsePage(c, clusterTargetOrders, nil, maxPage, defaultTargets)
	if err != nil {
		return err
	}
	reports := h.reports()
	rows := map[string]*clusterTargetRow{}
	for _, n := range reports.Nodes {
		for _, t := range n.Targets {
			r := rows[t.Target]
			if r == nil {
				r = &clusterTargetRow{Target: t.Target}
				rows[t.Target] = r
			}
			r.Attempts += t.Attempts
			r.Failures += t.Failures
			r.ProxiesFailing = max(r.ProxiesFailing, t.Proxies)
			r.Suspect = r.Suspect || t.Suspect
			if at := t.LastFailure.UTC(); at.After(r.LastFailure) {
				r.LastFailure = at
			}
			r.FailureRate = float64(r.Failures) / float64(max(r.Attempts, 1))
			r.Nodes = append(r.Nodes, nodeTargetView{n.Node, t.Attempts, t.Failures, t.Proxies, t.Suspect,
				t.LastFailure.UTC()})
		}
	}
	for _, r := range rows {
		if containsText(p.text, r.Target) {
			p.elements = append(p.elements, r)
		}
	}
	slices.SortFunc(p.elements, func(a, b *clusterTargetRow) int { return a.rank().Compare(b.rank()) })
	p.hasTotal = true
	list, rest := p.takePage()
	return send(c, struct {
		Targets      []*clusterTargetRow `json:"targets"`
		MissingNodes []string            `json:"missing_nodes"`
		pageView
	}{append([]*clusterTargetRow{}, list...), reports.Missing, *rest})
}
