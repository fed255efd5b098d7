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
	// TimeAt converts a time of the pool (the duration since the pool was made) to a time of day.
	TimeAt(elapsed time.Duration) time.Time
	// Changes returns a number that increases with each snapshot and each transition of a breaker.
	Changes() uint64
}

var _ Pool = (*upstream.Pool)(nil)

// timePrecision is the precision of times that are computed relative to now. The clock of the machine and the clock
// that measures durations differ by some nanoseconds more in each second. Without rounding, an unchanged response would
// have another ETag each time.
const timePrecision = time.Millisecond

func timeAt(p Pool, elapsed time.Duration) time.Time {
	return p.TimeAt(elapsed).UTC().Round(timePrecision)
}

// poolLists lists proxies for /proxies and /circuit-breakers. It is safe for concurrent use.
type poolLists struct {
	pool        Pool
	bannedUntil func(*upstream.Upstream) (until time.Duration, ok bool) // bans.BannedUntil
	metrics     Metrics

	index atomic.Pointer[poolIndex]
}

// poolIndex holds the proxies of one snapshot of the pool in the order of their ids.
type poolIndex struct {
	snapshot    *upstream.Snapshot
	proxies     []*upstream.Upstream
	searchTexts []string // the searchText of each proxy
}

// currentIndex returns the index of the pool's snapshot. It builds one index for each snapshot.
func (l *poolLists) currentIndex() *poolIndex {
	s := l.pool.Snapshot()
	if index := l.index.Load(); index != nil && index.snapshot == s {
		return index
	}
	index := &poolIndex{snapshot: s, proxies: sortedByID(s)}
	for _, u := range index.proxies {
		index.searchTexts = append(index.searchTexts, searchText(u))
	}
	l.index.Store(index)
	return index
}

func sortedByID(s *upstream.Snapshot) []*upstream.Upstream {
	all := slices.Clone(s.All)
	slices.SortFunc(all, func(a, b *upstream.Upstream) int { return strings.Compare(a.ID(), b.ID()) })
	return all
}

// searchText returns the text of a proxy in which the query parameter "q" searches, in lower case: id, URL without
// credentials, region, vendor, source, tags and metadata. Line breaks separate these values, so a match is always
// within one of them.
func searchText(u *upstream.Upstream) string {
	spec := u.Spec()
	parts := []string{u.ID(), spec.Address.Redacted(), u.Region(), spec.Extra().Vendor, spec.Source}
	parts = append(parts, spec.Tags...)
	for name, value := range spec.Extra().Metadata {
		parts = append(parts, name+"="+value)
	}
	return strings.ToLower(strings.Join(parts, "\n"))
}

// failingProxies holds the proxies whose latest attempts fail, with these attempts.
type failingProxies map[*upstream.Upstream]*metrics.RecentAttempts

// findFailing returns the failing proxies of the pool. It is called once for a list of proxies, not for each proxy.
func (l *poolLists) findFailing() failingProxies {
	all := l.metrics.FailingProxies()
	failing := make(failingProxies, len(all))
	s := l.pool.Snapshot()
	for id, recent := range all {
		if u := s.Get(id); u != nil {
			failing[u] = &recent
		}
	}
	return failing
}

// includes reports whether a proxy counts as failing. A proxy whose breaker is not closed also counts as failing.
func (f failingProxies) includes(u *upstream.Upstream) bool {
	return u.State() != core.Closed || f[u] != nil
}

var poolOrders = []order[*upstream.Upstream]{
	textOrder("id", (*upstream.Upstream).ID),
	textOrder("region", func(u *upstream.Upstream) string { return u.Region() }),
	numberOrder("state", func(u *upstream.Upstream) float64 { return float64(u.State()) }),
	numberOrder("weight", func(u *upstream.Upstream) float64 { return u.Spec().Weight }),
	numberOrder("cost", func(u *upstream.Upstream) float64 { return u.Spec().Cost }),
	numberOrder("uses", func(u *upstream.Upstream) float64 { return float64(u.AttemptCount()) }),
	numberOrder("success_rate", func(u *upstream.Upstream) float64 { return u.Stats().SuccessRate }),
	numberOrder("avg_latency", func(u *upstream.Upstream) float64 { return float64(u.Stats().LatencyMean) }),
	numberOrder("in_flight", func(u *upstream.Upstream) float64 { return float64(u.InFlight()) }),
	numberOrder("last_used", func(u *upstream.Upstream) float64 { return float64(u.Stats().LastUsed.UnixMicro()) }),
}

// proxiesOfQuery returns the proxies of the page that a query asks for; for a query without parameters, all proxies in
// the order of their ids.
func (l *poolLists) proxiesOfQuery(c *fiber.Ctx) (proxies []*upstream.Upstream, fields *pageView, err error) {
	p, err := parsePage(c, poolOrders, (*upstream.Upstream).ID, maxPage, 0)
	if err != nil {
		return nil, nil, err
	}
	filter, err := parseFilter(c)
	if err != nil {
		return nil, nil, err
	}
	index := l.currentIndex()
	if !p.hasTotal {
		return index.proxies, nil, nil
	}
	p.elements = l.matchingProxies(index, &filter)
	proxies, fields = p.takePage()
	return proxies, fields, nil
}
