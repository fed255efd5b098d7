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
	Barred bool // no further attempt of this request may use it
}

// Query describes the request that a proxy is chosen for.
type Query struct {
	Attempt              int // 0 for the first
	Idempotent, Connect  bool
	Need                 ability.Need
	Retryable            bool    // a retry is possible if the attempt fails, so the attempt may be an exploration
	HostHash, RegionHash float64 // core.Hash53 of the target's host and of the wanted region; 0 for no region
	PlainRegion          bool    // upstream.PlainRegion of the wanted region
	Region               Region
	Regions              *core.Regions // the regions that may be used; nil for all
	Tried                []Tried       // in the order of the attempts
	Session              Session       // the request's session; nil for none
}

// Region is how a request's wanted region (Query.RegionHash) is applied.
type Region uint8

// The ways to apply a wanted region.
const (
	RegionScored    Region = iota // the region is an input of the scorer
	RegionPreferred               // first attempts use only this region while one of its proxies is admissible
	RegionStrict                  // no attempt uses another region
)

// regionOnly reports whether the next attempt is limited to the wanted region.
func (q *Query) regionOnly() bool {
	return q.Region == RegionStrict || q.Region == RegionPreferred && q.Attempt == 0
}

// limited reports whether q must not use the proxies of some regions.
func (q *Query) limited() bool { return q.Region == RegionStrict || q.Regions != nil }

// matchesRegion reports whether u is of the wanted region, or can be sent there by its login.
func (q *Query) matchesRegion(u *upstream.Upstream) bool {
	return u.RegionHash() == q.RegionHash || u.AnyRegion() && q.PlainRegion
}

// outsideRegion reports whether q must not use u because of its region.
func (q *Query) outsideRegion(u *upstream.Upstream) bool {
	return q.Region == RegionStrict && !q.matchesRegion(u) ||
		q.Regions != nil && (!q.Regions.Has(u.RegionHash()) || q.leaves(u))
}

// leaves reports whether u would send q to a wanted region that q must not use.
func (q *Query) leaves(u *upstream.Upstream) bool {
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
	now        time.Time
	elapsed    time.Duration // since the epoch of the pool (Pool.Elapsed)
	turn       uint64
	seed       uint64
	poolSize   int
	resting    rest.Resting // the proxies that rest for the target's host
	banned     rest.Resting // the banned proxies
	ordered    bool         // the first candidate is the proxy whose turn it is
	byAbility  bool         // proxies known to lack the ability that the request needs are left out
	candidates []*upstream.Upstream
	scores     []float64
}

// Selector is safe for concurrent use.
type Selector struct {
	pool            *upstream.Pool
	rand            func() uint64
	maxCandidates   int
	rests           *rest.Rests
	bans            *rest.Rests // banned proxies, as pairs with the host ""
	turn            atomic.Uint64
	nextExploration atomic.Uint64 // the first turn at which an idle proxy may be explored
	allOpen         atomic.Pointer[allOpen]
	tieTurn         atomic.Uint64 // number of ties in choices for retries
	choices         sync.Pool     // of *choice
}

// allOpen records that all breakers are open. The record is valid until the pool changes or a breaker
// becomes half-open.
type allOpen struct {
	changes uint64 // Pool.Changes at that time
	until   time.Time
}

// New returns a Selector for the proxies of pool. rand is its only source of randomness.
// maxCandidates limits the candidates of one choice.
func New(pool *upstream.Pool, rand func() uint64, maxCandidates int) *Selector {
	return &Selector{
		pool: pool, rand: rand, maxCandidates: max(maxCandidates, 1),
		rests: rest.New(rest.DefaultMax), bans: rest.New(rest.DefaultMax),
	}
}

// Rests returns the resting pairs. No proxy is chosen for a host for which it rests.
func (s *Selector) Rests() *rest.Rests { return s.rests }

// AllHosts is the hash of the host "", with which Bans has the banned proxies.
const AllHosts = 0

// Bans returns the banned proxies: pairs with the host "", whose hash is AllHosts. No proxy is chosen while it is
// banned.
func (s *Selector) Bans() *rest.Rests { return s.bans }

// NextTest returns the earliest time at which a proxy whose breaker is not closed may become admissible:
// Pool.NextTest or, if earlier, Pool.NextCheck. It returns false if all breakers are closed.
func (s *Selector) NextTest() (time.Time, bool) {
	test, ok := s.pool.NextTest()
	if check, planned := s.pool.NextCheck(); ok && planned && check.Before(test) {
		return check, true
	}
	return test, ok
}

