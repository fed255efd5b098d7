package engine

import (
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Costs are the bytes, attempts and costs so far of proxies, vendors and users, in the form in which a file stores
// them.
type Costs struct {
	upstream.Costs
	Users []upstream.Cost `json:"users,omitempty"`
}

// Costs returns the costs so far. It leaves out proxies, vendors and users without traffic.
func (e *Engine) Costs() Costs {
	c := Costs{Costs: e.pool.Costs()}
	for name, total := range e.gateway.Costs() {
		c.Users = append(c.Users, upstream.Cost{Name: name, Total: total})
	}
	return c
}

// RestoreCosts adds the costs of earlier processes. Only Options.Restore may call it, before RestoreUsedBytes.
func (e *Engine) RestoreCosts(c Costs) {
	e.pool.RestoreCosts(c.Costs)
	for _, u := range c.Users {
		e.gateway.RestoreCosts(u.Name, u.Total)
	}
}

// costStates returns the costs for the metrics. The costs of removed proxies are left out.
func (e *Engine) costStates() (out metrics.CostStates) {
	c := e.Costs()
	states := func(list []upstream.Cost) (out []metrics.CostState) {
		for _, s := range list {
			out = append(out, metrics.CostState{Name: s.Name, Up: s.Up, Down: s.Down, Cost: s.Cost})
		}
		return out
	}
	out.Vendors, out.Users = states(c.Vendors), states(c.Users)
	return out
}
