package api

import (
	"cmp"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// groupHandler serves /proxy-groups.
type groupHandler struct{ lists *poolLists }

func (h *groupHandler) routes(r fiber.Router) { r.Get("/proxy-groups", h.list) }

// groupView is the JSON of the proxies that have one value in common: their region, vendor, reason or state.
type groupView struct {
	Name     string `json:"name"` // the value; "" for the proxies without a value
	Proxies  int    `json:"proxies"`
	Failing  int    `json:"failing"`
	Banned   int    `json:"banned"`
	InFlight int64  `json:"in_flight"`
	Reason   string `json:"reason"` // the most frequent reason of the failing proxies; "" if no proxy fails

	reasons map[string]int
}

// maxGroupViews is the maximum number of groups in a response; the groups with the fewest failing proxies are left
// out.
const maxGroupViews = 500

// list responds with the groups of the proxies that match the query. The group with the most failing proxies comes
// first.
func (h *groupHandler) list(c *fiber.Ctx) error {
	f, err := filterOf(c)
	if err != nil {
		return err
	}
	by, _ := query(c, "by")
	name, ok := map[string]func(*upstream.Upstream, string) string{
		"region": func(u *upstream.Upstream, _ string) string { return u.Region() },
		"vendor": func(u *upstream.Upstream, _ string) string { return u.Spec().Vendor },
		"reason": func(_ *upstream.Upstream, reason string) string { return reason },
		"state":  func(u *upstream.Upstream, _ string) string { return u.Breaker().State().String() },
	}[by]
	if !ok {
		return badField("by", "by must be region, vendor, reason or state")
	}
	groups := map[string]*groupView{}
	failing := h.lists.failures()
	for _, u := range h.lists.matching(h.lists.current(), &f) {
		reason := h.lists.reasonOf(u, failing)
		n := name(u, reason)
		g := groups[n]
		if g == nil {
			g = &groupView{Name: n, reasons: map[string]int{}}
			groups[n] = g
		}
		_, banned := h.lists.banned(u)
		g.Proxies++
		g.InFlight += u.InFlight()
		count(&g.Banned, banned)
		if reason != "" {
			g.Failing++
			g.reasons[reason]++
		}
	}
	list := make([]*groupView, 0, len(groups))
	for _, g := range groups {
		for reason, n := range g.reasons {
			if most := g.reasons[g.Reason]; n > most || n == most && reason < g.Reason {
				g.Reason = reason
			}
		}
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *groupView) int {
		return cmp.Or(cmp.Compare(b.Failing, a.Failing), cmp.Compare(b.Proxies, a.Proxies),
			strings.Compare(a.Name, b.Name))
	})
	return send(c, fiber.Map{"by": by, "total": len(list), "groups": list[:min(len(list), maxGroupViews)]})
}
