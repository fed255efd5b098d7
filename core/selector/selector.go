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

// ErrBarred reports that every admissible proxy is barred for this request (Tried.Barred).
var ErrBarred = errors.New("every admissible proxy is barred for this request")

// DefaultMaxCandidates is the default maximum number of candidates. In a larger pool the candidates are a sample.
const DefaultMaxCandidates = 256

// Tried is a proxy through which a request has been attempted.
type Tried struct {
	Proxy  *upstream.Upstream
	Barred bool // no further attempt may use the proxy, which has refused its credentials, for example
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

// choice is the state of one choice. The Selector reuses choices, so that requests need no memory for them.
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

// allOpenRecord records that all breakers are open, until the pool changes or a breaker becomes half-open.
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
		return upstream.Lease{}, s.restrictedError(q, now)
	case len(snap.All) == 0:
		return upstream.Lease{}, core.ErrPoolEmpty
	case s.isAllOpen(changes, now):
		return upstream.Lease{}, core.ErrAllBreakersOpen
	}
	c := s.newChoice(q, now)
	defer s.releaseChoice(c)
	err := s.chooseProxy(c, snap, scorer)
	if err == core.ErrAllBreakersOpen && !q.isSessionBound() && !q.isRestricted() && s.pool.ProbeEarly() {
		err = s.chooseProxy(c, snap, scorer)
	}
	switch {
	case err == nil || q.isSessionBound():
	case q.isRestricted() && (err == core.ErrAllBreakersOpen || err == core.ErrPoolEmpty):
		err = s.restrictedError(q, now)
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
	c.pairLimits, c.tiers, c.allProxies = limit.Pairs{}, nil, nil
	c.lease = upstream.Lease{}
	s.choices.Put(c)
}

