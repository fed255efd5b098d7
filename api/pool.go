package api

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Pool is the pool of proxies.
type Pool interface {
	Snapshot() *upstream.Snapshot
	// At converts a time of the pool (the duration since the pool was made) to a time of day.
	At(elapsed time.Duration) time.Time
}

var _ Pool = (*upstream.Pool)(nil)

// poolLists lists proxies for /proxies and /circuit-breakers. It is safe for concurrent use.
type poolLists struct {
	pool    Pool
	banned  func(*upstream.Upstream) (until time.Duration, ok bool) // bans.BannedUntil
	metrics Metrics

	index atomic.Pointer[poolIndex]
}

// poolIndex holds the proxies of one snapshot of the pool in the order of their ids.
type poolIndex struct {
	snapshot *upstream.Snapshot
	proxies  []*upstream.Upstream
	texts    []string // the text of each proxy that the parameter q searches, in lower case
}

// current returns the index of the pool's snapshot. The index is built once for each snapshot.
func (l *poolLists) current() *poolIndex {
	s := l.pool.Snapshot()
	if x := l.index.Load(); x != nil && x.snapshot == s {
		return x
	}
	x := &poolIndex{snapshot: s, proxies: sortedByID(s)}
	for _, u := range x.proxies {
		x.texts = append(x.texts, searchText(u))
	}
	l.index.Store(x)
	return x
}

func sortedByID(s *upstream.Snapshot) []*upstream.Upstream {
	all := slices.Clone(s.All)
	slices.SortFunc(all, func(a, b *upstream.Upstream) int { return strings.Compare(a.ID(), b.ID()) })
	return all
}

// searchText returns the text of a proxy that the parameter q searches: id, URL without credentials, region, vendor,
// source, tags and metadata. A line break separates the parts, so that a search text matches within one part only.
func searchText(u *upstream.Upstream) string {
	spec := u.Spec()
	parts := []string{u.ID(), spec.Address.Redacted(), u.Region(), spec.Vendor, spec.Source}
	parts = append(parts, spec.Tags...)
	for name, value := range spec.Metadata {
		parts = append(parts, name+"="+value)
	}
	return strings.ToLower(strings.Join(parts, "\n"))
}

// failures are the proxies of the pool whose latest attempts fail. The value for a proxy describes these attempts.
type failures map[*upstream.Upstream]*metrics.Recent

// failures returns the proxies whose latest attempts fail now. A handler calls it once for a whole list of proxies.
func (l *poolLists) failures() failures {
	all := l.metrics.Failing()
	f := make(failures, len(all))
	s := l.pool.Snapshot()
	for id, recent := range all {
		if u := s.Get(id); u != nil {
			f[u] = &recent
		}
	}
	return f
}

// have reports whether a proxy counts as failing: its breaker is not closed, or f contains the proxy.
func (f failures) have(u *upstream.Upstream) bool { return u.State() != core.Closed || f[u] != nil }

// poolOrders are the orders of proxies.
var poolOrders = []order[*upstream.Upstream]{
	byText("id", (*upstream.Upstream).ID),
	byText("region", func(u *upstream.Upstream) string { return u.Region() }),
	byNumber("state", func(u *upstream.Upstream) float64 { return float64(u.State()) }),
	byNumber("weight", func(u *upstream.Upstream) float64 { return u.Spec().Weight }),
	byNumber("cost", func(u *upstream.Upstream) float64 { return u.Spec().Cost }),
	byNumber("uses", func(u *upstream.Upstream) float64 { return float64(u.Uses()) }),
	byNumber("success_rate", func(u *upstream.Upstream) float64 { return u.Stats().SuccessRate }),
	byNumber("avg_latency", func(u *upstream.Upstream) float64 { return float64(u.Stats().LatencyMean) }),
	byNumber("in_flight", func(u *upstream.Upstream) float64 { return float64(u.InFlight()) }),
	byNumber("last_used", func(u *upstream.Upstream) float64 { return float64(u.Stats().LastUsed.UnixMicro()) }),
}

// page returns the proxies that a query asks for. If the query has no parameters, it returns all proxies in the order
// of their ids.
func (l *poolLists) page(c *fiber.Ctx) (proxies []*upstream.Upstream, rest *pageView, err error) {
	p, err := pageOf(c, poolOrders, (*upstream.Upstream).ID, maxPage, 0)
	if err != nil {
		return nil, nil, err
	}
	f, err := filterOf(c)
	if err != nil {
		return nil, nil, err
	}
	index := l.current()
	if !p.given {
		return index.proxies, nil, nil
	}
	p.list = l.matching(index, &f)
	proxies, rest = p.cut()
	return proxies, rest, nil
}
