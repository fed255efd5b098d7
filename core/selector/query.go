package selector

import (
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// TriedProxy is a proxy through which a request has been attempted.
type TriedProxy struct {
	Proxy  *upstream.Upstream
	Barred bool // no further attempt may use the proxy; for example, it has refused its credentials
}

// Query describes the request that a proxy is chosen for.
type Query struct {
	Attempt             int // 0 for the first attempt
	Idempotent, Connect bool
	Need                ability.Need
	Retryable           bool    // a retry is possible if the attempt fails, so the attempt may be an exploration
	HostHash            float64 // core.Hash53 of the target's host
	TargetHash          uint64  // evidence.Target.Hash of the target
	RegionHash          float64 // core.RegionHash of the wanted region; 0 for none
	Host                string  // the target's host, without port, in lower case
	PlainRegion         bool    // upstream.PlainRegion of the wanted region
	RegionMode          RegionMode
	Regions             *core.Regions // the regions that may be used; nil for all
	Tag                 float64       // core.Hash53 of the tag that a proxy must have; 0 for none
	TagPreferred        bool          // Tag is only preferred (as with RegionPreferred)
	Direct              bool          // no proxy: Pool.Direct is chosen
	Tried               []TriedProxy  // in the order of the attempts
	Session             Session       // the request's session; nil for none
	// KnownToRelay limits a retry to proxies that are known to relay responses (Upstream.IsKnownToRelay), if HasUntried
	// has found one.
	KnownToRelay bool
}

// RegionMode is the effect of the wanted region (Query.RegionHash) on the choice of proxies.
type RegionMode uint8

// The effects of a wanted region.
const (
	RegionScored    RegionMode = iota // the region is an input of the scorer
	RegionPreferred                   // first attempts use only this region while one of its proxies is admissible
	RegionStrict                      // no attempt uses another region
)

// regionOnly reports whether the next attempt is limited to the wanted region.
func (q *Query) regionOnly() bool {
	return q.RegionMode == RegionStrict || q.RegionMode == RegionPreferred && q.Attempt == 0
}

// tagOnly reports whether the next attempt is limited to the proxies with the tag.
func (q *Query) tagOnly() bool { return q.Tag != 0 && (!q.TagPreferred || q.Attempt == 0) }

// tagStrict reports whether no attempt of the request may use a proxy without the tag.
func (q *Query) tagStrict() bool { return q.Tag != 0 && !q.TagPreferred }

// isRestricted reports whether q excludes proxies by their region or their tags.
func (q *Query) isRestricted() bool {
	return q.RegionMode == RegionStrict || q.Regions != nil || q.tagStrict()
}

// matchesRegion reports whether u is of the wanted region, or can use the region because its credentials have a
// template for regions (Upstream.AnyRegion).
func (q *Query) matchesRegion(u *upstream.Upstream) bool {
	return u.RegionHash() == q.RegionHash || u.AnyRegion() && q.PlainRegion
}

// isExcluded reports whether q excludes u by its region or its tags.
func (q *Query) isExcluded(u *upstream.Upstream) bool {
	return q.tagStrict() && !u.HasTag(q.Tag) || q.RegionMode == RegionStrict && !q.matchesRegion(u) ||
		q.Regions != nil && (!q.Regions.Has(u.RegionHash()) || q.leavesRegions(u))
}

// leavesRegions reports whether u would exit in the wanted region, although q.Regions does not permit this region. Only
// a proxy whose credentials have a template for regions can exit in any region.
func (q *Query) leavesRegions(u *upstream.Upstream) bool {
	return q.RegionMode != RegionScored && q.PlainRegion && u.AnyRegion() && !q.Regions.Has(q.RegionHash)
}

// Reset prepares q for another request. It keeps the memory of Tried.
func (q *Query) Reset() {
	clear(q.Tried)
	*q = Query{Tried: q.Tried[:0]}
}

func (q *Query) hasTried(u *upstream.Upstream) bool {
	for i := range q.Tried {
		if q.Tried[i].Proxy == u {
			return true
		}
	}
	return false
}