// Select chooses a proxy at the time now and acquires it. The error is core.ErrPoolEmpty,
// core.ErrAllBreakersOpen, core.ErrAllBusy, a *core.RestingError or ErrBarred. If q has RegionStrict or
// Regions, a *core.RegionError replaces the first two. If q has a strict session with a proxy, the error is
// core.ErrAllBusy, ErrBarred or a *core.SessionError. If the scorer fails, the rotation decides.
func (s *Selector) Select(q *Query, scorer core.Scorer, now time.Time) (upstream.Lease, error) {
	snap, changes := s.pool.Snapshot(), s.pool.Changes()
	switch {
	case q.bound(): // the error is a *core.SessionError in all cases
	case q.limited() && (len(snap.All) == 0 || s.isAllOpen(changes, now)):
		return upstream.Lease{}, s.regionError(q, now)
	case len(snap.All) == 0:
		return upstream.Lease{}, core.ErrPoolEmpty
	case s.isAllOpen(changes, now):
		return upstream.Lease{}, core.ErrAllBreakersOpen
	}
	c := s.newChoice(q, now)
	defer s.release(c)
	lease, err := s.choose(c, snap, scorer)
	switch {
	case err == nil || q.bound():
	case q.limited() && (err == core.ErrAllBreakersOpen || err == core.ErrPoolEmpty):
		err = s.regionError(q, now)
	case err == core.ErrAllBreakersOpen:
		if at, ok := s.pool.NextTest(); ok && at.After(now) { // a probe in flight could end at any time
			s.allOpen.Store(&allOpen{changes, at})
		}
	}
	return lease, err
}

func (s *Selector) newChoice(q *Query, now time.Time) *choice {
	c, ok := s.choices.Get().(*choice)
	if !ok {
		c = &choice{}
	}
	c.Query, c.now, c.elapsed = q, now, s.pool.Elapsed(now)
	c.byAbility = s.pool.Limited()
	c.resting, c.banned = s.rests.Of(uint64(q.HostHash)), s.bans.Of(AllHosts)
	return c
}

func (s *Selector) release(c *choice) {
	c.Query, c.resting, c.banned = nil, nil, nil
	s.choices.Put(c)
}

// choose chooses and acquires a proxy.
func (s *Selector) choose(c *choice, snap *upstream.Snapshot, scorer core.Scorer) (upstream.Lease, error) {
	c.poolSize = len(snap.All)
	c.turn = s.turn.Load()
	if c.Attempt == 0 && c.Session == nil {
		c.turn = s.turn.Add(1) - 1
		if lease, ok := s.probeOverdue(c, snap); ok {
			return lease, nil
		}
		if lease, ok := s.explore(c, snap); ok {
			return lease, nil
		}
		if c.regionOnly() {
			if g := snap.Region(c.RegionHash); g != nil {
				c.turn = g.Turn.Add(1) - 1 // each region has its own rotation
			}
		}
	}
	lease, err := s.chooseAble(c, snap, scorer)
	// A request is not refused because proxies lack an ability. But if those with the ability are only busy, other
	// proxies are useless.
	if err != nil && err != core.ErrAllBusy && c.byAbility {
		c.byAbility = false
		return s.chooseAble(c, snap, scorer)
	}
	return lease, err
}

// chooseAble chooses and acquires a proxy. With byAbility, the proxy must have the ability that the request
// needs. A retry is a probe only if no breaker is closed (docs/decisions/open-time.md).
func (s *Selector) chooseAble(c *choice, snap *upstream.Snapshot, scorer core.Scorer) (upstream.Lease, error) {
	if c.Session != nil {
		return s.chooseForSession(c, snap)
	}
	s.gather(c, snap)
	if len(c.candidates) == 0 {
		return s.chooseTried(c, snap)
	}
	if c.Attempt > 0 && !s.pool.Literal() {
		c.keep(func(u *upstream.Upstream) bool { return u.Breaker().State() == core.Closed })
	}
	c.keepPreferred()
	return s.chooseBest(c, scorer)
}

// able reports whether u has the ability that the request needs. It returns true if the ability is unknown or
// does not matter.
func (c *choice) able(u *upstream.Upstream) bool {
	return !c.byAbility || u.Abilities().Meets(c.Need, c.elapsed)
}

func (s *Selector) isAllOpen(changes uint64, now time.Time) bool {
	found := s.allOpen.Load()
	return found != nil && found.changes == changes && now.Before(found.until)
}

