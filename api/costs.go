package api

import (
	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// costView is the JSON of the tier and the prices of a proxy. Values of 0 are left out.
type costView struct {
	Tier        int     `json:"tier,omitempty"`
	Vendor      string  `json:"vendor,omitempty"`
	CostRequest float64 `json:"cost_per_request,omitempty"`
	CostGB      float64 `json:"cost_per_gb,omitempty"`
}

func costOf(s *upstream.Spec) costView {
	e := s.Extra()
	return costView{s.Tier, e.Vendor, e.Price.Request, e.Price.GB}
}

type costEngine interface {
	Costs() engine.Costs
}

var _ costEngine = (*engine.Engine)(nil)

type costHandler struct {
	engine costEngine
	pool   Pool
}

func (h *costHandler) routes(r fiber.Router) { r.Get("/metrics/costs", h.get) }

type totalView struct {
	Attempts int64   `json:"attempts"`
	Sent     int64   `json:"bytes_sent"`
	Received int64   `json:"bytes_received"`
	Cost     float64 `json:"cost"`
}

func viewOfTotal(t traffic.Total) totalView { return totalView{t.Attempts, t.Up, t.Down, t.Cost} }

type proxyCostView struct {
	ID     string `json:"id"` // "" for all removed proxies together
	Vendor string `json:"vendor"`
	Tier   int    `json:"tier"`
	totalView
}

type namedCostView struct {
	Name string `json:"name"`
	totalView
}

// get serves GET /metrics/costs.
func (h *costHandler) get(c *fiber.Ctx) error {
	all, snap := h.engine.Costs(), h.pool.Snapshot()
	proxies, sum := make([]proxyCostView, 0, len(all.Proxies)), traffic.Total{}
	for _, p := range all.Proxies {
		sum = sum.Add(p.Total)
		vendor, tier := snap.Vendor(p.Name)
		proxies = append(proxies, proxyCostView{p.Name, vendor, tier, viewOfTotal(p.Total)})
	}
	return send(c, fiber.Map{
		"total": viewOfTotal(sum), "proxies": proxies, "vendors": viewsOfCosts(all.Vendors),
		"users": viewsOfCosts(all.Users),
	})
}

func viewsOfCosts(list []upstream.Cost) []namedCostView {
	out := make([]namedCostView, len(list))
	for i, v := range list {
		out[i] = namedCostView{v.Name, viewOfTotal(v.Total)}
	}
	return out
}