// chooseProxy chooses and acquires a proxy. If it returns nil, c.lease holds the proxy.
func (s *Selector) chooseProxy(c *choice, snap *upstream.Snapshot, scorer core.Scorer) error {
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
	// The recorded abilities may be wrong. But the request waits for proxies that are only busy.
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

// dropAvoided removes the avoided candidates. If the target now fails through other proxies, it may have banned these
// instead: they are removed first, and retries may then use the avoided candidates.
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

// hasAbility reports whether u is not known to lack the ability that the request needs.
func (c *choice) hasAbility(u *upstream.Upstream) bool {
	return !c.byAbility || u.MeetsNeed(c.Need, c.elapsed)
}

func (s *Selector) isAllOpen(changes uint64, now time.Time) bool {
	found := s.allOpen.Load()
	return found != nil && found.changes == changes && now.Before(found.until)
}

// chooseOverdueProbe chooses a proxy whose probe is overdue, because no scorer has chosen the proxy. It returns false
// if there is none.
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

// requiredGroup returns the proxies to which the next attempt is limited by its tag or region; the smaller group if it
// is limited by both. It returns nil if the attempt is not limited, or if there is no such proxy.
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

// chooseExploration chooses a proxy whose exploration is due, if the request is idempotent and can be retried. It
// returns false if there is no such proxy.
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

// gatherCandidates sets the candidates: the admissible proxies that the request has not tried, or a sample of them.
// They are of the wanted region with the tag. If there is no such proxy, a preferred region or tag is ignored.
func (s *Selector) gatherCandidates(c *choice, snap *upstream.Snapshot) {
	c.tiers, c.allProxies = snap.Tiers(), snap.Group
	tag, region := c.tagOnly(), c.regionOnly()
	if tag || region {
		c.candidates = c.candidates[:0]
		if g := c.requiredGroup(snap); g != nil {
			// The proxies of g may lack the tag or the region. The group of a region also contains the proxies that
			// can use every plain region.
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

// keepPreferred keeps the preferred candidates (Upstream.Preferred). If there are none, it keeps those that can be
// reached.
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

func allProven(list []*upstream.Upstream) bool {
	for _, u := range list {
		if !u.Proven() {
			return false
		}
	}
	return true
}

// keepIf removes the candidates for which ok returns false, unless these are all.
func (c *choice) keepIf(ok func(*upstream.Upstream) bool) {
	all := c.candidates
	c.candidates = c.candidates[:0]
	for _, u := range all {
		if ok(u) {
			c.candidates = append(c.candidates, u)
		}
	}
	if len(c.candidates) == 0 {
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

// isAvoided reports whether another proxy should be used for the target: the target refuses u, or an attempt through
// another proxy would show whether u or the target fails.
func (c *choice) isAvoided(u *upstream.Upstream) bool {
	_, avoided := c.avoided.EndOf(u.Hash(), c.elapsed)
	_, uncompared := c.uncompared.EndOf(u.Hash(), c.elapsed)
	return avoided || uncompared
}

// isResting reports whether u rests for the target's host, or is banned.
func (c *choice) isResting(u *upstream.Upstream) bool {
	_, rests := c.exclusions().excludedUntil(u, c.elapsed)
	return rests
}

// exclusions holds the proxies that rest for a host or are banned, and so must not be chosen at present.
type exclusions struct{ resting, banned rest.Resting }

func (c *choice) exclusions() exclusions { return exclusions{c.resting, c.banned} }

// exclusionsFor returns the proxies that must not be chosen for the target's host.
func (s *Selector) exclusionsFor(q *Query) exclusions {
	return exclusions{s.rests.RestingAt(uint64(q.HostHash)), s.bans.RestingAt(AllHosts)}
}

// excludedUntil returns the time until which u must not be chosen: the end of its rest or, if later, of its
// ban. The second result is false if u may be chosen now.
func (e exclusions) excludedUntil(u *upstream.Upstream, at time.Duration) (until time.Duration, excluded bool) {
	if len(e.resting) == 0 && len(e.banned) == 0 {
		return 0, false
	}
	rest, rests := e.resting.EndOf(u.Hash(), at)
	ban, banned := e.banned.EndOf(u.Hash(), at)
	return max(rest, ban), rests || banned
}

// sampleGroup sets the candidates from a large group. The first candidate is the admissible proxy whose turn it is, so
// that a rotation covers the whole group. The others are neighbours in Group.Mixed, most of which are neighbours in
// memory.
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

// isAdmissible reports whether u may be a candidate. Only an idempotent request may be the probe of a half-open
// breaker, because a probe is likely to fail.
func (c *choice) isAdmissible(u *upstream.Upstream) bool {
	return u.Admissible(c.elapsed, c.Idempotent) && !(len(c.Tried) > 0 && c.hasTried(u)) && c.hasAbility(u) &&
		!c.isResting(u) && !c.isExcluded(u) && !c.outsideTier(u) && !c.isLimited(u) && !c.isNotPreferred(u)
}

// isNotPreferred reports whether u lacks a region or tag that onlyPreferred requires.
func (c *choice) isNotPreferred(u *upstream.Upstream) bool {
	return c.onlyPreferred && (c.tagOnly() && !u.HasTag(c.Tag) || c.regionOnly() && !c.matchesRegion(u))
}

// skipsChecks reports whether isAdmissible is true for every proxy for which Upstream.ClosedAndNotFull is true.
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

// CheckSelect returns the error of Select if no proxy can be chosen for q at the time now. It returns nil if the
// proxies are only busy.
func (s *Selector) CheckSelect(q *Query, now time.Time) error {
	if q.Direct {
		return nil
	}
	snap, excluded, at := s.pool.Snapshot(), s.exclusionsFor(q), s.pool.Elapsed(now)
	if q.isSessionBound() {
		return s.sessionBlocked(q, snap, excluded, now)
	}
	if q.isRestricted() {
		err := q.selectError(snap.All, excluded, at)
		if err == core.ErrPoolEmpty || err == core.ErrAllBreakersOpen {
			err = s.restrictedError(q, now)
		}
		return err
	}
	if s.isAllOpen(s.pool.Changes(), now) {
		return core.ErrAllBreakersOpen
	}
	return q.selectError(snap.All, excluded, at)
}

// selectError is CheckSelect for a list of proxies, at a time of Pool.Elapsed.
func (q *Query) selectError(all []*upstream.Upstream, excluded exclusions, at time.Duration) error {
	err, soonest, rest := core.ErrPoolEmpty, time.Duration(math.MaxInt64), false
	for _, u := range all {
		if u.Draining() || q.isExcluded(u) {
			continue
		}
		until, found := excluded.excludedUntil(u, at)
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
	// An open breaker is usually due before a ban ends.
	if soonest < math.MaxInt64 && (rest || err != core.ErrAllBreakersOpen) {
		return &core.RestingError{TimeLeft: soonest - at, AllBanned: !rest}
	}
	return err
}

// chooseTried chooses a proxy if there is no candidate: an untried proxy, whose breaker may be half-open even if the
// request is not idempotent, or the proxy that the request tried longest ago.
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
		if state, admits := c.checkLimit(u); !admits {
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
	if err := c.selectError(snap.All, c.exclusions(), c.elapsed); err != nil && err != core.ErrAllBreakersOpen {
		return err
	}
	return core.ErrAllBreakersOpen
}

// restrictedError returns the error of a request of which no permitted proxy is admissible (isRestricted).
func (s *Selector) restrictedError(q *Query, now time.Time) error {
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
		// Another request has taken the last place or the probe of the candidate.
		last := len(scores) - 1
		scores[i], c.candidates[i] = scores[last], c.candidates[last]
		scores, c.candidates = scores[:last], c.candidates[:last]
	}
	return s.chooseTried(c, s.pool.Snapshot())
}

// rank scores the candidates: with the scorer or, if it fails, by rotation.
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

// pick returns the index of the best candidate. Among scores within the tolerance of the best one, the least load
// decides (Upstream.Load), and then the turn: that of the rotation for a first attempt, and tieTurn for a retry.
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
	// A load may have changed since the first loop. Then the last candidate found is chosen.
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

// firstRotation returns the rotation distance (core.Candidate.Rotation) of the first candidate.
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

// nextRotation returns the rotation distance of the candidate after the one with the given distance.
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