// probeOverdue chooses a proxy whose breaker has been half-open for too long, because no scorer has
// chosen the proxy. The attempt is the probe.
func (s *Selector) probeOverdue(c *choice, snap *upstream.Snapshot) (upstream.Lease, bool) {
	for _, u := range s.pool.Overdue() {
		if !u.Draining() && c.inRegion(u, snap) && c.able(u) && !c.rests(u) && u.Breaker().Overdue() {
			if lease, ok := u.Acquire(c.now); ok {
				return lease, true
			}
		}
	}
	return upstream.Lease{}, false
}

// inRegion reports whether the wanted region permits an attempt of the request through u.
func (c *choice) inRegion(u *upstream.Upstream, snap *upstream.Snapshot) bool {
	return !c.outsideRegion(u) &&
		(!c.regionOnly() || c.matchesRegion(u) || snap.Region(c.RegionHash) == nil)
}

// Limits on explorations: the number of first attempts between two explorations.
const (
	exploreEvery = 20
	trialEvery   = 5 // if the next exploration is part of a trial
)

// If the request is idempotent, explore chooses a proxy whose exploration is due (Upstream.Unexplored).
func (s *Selector) explore(c *choice, snap *upstream.Snapshot) (upstream.Lease, bool) {
	list := s.pool.Idle()
	if len(list) == 0 || !c.Idempotent || !c.Retryable {
		return upstream.Lease{}, false
	}
	from := s.nextExploration.Load()
	for _, u := range list {
		if c.turn+exploreEvery-trialEvery < from {
			break
		}
		_, due := u.Unexplored(c.elapsed)
		if !due || c.turn < from && !u.OnTrial() || !c.inRegion(u, snap) || !c.able(u) || c.rests(u) {
			continue
		}
		if !s.nextExploration.CompareAndSwap(from, c.turn+exploreEvery) {
			break // another request explores
		}
		return u.Explore(c.now)
	}
	return upstream.Lease{}, false
}

// gather sets the candidates: the admissible proxies that the request has not tried, or a sample of them. If
// the attempt is limited to a region, the candidates are proxies of that region. If the region is only
// preferred and has no such proxy, they are proxies of any region.
func (s *Selector) gather(c *choice, snap *upstream.Snapshot) {
	if c.regionOnly() {
		c.candidates = c.candidates[:0]
		if g := snap.Region(c.RegionHash); g != nil {
			s.gatherFrom(c, g)
		}
		if !c.PlainRegion { // the group also has proxies that can be sent to each plain region
			elsewhere := func(u *upstream.Upstream) bool { return !c.matchesRegion(u) }
			c.candidates = slices.DeleteFunc(c.candidates, elsewhere)
		}
		if len(c.candidates) > 0 || c.Region == RegionStrict {
			return
		}
	}
	s.gatherFrom(c, snap.Group)
}

// keepPreferred removes the candidates that are not preferred (Upstream.Preferred). If none is preferred, it
// removes only those that cannot be reached. If none can be reached, it removes none.
func (c *choice) keepPreferred() {
	preferred, reached := 0, 0
	for _, u := range c.candidates {
		if u.Preferred(c.elapsed) {
			preferred++
		}
		if !u.Unreached() {
			reached++
		}
	}
	switch n := len(c.candidates); {
	case preferred == n:
	case preferred > 0:
		c.keep(func(u *upstream.Upstream) bool { return u.Preferred(c.elapsed) })
	case reached > 0 && reached < n:
		c.keep(func(u *upstream.Upstream) bool { return !u.Unreached() })
	}
}

// keep removes the candidates for which ok is false, unless it would remove all of them.
func (c *choice) keep(ok func(*upstream.Upstream) bool) {
	all := c.candidates
	c.candidates = c.candidates[:0]
	for _, u := range all {
		if ok(u) {
			c.candidates = append(c.candidates, u)
		}
	}
	if len(c.candidates) == 0 { // other requests have taken the places in flight meanwhile
		c.candidates = all
	}
}

// gatherFrom sets the candidates from a group of proxies.
func (s *Selector) gatherFrom(c *choice, group *upstream.Group) {
	c.candidates = c.candidates[:0]
	if len(group.All) > s.maxCandidates {
		s.sample(c, group)
		return
	}
	c.ordered = len(c.Tried) > 0
	untried := c.untried()
	// The rotation of a retry begins after the proxy that was tried last.
	begin := 0
	if n := len(c.Tried); n > 0 {
		begin = slices.Index(group.All, c.Tried[n-1].Proxy) + 1
	}
	for _, part := range [2][]*upstream.Upstream{group.All[begin:], group.All[:begin]} {
		for _, u := range part {
			if untried && u.Free() || c.admissible(u) {
				c.candidates = append(c.candidates, u)
			}
		}
	}
}

