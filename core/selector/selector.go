// Package selector chooses the proxy of the next attempt. A scorer ranks the candidates, which are the
// admissible proxies of a pool snapshot. Only the chosen proxy is acquired.
package selector

import (
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// ErrBarred reports that every admissible proxy is barred for this request, for example because it has
// refused the configured credentials. Another attempt through such a proxy would fail in the same way.
var ErrBarred = errors.New("every admissible proxy is barred for this request")

// DefaultMaxCandidates is the default maximum number of candidates of one choice. In a larger pool the
// candidates are a sample of this size.
const DefaultMaxCandidates = 256

// Tried is a proxy through which a request has been attempted.
type Tried struct {
	Proxy  *upstream.Upstream
	Barred bool // no further attempt of this request may use the proxy
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
	Region              Region
	Regions             *core.Regions // the regions that may be used; nil for all
	Tag                 float64       // core.Hash53 of the tag that a proxy must have; 0 for none
	TagPreferred        bool          // Tag is only preferred (as with RegionPreferred)
	Direct              bool          // no proxy: Pool.Direct is chosen
	Tried               []Tried       // in the order of the attempts
	Session             Session       // the request's session; nil for none
}

// Region is the effect of the wanted region (Query.RegionHash) on the choice of proxies.
type Region uint8

// The effects of a wanted region.
const (
	RegionScored    Region = iota // the region is an input of the scorer
	RegionPreferred               // first attempts use only this region while one of its proxies is admissible
	RegionStrict                  // no attempt uses another region
)

// regionOnly reports whether the next attempt is limited to the wanted region.
func (q *Query) regionOnly() bool {
	return q.Region == RegionStrict || q.Region == RegionPreferred && q.Attempt == 0
}

// tagOnly reports whether the next attempt is limited to the proxies with the tag.
func (q *Query) tagOnly() bool { return q.Tag != 0 && (!q.TagPreferred || q.Attempt == 0) }

// tagStrict reports whether no attempt of the request may use a proxy without the tag.
func (q *Query) tagStrict() bool { return q.Tag != 0 && !q.TagPreferred }

// isRestricted reports whether q must not use some proxies because of their region or their tags.
func (q *Query) isRestricted() bool {
	return q.Region == RegionStrict || q.Regions != nil || q.tagStrict()
}

// matchesRegion reports whether u is of the wanted region, or can use the region because its credentials have a
// template for regions (Upstream.AnyRegion).
func (q *Query) matchesRegion(u *upstream.Upstream) bool {
	return u.RegionHash() == q.RegionHash || u.AnyRegion() && q.PlainRegion
}

// isExcluded reports whether q must not use u because of its region or its tags.
func (q *Query) isExcluded(u *upstream.Upstream) bool {
	return q.tagStrict() && !u.HasTag(q.Tag) || q.Region == RegionStrict && !q.matchesRegion(u) ||
		q.Regions != nil && (!q.Regions.Has(u.RegionHash()) || q.leavesRegions(u))
}

// leavesRegions reports whether u would use the wanted region, and q must not use that region.
func (q *Query) leavesRegions(u *upstream.Upstream) bool {
	return q.Region != RegionScored && q.PlainRegion && u.AnyRegion() && !q.Regions.Has(q.RegionHash)
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

// choice is the state of one choice. The Selector reuses the few choices that are in progress at the same
// time, so that requests need no memory for them.
type choice struct {
	*Query
	now           time.Time
	elapsed       time.Duration // since the epoch of the pool (Pool.Elapsed)
	turn          uint64
	seed          uint64
	poolSize      int
	resting       rest.Resting    // the proxies that rest for the target's host
	banned        rest.Resting    // the banned proxies
	avoided       rest.Resting    // the proxies that are avoided for the target (upstream.Pool.Avoided)
	uncompared    rest.Resting    // the proxies that are uncompared at the target (upstream.Pool.Uncompared)
	firstHasTurn  bool            // the first candidate is the proxy whose turn it is
	checkLimits   bool            // a proxy of the pool, or a pair with the target's host, has limits
	pairLimits    limit.Pairs     // the limits of pairs with the target's host
	tiers         []upstream.Tier // of the pool; nil if there is only one tier
	allProxies    *upstream.Group // the whole pool
	hasTier       bool            // the candidates must be of the tier in the next field
	tier          int32
	onlyPreferred bool // candidates must have the wanted region and the tag, even if these are only preferred
	byAbility     bool // proxies known to lack the ability that the request needs are left out
	candidates    []*upstream.Upstream
	scores        []float64
	lease         upstream.Lease // of the chosen proxy
}

// Selector is safe for concurrent use.
type Selector struct {
	pool            *upstream.Pool
	rand            func() uint64
	maxCandidates   int
	rests           *rest.Rests
	bans            *rest.Rests // banned proxies, as pairs with the host ""
	limits          *limit.Table
	tierAttempts    atomic.Int32 // see SetTierAttempts
	turn            atomic.Uint64
	nextExploration atomic.Uint64 // the first turn at which an idle proxy may be explored
	allOpen         atomic.Pointer[allOpenRecord]
	tieTurn         atomic.Uint64 // number of ties in choices for retries
	choices         sync.Pool     // of *choice
}

// allOpenRecord records that all breakers are open. The record is valid until the pool changes or a breaker
// becomes half-open.
type allOpenRecord struct {
	changes uint64 // Pool.Changes when this was recorded
	until   time.Time
}

// New returns a Selector for the proxies of pool. rand is its only source of randomness.
// maxCandidates limits the candidates of one choice.
func New(pool *upstream.Pool, rand func() uint64, maxCandidates int) *Selector {
	s := &Selector{
		pool: pool, rand: rand, maxCandidates: max(maxCandidates, 1),
		rests: rest.New(rest.DefaultMax), bans: rest.New(rest.DefaultMax),
		limits: limit.NewTable(limit.DefaultMax),
	}
	s.SetTierAttempts(DefaultTierAttempts)
	return s
}

// Rests returns the resting pairs. A proxy is not chosen for a host for which it rests.
func (s *Selector) Rests() *rest.Rests { return s.rests }

// AllHosts is the hash of the host "". In Bans, a banned proxy is a pair with this host.
const AllHosts = 0

// Bans returns the banned proxies: pairs with the host "", whose hash is AllHosts. A banned proxy is not chosen for
// any host.
func (s *Selector) Bans() *rest.Rests { return s.bans }

// Limits returns the limits of pairs of a proxy and a host. A proxy at a limit is no candidate.
func (s *Selector) Limits() *limit.Table { return s.limits }

// NextTestTime returns the earliest time at which a proxy whose breaker is not closed may become admissible:
// Pool.NextTestTime or, if earlier, Pool.NextCheck. It returns false if all breakers are closed.
func (s *Selector) NextTestTime() (time.Time, bool) {
	test, ok := s.pool.NextTestTime()
	if check, planned := s.pool.NextCheck(); ok && planned && check.Before(test) {
		return check, true
	}
	return test, ok
}

// Select chooses a proxy at the time now and acquires it. If the scorer fails, the candidates are chosen in turn
// (core.Candidate.Rotation). The errors are:
//
//   - core.ErrPoolEmpty or core.ErrAllBreakersOpen, if q may use every proxy;
//   - a *core.RegionError in place of these two, if q has RegionStrict or Regions;
//   - a *core.TagError in place of the first two, if q has a Tag that is not preferred;
//   - a *core.SessionError in place of all errors above and of a *core.RestingError, if q has a strict session with a
//     proxy;
//   - core.ErrAllBusy, a *core.LimitedError, a *core.RestingError or ErrBarred.
func (s *Selector) Select(q *Query, scorer core.Scorer, now time.Time) (upstream.Lease, error) {
	if q.Direct {
		return s.acquireDirect(now)
	}
	snap, changes := s.pool.Snapshot(), s.pool.Changes()
	switch {
	case q.isSessionBound(): // a *core.SessionError takes the place of the errors below
	case q.isRestricted() && (len(snap.All) == 0 || s.isAllOpen(changes, now)):
		return upstream.Lease{}, s.limitError(q, now)
	case len(snap.All) == 0:
		return upstream.Lease{}, core.ErrPoolEmpty
	case s.isAllOpen(changes, now):
		return upstream.Lease{}, core.ErrAllBreakersOpen
	}
	c := s.newChoice(q, now)
	defer s.releaseChoice(c)
	err := s.choose(c, snap, scorer)
	if err == core.ErrAllBreakersOpen && !q.isSessionBound() && !q.isRestricted() && s.pool.ProbeEarly() {
		err = s.choose(c, snap, scorer)
	}
	switch {
	case err == nil || q.isSessionBound():
	case q.isRestricted() && (err == core.ErrAllBreakersOpen || err == core.ErrPoolEmpty):
		err = s.limitError(q, now)
	case err == core.ErrAllBreakersOpen:
		// If this time has passed, a probe is in flight, and may end at any time.
		if at, ok := s.pool.NextTestTime(); ok && at.After(now) {
			s.allOpen.Store(&allOpenRecord{changes, at})
		}
	}
	return c.lease, err
}

// acquireDirect returns a lease for an attempt without a proxy.
func (s *Selector) acquireDirect(now time.Time) (upstream.Lease, error) {
	if lease, ok := s.pool.Direct().Acquire(now); ok {
		return lease, nil
	}
	return upstream.Lease{}, core.ErrAllBusy
}

func (s *Selector) newChoice(q *Query, now time.Time) *choice {
	c, ok := s.choices.Get().(*choice)
	if !ok {
		c = &choice{}
	}
	c.Query, c.now, c.elapsed = q, now, s.pool.Elapsed(now)
	c.byAbility = s.pool.LacksAbilities()
	c.resting, c.banned = s.rests.RestingAt(uint64(q.HostHash)), s.bans.RestingAt(AllHosts)
	c.avoided, c.uncompared = s.pool.Avoided().RestingAt(q.TargetHash), s.pool.Uncompared().RestingAt(q.TargetHash)
	if !s.limits.Empty() {
		c.pairLimits = s.limits.PairsOf(q.Host, uint64(q.HostHash))
	}
	c.checkLimits = c.pairLimits.HaveLimit() || s.pool.HasLimits()
	return c
}

func (s *Selector) releaseChoice(c *choice) {
	c.Query, c.resting, c.banned, c.avoided, c.uncompared = nil, nil, nil, nil, nil
	c.pairLimits, c.tiers, c.allProxies, c.lease = limit.Pairs{}, nil, nil, upstream.Lease{}
	s.choices.Put(c)
}

// choose chooses and acquires a proxy. If it returns nil, c.lease holds the proxy.
func (s *Selector) choose(c *choice, snap *upstream.Snapshot, scorer core.Scorer) error {
	c.poolSize, c.tiers = len(snap.All), snap.Tiers()
	c.turn = s.turn.Load()
	if c.Attempt == 0 && c.Session == nil {
		c.turn = s.turn.Add(1) - 1
		if s.chooseOverdueProbe(c, snap) || s.chooseExploration(c, snap) {
			return nil
		}
		if g := c.requiredGroup(snap); g != nil {
			c.turn = g.Turn.Add(1) - 1 // each region and each tag has its own rotation
		}
	}
	err := s.chooseAble(c, snap, scorer)
	// If no proxy with the ability can be chosen, the choice is repeated among all proxies, because the recorded
	// abilities may be wrong. If proxies with the ability are only busy, the request waits for them.
	if err != nil && !core.IsBusy(err) && c.byAbility {
		c.byAbility = false
		return s.chooseAble(c, snap, scorer)
	}
	return err
}

// chooseAble chooses and acquires a proxy. With byAbility, the proxy must have the ability that the request needs.
// Unless breaker.blame is "literal", a retry is a probe only if no candidate has a closed breaker
// (docs/decisions/open-time.md).
func (s *Selector) chooseAble(c *choice, snap *upstream.Snapshot, scorer core.Scorer) error {
	if c.Session != nil {
		return s.chooseForSession(c, snap)
	}
	s.gatherCandidates(c, snap)
	if len(c.candidates) == 0 {
		return s.chooseTried(c, snap)
	}
	if c.Attempt > 0 && !s.pool.Literal() {
		c.keepIf(func(u *upstream.Upstream) bool { return u.Breaker().State() == core.Closed })
	}
	if len(c.avoided) > 0 || len(c.uncompared) > 0 {
		s.dropAvoided(c)
	}
	c.keepPreferred()
	return s.chooseBest(c, scorer)
}

// dropAvoided keeps the candidates that the choice does not avoid. A target that bans proxies and now fails through
// other proxies may have lifted the bans, and may have banned the other proxies instead. The choice then does not use a
// proxy through which the target has just failed. Retries may use the proxies that the choice would otherwise avoid.
// First attempts may use these proxies only if there is no other candidate.
func (s *Selector) dropAvoided(c *choice) {
	if c.avoided.AnyRests(c.elapsed) {
		if failing := s.pool.Ledger().Failing(c.TargetHash, c.elapsed); failing.TargetFails() {
			c.keepIf(func(u *upstream.Upstream) bool { return !failing.FailedThrough(u.Hash()) })
			if c.Attempt > 0 {
				return
			}
		}
	}
	c.keepIf(func(u *upstream.Upstream) bool { return !c.isAvoided(u) })
}

// hasAbility reports whether u has the ability that the request needs. It returns true if the ability is unknown or
// does not matter.
func (c *choice) hasAbility(u *upstream.Upstream) bool {
	return !c.byAbility || u.MeetsNeed(c.Need, c.elapsed)
}

func (s *Selector) isAllOpen(changes uint64, now time.Time) bool {
	found := s.allOpen.Load()
	return found != nil && found.changes == changes && now.Before(found.until)
}

// chooseOverdueProbe chooses a proxy whose breaker has been half-open for too long, because no scorer has
// chosen the proxy. The attempt is the probe. It returns false if there is no such proxy.
func (s *Selector) chooseOverdueProbe(c *choice, snap *upstream.Snapshot) bool {
	for _, u := range s.pool.OverdueProbes() {
		if !u.Draining() && c.mayUse(u, snap) && c.hasAbility(u) && !c.isResting(u) && !c.isAvoided(u) &&
			c.inFirstTier(u) && u.Breaker().ProbeOverdue() && c.acquire(u) {
			return true
		}
	}
	return false
}

// mayUse reports whether the wanted region and the tag permit an attempt of the request through u.
func (c *choice) mayUse(u *upstream.Upstream, snap *upstream.Snapshot) bool {
	return !c.isExcluded(u) &&
		(!c.regionOnly() || c.matchesRegion(u) || snap.Region(c.RegionHash) == nil) &&
		(!c.tagOnly() || u.HasTag(c.Tag) || snap.Tag(c.Tag) == nil)
}

// requiredGroup returns the group of the proxies to which the next attempt is limited: the proxies with the tag, or the
// proxies of the region. If the attempt is limited to both, requiredGroup returns the smaller of the two groups. It
// returns nil if the attempt is not limited. It also returns nil if no proxy has the tag or, if there is no tag, no
// proxy is of the region.
func (c *choice) requiredGroup(snap *upstream.Snapshot) *upstream.Group {
	tag, region := c.tagOnly(), c.regionOnly()
	switch {
	case tag && region:
		t, r := snap.Tag(c.Tag), snap.Region(c.RegionHash)
		if t == nil || r == nil || len(t.All) <= len(r.All) {
			return t
		}
		return r
	case tag:
		return snap.Tag(c.Tag)
	case region:
		return snap.Region(c.RegionHash)
	}
	return nil
}

// Limits on explorations: the number of first attempts between two explorations.
const (
	exploreEvery = 20
	trialEvery   = 5 // if the next exploration is part of a trial (Upstream.OnTrial)
)

// chooseExploration chooses a proxy whose exploration is due (Upstream.ExplorationDue), if the request is idempotent
// and can be retried. It returns false if there is no such proxy.
func (s *Selector) chooseExploration(c *choice, snap *upstream.Snapshot) bool {
	list := s.pool.DueExplorations()
	if len(list) == 0 || !c.Idempotent || !c.Retryable {
		return false
	}
	from := s.nextExploration.Load()
	for _, u := range list {
		if c.turn+exploreEvery-trialEvery < from {
			break
		}
		_, due := u.ExplorationDue(c.elapsed)
		if !due || c.turn < from && !u.OnTrial() || !c.mayUse(u, snap) || !c.hasAbility(u) || c.isResting(u) ||
			c.isLimited(u) || !c.inFirstTier(u) || c.isAvoided(u) {
			continue
		}
		if !s.nextExploration.CompareAndSwap(from, c.turn+exploreEvery) {
			break // another request makes this exploration
		}
		if !c.acquire(u) {
			return false
		}
		u.CountExploration()
		return true
	}
	return false
}

// gatherCandidates sets the candidates: the admissible proxies that the request has not tried, or a sample of them. If
// the attempt is limited to a region or a tag, the candidates are proxies of that region with that tag. If there is no
// such candidate, a preferred region or tag is ignored.
func (s *Selector) gatherCandidates(c *choice, snap *upstream.Snapshot) {
	c.tiers, c.allProxies = snap.Tiers(), snap.Group
	tag, region := c.tagOnly(), c.regionOnly()
	if tag || region {
		c.candidates = c.candidates[:0]
		if g := c.requiredGroup(snap); g != nil {
			// g is the group of the region or the group of the tag. Its proxies may lack the other property. The
			// group of a region also contains the proxies that can use every plain region.
			c.onlyPreferred = tag && region || region && !c.PlainRegion
			s.gatherFrom(c, g)
			c.onlyPreferred = false
		}
		if len(c.candidates) > 0 || (!tag || c.tagStrict()) && (!region || c.Region == RegionStrict) {
			return
		}
	}
	if tag && region && !c.tagStrict() { // the region is preferred to the tag
		if g := snap.Region(c.RegionHash); g != nil {
			if s.gatherFrom(c, g); len(c.candidates) > 0 {
				return
			}
		}
	}
	switch {
	case c.tagStrict():
		if g := snap.Tag(c.Tag); g != nil {
			s.gatherFrom(c, g)
		}
	case c.Region == RegionStrict:
		if g := snap.Region(c.RegionHash); g != nil {
			s.gatherFrom(c, g)
		}
	default:
		s.gatherFrom(c, snap.Group)
	}
}

// keepPreferred removes the candidates that are not preferred (Upstream.Preferred). If no candidate is preferred, it
// removes only the candidates that cannot be reached. If no candidate can be reached, it removes none.
func (c *choice) keepPreferred() {
	if allProven(c.candidates) {
		return
	}
	preferred, reached := 0, 0
	for _, u := range c.candidates {
		if u.Preferred(c.elapsed) {
			preferred++
		}
		if !u.IsUnreached() {
			reached++
		}
	}
	switch n := len(c.candidates); {
	case preferred == n:
	case preferred > 0:
		c.keepIf(func(u *upstream.Upstream) bool { return u.Preferred(c.elapsed) })
	case reached > 0 && reached < n:
		c.keepIf(func(u *upstream.Upstream) bool { return !u.IsUnreached() })
	}
}

// allProven reports whether every proxy is proven (Upstream.Proven). In most choices, all candidates are proven.
func allProven(list []*upstream.Upstream) bool {
	for _, u := range list {
		if !u.Proven() {
			return false
		}
	}
	return true
}

// keepIf removes the candidates for which the function ok returns false. If this would remove all candidates,
// the method removes none.
func (c *choice) keepIf(ok func(*upstream.Upstream) bool) {
	all := c.candidates
	c.candidates = c.candidates[:0]
	for _, u := range all {
		if ok(u) {
			c.candidates = append(c.candidates, u)
		}
	}
	if len(c.candidates) == 0 { // possible even if ok returned true before: other requests take places in flight
		c.candidates = all
	}
}

// gatherFrom sets the candidates from a group of proxies. All candidates are of one tier.
func (s *Selector) gatherFrom(c *choice, group *upstream.Group) {
	if len(c.tiers) == 0 {
		s.collectGroup(c, group)
		return
	}
	s.collectTiers(c, group)
}

func (s *Selector) collectGroup(c *choice, group *upstream.Group) {
	c.candidates = c.candidates[:0]
	if len(group.All) > s.maxCandidates {
		s.sampleGroup(c, group)
		return
	}
	c.firstHasTurn = len(c.Tried) > 0
	untried := c.skipsChecks()
	// The rotation of a retry begins after the proxy that was tried last.
	begin := 0
	if n := len(c.Tried); n > 0 {
		begin = slices.Index(group.All, c.Tried[n-1].Proxy) + 1
	}
	for _, part := range [2][]*upstream.Upstream{group.All[begin:], group.All[:begin]} {
		for _, u := range part {
			if untried && u.ClosedAndNotFull() || c.isAdmissible(u) {
				c.candidates = append(c.candidates, u)
			}
		}
	}
}

// isAvoided reports whether another proxy should be used for the target, because the target refuses u,
// or because an attempt through another proxy would show whether u or the target fails.
func (c *choice) isAvoided(u *upstream.Upstream) bool {
	_, avoided := c.avoided.EndOf(u.Hash(), c.elapsed)
	_, uncompared := c.uncompared.EndOf(u.Hash(), c.elapsed)
	return avoided || uncompared
}

// isResting reports whether u rests for the target's host, or is banned.
func (c *choice) isResting(u *upstream.Upstream) bool {
	_, rests := c.exclusions().until(u, c.elapsed)
	return rests
}

// exclusions holds the proxies that rest for a host or are banned, and so must not be chosen at present.
type exclusions struct{ resting, banned rest.Resting }

func (c *choice) exclusions() exclusions { return exclusions{c.resting, c.banned} }

// exclusionsFor returns the proxies that must not be chosen for the target's host.
func (s *Selector) exclusionsFor(q *Query) exclusions {
	return exclusions{s.rests.RestingAt(uint64(q.HostHash)), s.bans.RestingAt(AllHosts)}
}

// until returns the time until which u must not be chosen: the end of its rest or, if later, of its ban. The second
// result is false if u may be chosen now.
func (e exclusions) until(u *upstream.Upstream, at time.Duration) (until time.Duration, excluded bool) {
	if len(e.resting) == 0 && len(e.banned) == 0 {
		return 0, false
	}
	rest, rests := e.resting.EndOf(u.Hash(), at)
	ban, banned := e.banned.EndOf(u.Hash(), at)
	return max(rest, ban), rests || banned
}

// sampleGroup sets the candidates from a large group. The first candidate is the proxy whose turn it is, or the next
// admissible proxy after it. With this proxy, a rotation covers a pool of any size. The other candidates are
// neighbours in the mixed order (Group.Mixed), beginning at a random index. Most of them are also neighbours in
// memory, which makes reading them fast.
func (s *Selector) sampleGroup(c *choice, group *upstream.Group) {
	c.firstHasTurn = true
	all := group.All
	n := uint64(len(all))
	var first *upstream.Upstream
	for i := range uint64(s.maxCandidates) {
		if u := all[(c.turn+i)%n]; c.isAdmissible(u) {
			first = u
			c.candidates = append(c.candidates, u)
			break
		}
	}
	at, untried := int(s.rand()%n), c.skipsChecks()
	for i := 0; i < s.maxCandidates && len(c.candidates) < s.maxCandidates; i++ {
		if u := group.Mixed[at]; u != first && (untried && u.ClosedAndNotFull() || c.isAdmissible(u)) {
			c.candidates = append(c.candidates, u)
		}
		if at++; at == len(all) {
			at = 0
		}
	}
	if len(c.candidates) == 0 { // few proxies are admissible: check all of them
		for _, u := range all {
			if c.isAdmissible(u) && len(c.candidates) < s.maxCandidates {
				c.candidates = append(c.candidates, u)
			}
		}
	}
}

// isAdmissible reports whether u may be a candidate. A proxy with a half-open breaker is a candidate only if
// the request is idempotent, because the attempt would be the probe, which is likely to fail.
func (c *choice) isAdmissible(u *upstream.Upstream) bool {
	return u.Admissible(c.elapsed, c.Idempotent) && !(len(c.Tried) > 0 && c.hasTried(u)) && c.hasAbility(u) &&
		!c.isResting(u) && !c.isExcluded(u) && !c.outsideTier(u) && !c.isLimited(u) && !c.isNotPreferred(u)
}

// isNotPreferred reports whether u lacks the wanted region or the tag that the candidates being collected must have.
func (c *choice) isNotPreferred(u *upstream.Upstream) bool {
	return c.onlyPreferred && (c.tagOnly() && !u.HasTag(c.Tag) || c.regionOnly() && !c.matchesRegion(u))
}

// skipsChecks reports whether Upstream.ClosedAndNotFull is enough for a proxy of the group to be a candidate, so that
// choice.isAdmissible need not be called. This is the case if the request has tried no proxy, no proxy rests or is
// banned, and no proxy of the group can be excluded by an ability, a region, a tag, a limit or a tier.
func (c *choice) skipsChecks() bool {
	return len(c.Tried) == 0 && len(c.resting) == 0 && len(c.banned) == 0 && !c.byAbility &&
		!c.checkLimits && !c.hasTier && !c.onlyPreferred &&
		c.Regions == nil && (c.Region != RegionStrict || c.PlainRegion && c.Tag == 0) &&
		(c.Region == RegionScored || !c.tagStrict())
}

// HasUntried reports whether a proxy that q has not tried is admissible at the time now.
func (s *Selector) HasUntried(q *Query, now time.Time) bool {
	if q.isSessionBound() || q.Direct {
		return false
	}
	c := s.newChoice(q, now)
	defer s.releaseChoice(c)
	s.gatherCandidates(c, s.pool.Snapshot())
	return len(c.candidates) > 0
}

// CheckSelect returns the reason why no proxy at all can be chosen for q at the time now: core.ErrPoolEmpty,
// core.ErrAllBreakersOpen, a *core.RestingError, a *core.RegionError, a *core.TagError or a *core.SessionError. It
// returns nil if a proxy can be chosen, even if this proxy has reached max_in_flight or another limit.
func (s *Selector) CheckSelect(q *Query, now time.Time) error {
	if q.Direct {
		return nil
	}
	snap, excluded, at := s.pool.Snapshot(), s.exclusionsFor(q), s.pool.Elapsed(now)
	if q.isSessionBound() {
		return s.sessionBlocked(q, snap, excluded, now)
	}
	if q.isRestricted() {
		err := q.errorOf(snap.All, excluded, at)
		if err == core.ErrPoolEmpty || err == core.ErrAllBreakersOpen {
			err = s.limitError(q, now)
		}
		return err
	}
	if s.isAllOpen(s.pool.Changes(), now) {
		return core.ErrAllBreakersOpen
	}
	return q.errorOf(snap.All, excluded, at)
}

// errorOf is CheckSelect for a list of proxies. The parameter at is the current time (Pool.Elapsed).
func (q *Query) errorOf(all []*upstream.Upstream, excluded exclusions, at time.Duration) error {
	err, soonest, rest := core.ErrPoolEmpty, time.Duration(math.MaxInt64), false
	for _, u := range all {
		if u.Draining() || q.isExcluded(u) {
			continue
		}
		until, found := excluded.until(u, at)
		switch {
		case !u.BreakerAdmits(at):
			err = core.ErrAllBreakersOpen
		case !found:
			return nil
		default:
			soonest = min(soonest, until)
			_, banned := excluded.banned.EndOf(u.Hash(), at)
			rest = rest || !banned
		}
	}
	// If some breakers are open and all other proxies are banned, the result is ErrAllBreakersOpen, because an open
	// breaker is usually due before a ban ends.
	if soonest < math.MaxInt64 && (rest || err != core.ErrAllBreakersOpen) {
		return &core.RestingError{TimeLeft: soonest - at, AllBanned: !rest}
	}
	return err
}

// chooseTried chooses a proxy if there is no candidate. The first choice is an untried proxy: its breaker may be
// half-open even if the request is not idempotent. The second choice is the proxy that the request tried longest ago.
func (s *Selector) chooseTried(c *choice, snap *upstream.Snapshot) error {
	busy, barred := false, false
	limited := soonestLimit{}
	acquire := func(u *upstream.Upstream) bool {
		switch {
		case u.Draining() || c.isExcluded(u) || !u.BreakerAdmits(c.elapsed) || !c.hasAbility(u) || c.isResting(u):
			return false
		case u.Full():
			busy = true
			return false
		}
		if state, admits := c.limit(u); !admits {
			limited.add(state)
			return false
		}
		return c.acquire(u)
	}
	for _, u := range snap.All {
		if c.hasTried(u) {
			continue
		}
		if acquire(u) {
			return nil
		}
	}
	for i, t := range c.Tried {
		if slices.ContainsFunc(c.Tried[i+1:], func(later Tried) bool { return later.Proxy == t.Proxy }) {
			continue
		}
		if t.Barred {
			barred = barred || !t.Proxy.Draining() && !c.isExcluded(t.Proxy) && t.Proxy.BreakerAdmits(c.elapsed)
			continue
		}
		if acquire(t.Proxy) {
			return nil
		}
	}
	switch {
	case limited.found:
		return limited.error(c.now, busy)
	case busy:
		return core.ErrAllBusy
	case barred:
		return ErrBarred
	}
	if err := c.errorOf(snap.All, c.exclusions(), c.elapsed); err != nil && err != core.ErrAllBreakersOpen {
		return err
	}
	return core.ErrAllBreakersOpen
}

// limitError returns the error of a request that is limited to some proxies, none of which is admissible.
func (s *Selector) limitError(q *Query, now time.Time) error {
	var due time.Time
	for _, u := range s.pool.NotClosed() {
		if q.isExcluded(u) {
			continue
		}
		v := u.Breaker().Snapshot()
		if v.State == core.HalfOpen {
			v.NextTest = now // the probe in flight may end at any time
		}
		if due.IsZero() || v.NextTest.Before(due) {
			due = v.NextTest
		}
	}
	if q.tagStrict() {
		return &core.TagError{Due: due}
	}
	return &core.RegionError{Due: due}
}

// chooseBest ranks the candidates and acquires the best one that can be acquired.
func (s *Selector) chooseBest(c *choice, scorer core.Scorer) error {
	scores, tolerance := s.rank(c, scorer)
	for len(scores) > 0 {
		i := s.pick(c, scores, tolerance)
		if c.acquire(c.candidates[i]) {
			return nil
		}
		// The candidate is no longer admissible, because of another request. Choose among the other candidates.
		last := len(scores) - 1
		scores[i], c.candidates[i] = scores[last], c.candidates[last]
		scores, c.candidates = scores[:last], c.candidates[:last]
	}
	return s.chooseTried(c, s.pool.Snapshot())
}

// rank computes the scores of the candidates. If the scorer fails, the rotation determines the scores.
func (s *Selector) rank(c *choice, scorer core.Scorer) (scores []float64, tolerance float64) {
	n := len(c.candidates)
	if cap(c.scores) < n {
		c.scores = make([]float64, max(n, 16))
	}
	scores = c.scores[:n]
	if n == 1 {
		scores[0] = 0
		return scores, 0
	}
	c.seed = s.rand()
	if err := scorer.Score(c, scores); err != nil {
		distance := c.firstRotation()
		for i := range scores {
			scores[i] = -float64(distance)
			distance = c.nextRotation(distance)
		}
		return scores, 0
	}
	if t, ok := scorer.(core.Tolerance); ok {
		tolerance = t.Tolerance()
	}
	return scores, tolerance
}

// pick returns the index of the best candidate. Scores within the tolerance of the best score count as equal. Among
// equal candidates, the one with the least load (Upstream.Load) is the best. If several of them have the least load,
// a first attempt takes the candidate that is next in the rotation. Retries take these candidates in turn; the turns
// are counted over all requests.
func (s *Selector) pick(c *choice, scores []float64, tolerance float64) int {
	best := math.Inf(-1)
	for _, score := range scores {
		if score > best { // false for NaN
			best = score
		}
	}
	floor := best - tolerance*math.Abs(best)
	chosen, equals, load := 0, 0, math.Inf(1)
	for i, score := range scores {
		if !(score >= floor) {
			continue
		}
		switch l := c.candidates[i].Load(); {
		case l < load:
			chosen, equals, load = i, 1, l
		case l == load:
			equals++
		}
	}
	if equals < 2 {
		return chosen
	}
	// The load of a candidate may have changed since the loop above read it. If no later candidate has the least load
	// any more, the last candidate found is chosen.
	turn := c.turn
	switch {
	case c.Attempt > 0:
		turn = s.tieTurn.Add(1) - 1
	case c.firstHasTurn:
		turn = 0
	}
	turn %= uint64(equals)
	for i := chosen + 1; i < len(scores) && turn > 0; i++ {
		if scores[i] >= floor && c.candidates[i].Load() == load {
			chosen = i
			turn--
		}
	}
	return chosen
}

// firstRotation returns the rotation distance (core.Candidate.Rotation) of the first candidate. The distance of the
// next candidate is larger by one; the distance 0 follows the largest distance.
func (c *choice) firstRotation() int {
	n := len(c.candidates)
	if c.firstHasTurn || n == 0 {
		return 0
	}
	if turn := int(c.turn % uint64(n)); turn > 0 {
		return n - turn
	}
	return 0
}

// nextRotation returns the rotation distance of the candidate after the one with the given
// distance.
func (c *choice) nextRotation(distance int) int {
	if distance++; distance == len(c.candidates) {
		return 0
	}
	return distance
}

var _ core.Candidates = (*choice)(nil)

// Len implements core.Candidates.
func (c *choice) Len() int { return len(c.candidates) }

// Fill implements core.Candidates.
func (c *choice) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = core.RankRequest{
		Count: float64(len(c.candidates)), Now: float64(c.now.UnixNano()) / 1e9, Attempt: float64(c.Attempt),
		Turn: float64(c.turn), Seed: float64(c.seed >> 11), HostHash: c.HostHash, RegionHash: c.RegionHash,
		PoolSize: float64(c.poolSize), Idempotent: toFloat(c.Idempotent), Connect: toFloat(c.Connect),
	}
	slowest, distance := 0.0, c.firstRotation()
	rows = rows[:len(c.candidates)]
	for i, u := range c.candidates {
		row := &rows[i]
		u.Fill(row, c.elapsed, c.RegionHash)
		row.AffinityHash = core.Pair53(u.IDHash(), c.HostHash)
		row.Rotation = float64(distance)
		distance = c.nextRotation(distance)
		if row.LatencyMean > slowest {
			slowest = row.LatencyMean
		}
	}
	normalize(rows, slowest)
}

// Normalize sets NormalizedLatency in all rows. It is meant for rows that Fill has not filled.
func Normalize(rows []core.Candidate) {
	slowest := 0.0
	for i := range rows {
		slowest = max(slowest, rows[i].LatencyMean)
	}
	normalize(rows, slowest)
}

func normalize(rows []core.Candidate, slowest float64) {
	for i := range rows {
		c := &rows[i]
		switch {
		case c.LatencyMean > 0:
			c.NormalizedLatency = (c.LatencyMean + latencyNoise) / (slowest + latencyNoise)
		case c.Samples == 0:
			c.NormalizedLatency = 0.5 // unknown: in the middle
		case c.SuccessRate == 0:
			c.NormalizedLatency = 1 // the proxy has never succeeded
		default:
			c.NormalizedLatency = 0
		}
	}
}

// latencyNoise (seconds) is added to latencies before they are compared, so that a difference of a fraction
// of a millisecond has little effect.
const latencyNoise = 0.010

func toFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
