package api

import (
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The states of proxies that a query for a list may name, in addition to the states of a breaker.
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

type stateSet struct {
	breaker                              [core.HalfOpen + 1]bool
	failing, draining, banned, unreached bool
}

// parseStates returns the states in the query parameter "state"; nil if the query does not have it.
func parseStates(c *fiber.Ctx) (*stateSet, error) {
	words, err := queryWords(c, "state", listStates)
	if words == nil || err != nil {
		return nil, err
	}
	set := &stateSet{}
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

// isInState reports whether a proxy is in one of the states.
func (l *poolLists) isInState(set *stateSet, u *upstream.Upstream, failing failingProxies) bool {
	if set.breaker[u.State()] || set.draining && u.Draining() || set.unreached && u.IsUnreached() ||
		set.failing && failing.includes(u) {
		return true
	}
	if !set.banned {
		return false
	}
	_, banned := l.bannedUntil(u)
	return banned
}

// poolFilter is the condition of a query on proxies. Its zero value matches all proxies.
type poolFilter struct {
	states *stateSet // nil for all states
	region string    // "" for any region; the same is true of the fields below
	vendor string
	reason string // Reason of a failureGroup; only failing proxies have a reason
	text   string // part of the proxy's search text (poolIndex.texts), in lower case
}

// maxReason is the maximum number of characters of the parameter reason. A reason may name a host, of up to 253 bytes.
const maxReason = 300

// parseFilter reads the parameters state, region, vendor, reason and q.
func parseFilter(c *fiber.Ctx) (f poolFilter, err error) {
	if f.states, err = parseStates(c); err != nil {
		return f, err
	}
	for _, p := range []struct {
		name  string
		field *string
		most  int
	}{
		{"region", &f.region, maxTextLength}, {"vendor", &f.vendor, maxTextLength},
		{"reason", &f.reason, maxReason}, {"q", &f.text, maxTextLength},
	} {
		if *p.field, err = queryTextUpTo(c, p.name, p.most); err != nil {
			return f, err
		}
	}
	f.text = strings.ToLower(f.text)
	return f, nil
}

// matchingProxies returns the proxies that match a filter, in the order of their ids.
func (l *poolLists) matchingProxies(index *poolIndex, f *poolFilter) (list []*upstream.Upstream) {
	if *f == (poolFilter{}) {
		return index.proxies
	}
	var failing failingProxies
	if f.reason != "" || f.states != nil && f.states.failing {
		failing = l.findFailing()
	}
	for i, u := range index.proxies {
		if strings.Contains(index.searchTexts[i], f.text) && f.matchesSpec(u) &&
			(f.states == nil || l.isInState(f.states, u, failing)) &&
			(f.reason == "" || l.failureReason(u, failing) == f.reason) {
			list = append(list, u)
		}
	}
	return list
}

// matchesSpec reports whether a proxy has the region and the vendor of the filter.
func (f *poolFilter) matchesSpec(u *upstream.Upstream) bool {
	return (f.region == "" || u.RegionHash() == core.RegionHash(f.region)) &&
		(f.vendor == "" || strings.EqualFold(u.Spec().Extra().Vendor, f.vendor))
}

// failureReason returns the reason why a proxy fails (failureGroup.Reason); "" if the proxy works.
func (l *poolLists) failureReason(u *upstream.Upstream, failing failingProxies) string {
	if !failing.includes(u) {
		return ""
	}
	g := l.failureGroupOf(u, failing)
	return g.Reason
}