// rests reports whether u rests for the target's host, or is banned.
func (c *choice) rests(u *upstream.Upstream) bool {
	_, rests := c.out().until(u, c.elapsed)
	return rests
}

// out are the proxies that must not be chosen at present, apart from their breakers.
type out struct{ resting, banned rest.Resting }

func (c *choice) out() out { return out{c.resting, c.banned} }

// outFor returns the proxies that must not be chosen for the target's host.
func (s *Selector) outFor(q *Query) out {
	return out{s.rests.Of(uint64(q.HostHash)), s.bans.Of(AllHosts)}
}

// until returns the time until which u must not be chosen: the end of its rest or, if later, of its ban. is is false if
// u may be chosen at the time at.
func (o out) until(u *upstream.Upstream, at time.Duration) (until time.Duration, is bool) {
	if len(o.resting) == 0 && len(o.banned) == 0 {
		return 0, false
	}
	rest, rests := o.resting.Until(u.Hash(), at)
	ban, banned := o.banned.Until(u.Hash(), at)
	return max(rest, ban), rests || banned
}

// sample sets the candidates from a large group. The first is the proxy whose turn it is, or the next
// admissible one, so that a rotation covers a pool of any size. The others are neighbours in the mixed order
// (Group.Mixed), beginning at a random place, because most of them are also neighbours in memory.
func (s *Selector) sample(c *choice, group *upstream.Group) {
	c.ordered = true
	all := group.All
	n := uint64(len(all))
	var first *upstream.Upstream
	for i := range uint64(s.maxCandidates) {
		if u := all[(c.turn+i)%n]; c.admissible(u) {
			first = u
			c.candidates = append(c.candidates, u)
			break
		}
	}
	at, untried := int(s.rand()%n), c.untried()
	for i := 0; i < s.maxCandidates && len(c.candidates) < s.maxCandidates; i++ {
		if u := group.Mixed[at]; u != first && (untried && u.Free() || c.admissible(u)) {
			c.candidates = append(c.candidates, u)
		}
		if at++; at == len(all) {
			at = 0
		}
	}
	if len(c.candidates) == 0 { // few proxies are admissible: check all of them
		for _, u := range all {
			if c.admissible(u) && len(c.candidates) < s.maxCandidates {
				c.candidates = append(c.candidates, u)
			}
		}
	}
}

// admissible reports whether u may be a candidate. A proxy with a half-open breaker is a candidate only if
// the request is idempotent, because the attempt would be the probe, which is likely to fail.
func (c *choice) admissible(u *upstream.Upstream) bool {
	return u.Admissible(c.elapsed, c.Idempotent) && !(len(c.Tried) > 0 && c.hasTried(u)) && c.able(u) &&
		!c.rests(u) && !c.outsideRegion(u)
}

// untried reports whether every free proxy (Upstream.Free) is admissible: the request has tried none,
// none rests or is banned, and neither abilities nor regions matter.
func (c *choice) untried() bool {
	return len(c.Tried) == 0 && len(c.resting) == 0 && len(c.banned) == 0 && !c.byAbility && c.Regions == nil &&
		(c.Region != RegionStrict || c.PlainRegion)
}

// Untried reports whether a proxy that q has not tried is admissible at the time now.
func (s *Selector) Untried(q *Query, now time.Time) bool {
	if q.bound() {
		return false
	}
	c := s.newChoice(q, now)
	defer s.release(c)
	s.gather(c, s.pool.Snapshot())
	return len(c.candidates) > 0
}

// Blocked returns the reason why no proxy at all can be chosen for q at the time now: core.ErrPoolEmpty,
// core.ErrAllBreakersOpen, a *core.RestingError, a *core.RegionError or a *core.SessionError. It returns nil if a proxy
// can be chosen, even if this proxy has reached max_in_flight.
func (s *Selector) Blocked(q *Query, now time.Time) error {
	snap, out, at := s.pool.Snapshot(), s.outFor(q), s.pool.Elapsed(now)
	if q.bound() {
		return s.sessionBlocked(q, snap, out, now)
	}
	if q.limited() {
		err := q.blocked(snap.All, out, at)
		if err == core.ErrPoolEmpty || err == core.ErrAllBreakersOpen {
			err = s.regionError(q, now)
		}
		return err
	}
	if s.isAllOpen(s.pool.Changes(), now) {
		return core.ErrAllBreakersOpen
	}
	return q.blocked(snap.All, out, at)
}

