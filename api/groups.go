package api

import (
	"cmp"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
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

// maxProxyGroups is the maximum number of groups in a response. The groups with the fewest failing proxies are left
// out.
const maxProxyGroups = 500

// list responds with the groups of the matching proxies. The group with the most failing proxies comes first.
func (h *groupHandler) list(c *fiber.Ctx) error {
	filter, err := parseFilter(c)
	if err != nil {
		return err
	}
	groupBy, _ := queryValue(c, "by")
	groupName, ok := map[string]func(*upstream.Upstream, string) string{
		"region": func(u *upstream.Upstream, _ string) string { return u.Region() },
		"vendor": func(u *upstream.Upstream, _ string) string { return u.Spec().Extra().Vendor },
		"reason": func(_ *upstream.Upstream, reason string) string { return reason },
		"state":  func(u *upstream.Upstream, _ string) string { return u.Breaker().State().String() },
	}[groupBy]
	if !ok {
		return badField("by", "by must be region, vendor, reason or state"+
			strict.DidYouMean(groupBy, []string{"region", "vendor", "reason", "state"}))
	}
	groups := map[string]*groupView{}
	failing := h.lists.findFailing()
	for _, u := range h.lists.matchingProxies(h.lists.currentIndex(), &filter) {
		reason := h.lists.failureReason(u, failing)
		name := groupName(u, reason)
		group := groups[name]
		if group == nil {
			group = &groupView{Name: name, reasons: map[string]int{}}
			groups[name] = group
		}
		_, banned := h.lists.bannedUntil(u)
		group.Proxies++
		group.InFlight += u.InFlight()
		countIf(&group.Banned, banned)
		if reason != "" {
			group.Failing++
			group.reasons[reason]++
		}
	}
	list := make([]*groupView, 0, len(groups))
	for _, g := range groups {
		for reason, n := range g.reasons {
			if highest := g.reasons[g.Reason]; n > highest || n == highest && reason < g.Reason {
				g.Reason = reason
			}
		}
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *groupView) int {
		return cmp.Or(cmp.Compare(b.Failing, a.Failing), cmp.Compare(b.Proxies, a.Proxies),
			strings.Compare(a.Name, b.Name))
	})
	return send(c, fiber.Map{"by": groupBy, "total": len(list), "groups": list[:min(len(list), maxProxyGroups)]})
}
