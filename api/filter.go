package api

import (
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The states by which proxies can be listed: the states of the breaker, and four that a proxy may have in addition.
const (
	listFailing   = "failing"
	listDraining  = "draining"
	listBanned    = "banned"
	listUnreached = "unreached"
)

var listStates = []string{ // the first three are the values of core.State in their order
	core.Closed.String(), core.Open.String(), core.HalfOpen.String(), listFailing, listDraining, listBanned,
	listUnreached,
}

// states is a set of listStates.
type states struct {
	breaker                              [core.HalfOpen + 1]bool
	failing, draining, banned, unreached bool
}

// statesOf returns the states of the query's parameter state; nil if the query does not have it.
func statesOf(c *fiber.Ctx) (*states, error) {
	words, err := queryWords(c, "state", listStates)
	if words == nil || err != nil {
		return nil, err
	}
	set := &states{}
	for _, word := range words {
		switch word {
		case listFailing:
			set.failing = true
		case listDraining:
			set.draining = true
		case listBanned:
			set.banned = true
		case listUnreached:
			set.unreached = true
		default:
			set.breaker[slices.Index(listStates, word)] = true
		}
	}
	return set, nil
}

// has reports whether a proxy is in one of the states of set.
func (l *poolLists) has(set *states, u *upstream.Upstream, failing failures) bool {
	if set.breaker[u.State()] || set.draining && u.Draining() || set.unreached && u.Unreached() ||
		set.failing && failing.have(u) {
		return true
	}
	if !set.banned {
		return false
	}
	_, banned := l.banned(u)
	return banned
}

// poolFilter is the condition of a query on proxies. Its zero value matches all proxies.
type poolFilter struct {
	states *states // nil for any
	region string  // "" for any region; the same is true of the fields below
	vendor string
	reason string // as in failureGroup.Reason; only failing proxies have a reason
	text   string // part of the proxy's search text (poolIndex.texts), in lower case
}

// filterOf returns the condition of a query: its parameters state, region, vendor, reason and q.
func filterOf(c *fiber.Ctx) (f poolFilter, err error) {
	if f.states, err = statesOf(c); err != nil {
		return f, err
	}
	for _, p := range []struct {
		name string
		to   *string
	}{{"region", &f.region}, {"vendor", &f.vendor}, {"reason", &f.reason}, {"q", &f.text}} {
		if *p.to, err = queryText(c, p.name); err != nil {
			return f, err
		}
	}
	f.text = strings.ToLower(f.text)
	return f, nil
}

// matching returns the proxies that match a condition, in the order of their ids.
func (l *poolLists) matching(index *poolIndex, f *poolFilter) (list []*upstream.Upstream) {
	if *f == (poolFilter{}) {
		return index.proxies
	}
	var failing failures
	if f.reason != "" || f.states != nil && f.states.failing {
		failing = l.failures()
	}
	for i, u := range index.proxies {
		if strings.Contains(index.texts[i], f.text) && f.matches(u) &&
			(f.states == nil || l.has(f.states, u, failing)) &&
			(f.reason == "" || l.reasonOf(u, failing) == f.reason) {
			list = append(list, u)
		}
	}
	return list
}

// matches reports whether a proxy has the region and the vendor of the condition.
func (f *poolFilter) matches(u *upstream.Upstream) bool {
	return (f.region == "" || u.RegionHash() == core.RegionHash(f.region)) &&
		(f.vendor == "" || strings.EqualFold(u.Spec().Vendor, f.vendor))
}

// reasonOf returns the reason why a proxy fails, such as "403 at shop.example"; "" if it works.
func (l *poolLists) reasonOf(u *upstream.Upstream, failing failures) string {
	if !failing.have(u) {
		return ""
	}
	g := l.groupOf(u, failing)
	return g.Reason
}