// blocked is Blocked for a list of proxies. at is the current time (Pool.Elapsed).
func (q *Query) blocked(all []*upstream.Upstream, out out, at time.Duration) error {
	err, soonest, rest := core.ErrPoolEmpty, time.Duration(math.MaxInt64), false
	for _, u := range all {
		if u.Draining() || q.outsideRegion(u) {
			continue
		}
		until, is := out.until(u, at)
		switch {
		case !u.BreakerAdmits(at):
			err = core.ErrAllBreakersOpen
		case !is:
			return nil
		default:
			soonest = min(soonest, until)
			_, banned := out.banned.Until(u.Hash(), at)
			rest = rest || !banned
		}
	}
	if soonest < math.MaxInt64 && (rest || err != core.ErrAllBreakersOpen) { // breakers end sooner than most bans
		return &core.RestingError{Left: soonest - at, Everywhere: !rest}
	}
	return err
}

// chooseTried chooses a proxy if there is no candidate: an untried proxy whose breaker is half-open,
// even if the request is not idempotent, or else the proxy that the request tried longest ago.
func (s *Selector) chooseTried(c *choice, snap *upstream.Snapshot) (upstream.Lease, error) {
	busy, barred := false, false
	acquire := func(u *upstream.Upstream) (upstream.Lease, bool) {
		switch {
		case u.Draining() || c.outsideRegion(u) || !u.BreakerAdmits(c.elapsed) || !c.able(u) || c.rests(u):
			return upstream.Lease{}, false
		case u.Full():
			busy = true
			return upstream.Lease{}, false
		}
		return u.Acquire(c.now)
	}
	for _, u := range snap.All {
		if c.hasTried(u) {
			continue
		}
		if lease, ok := acquire(u); ok {
			return lease, nil
		}
	}
	for i, t := range c.Tried {
		if slices.ContainsFunc(c.Tried[i+1:], func(later Tried) bool { return later.Proxy == t.Proxy }) {
			continue
		}
		if t.Barred {
			barred = barred || !t.Proxy.Draining() && !c.outsideRegion(t.Proxy) && t.Proxy.BreakerAdmits(c.elapsed)
			continue
		}
		if lease, ok := acquire(t.Proxy); ok {
			return lease, nil
		}
	}
	switch {
	case busy:
		return upstream.Lease{}, core.ErrAllBusy
	case barred:
		return upstream.Lease{}, ErrBarred
	}
	if err := c.blocked(snap.All, c.out(), c.elapsed); err != nil && err != core.ErrAllBreakersOpen {
		return upstream.Lease{}, err
	}
	return upstream.Lease{}, core.ErrAllBreakersOpen
}

// regionError returns the error of a request whose region has no admissible proxy.
func (s *Selector) regionError(q *Query, now time.Time) error {
	e := &core.RegionError{}
	for _, u := range s.pool.NotClosed() {
		if q.outsideRegion(u) {
			continue
		}
		v := u.Breaker().Snapshot()
		if v.State == core.HalfOpen {
			v.NextTest = now // the probe in flight may end at any time
		}
		if e.Due.IsZero() || v.NextTest.Before(e.Due) {
			e.Due = v.NextTest
		}
	}
	return e
}

// chooseBest ranks the candidates and acquires the best one that can be acquired.
func (s *Selector) chooseBest(c *choice, scorer core.Scorer) (upstream.Lease, error) {
	scores, tolerance := s.rank(c, scorer)
	for len(scores) > 0 {
		i := s.pick(c, scores, tolerance)
		if lease, ok := c.candidates[i].Acquire(c.now); ok {
			return lease, nil
		}
		// The candidate is no longer admissible, because of another request. Choose among the
		// others.
		last := len(scores) - 1
		scores[i], c.candidates[i] = scores[last], c.candidates[last]
		scores, c.candidates = scores[:last], c.candidates[:last]
	}
	return s.chooseTried(c, s.pool.Snapshot())
}

// rank computes the scores of the candidates. If the scorer fails, the rotation determines them.
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

// pick returns the index of the best candidate. Scores within the tolerance of the best count as equal; among
// these, the candidate with the least load (Upstream.Load) is the best. If several have the same load, a
// first attempt takes the one whose turn it is in the rotation, and successive retries take them in turn.
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
	// The load may have changed since it was read. If no candidate has the least load any more, an earlier
	// candidate is chosen.
	turn := c.turn
	switch {
	case c.Attempt > 0:
		turn = s.tieTurn.Add(1) - 1
	case c.ordered:
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

// firstRotation returns the rotation distance (core.Candidate.Rotation) of the first candidate. The distance
// of each further candidate is larger by one. The distance 0 follows the largest one.
func (c *choice) firstRotation() int {
	n := len(c.candidates)
	if c.ordered || n == 0 {
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
		slowest = max(slowest, row.LatencyMean)
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
