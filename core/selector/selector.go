// Package selector chooses the proxy of the next attempt. A scorer ranks the candidates, which are the
// admissible proxies of a pool snapshot. Only the chosen proxy is acquired.
package selector

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// DefaultMaxCandidates is the default maximum number of candidates. In a larger pool the candidates are a sample.
const DefaultMaxCandidates = 256

// choice is the state of one call of Select or HasUntried. The Selector reuses choices, to allocate no memory for them.
type choice struct {
	*Query
	now           time.Time
	elapsed       time.Duration // since the epoch of the pool (Pool.Elapsed)
	turn          uint64
	seed          uint64
	poolSize      int
	hostBans      ban.HostBans    // the proxies that are banned for the target's host
	proxyBans     ban.HostBans    // the proxies that are banned for all hosts
	avoided       ban.HostBans    // the proxies that are avoided for the target (upstream.Pool.Avoided)
	uncompared    ban.HostBans    // the proxies that are uncompared at the target (upstream.Pool.Uncompared)
	firstHasTurn  bool            // the first candidate is the proxy whose turn it is
	checkLimits   bool            // a proxy of the pool, or a pair with the target's host, has limits
	pairLimits    limit.Pairs     // the limits of pairs with the target's host
	tiers         []upstream.Tier // of the pool; nil if there is only one tier
	allProxies    *upstream.Group // the whole pool
	hasTier       bool            // the candidates must be of the tier in the next field
	tier          int32
	onlyPreferred bool // candidates must have the wanted region and the tag, even if these are only preferred
	checkAbility  bool // proxies known to lack the ability that the request needs are left out
	candidates    []*upstream.Upstream
	scores        []float64
	lease         upstream.Lease // of the chosen proxy
}

// Selector is safe for concurrent use.
type Selector struct {
	pool            *upstream.Pool
	rand            func() uint64
	maxCandidates   int
	hostBans        *ban.Table
	proxyBans       *ban.Table // proxies that are banned for all hosts, as pairs with the host ""
	limits          *limit.Table
	tierAttempts    atomic.Int32 // see SetTierAttempts
	turn            atomic.Uint64
	nextExploration atomic.Uint64 // the first turn at which an idle proxy may be explored
	allOpen         atomic.Pointer[allOpenRecord]
	tieTurn         atomic.Uint64 // number of ties in choices for retries
	choices         sync.Pool     // of *choice
}

// New returns a Selector for the proxies of pool. rand is its only source of randomness.
// maxCandidates limits the candidates of one choice.
func New(pool *upstream.Pool, rand func() uint64, maxCandidates int) *Selector {
	s := &Selector{
		pool: pool, rand: rand, maxCandidates: max(maxCandidates, 1),
		hostBans: ban.New(ban.DefaultMax), proxyBans: ban.New(ban.DefaultMax),
		limits: limit.NewTable(limit.DefaultMax),
	}
	s.SetTierAttempts(DefaultTierAttempts)
	return s
}

// HostBans returns the host bans. Each is a pair of a proxy and a host for which the proxy is not chosen.
func (s *Selector) HostBans() *ban.Table { return s.hostBans }

// AllHosts is the hash of the host "", which stands for all hosts in ProxyBans.
const AllHosts = 0

// ProxyBans returns the proxy bans. A proxy with such a ban is not chosen for any host. In the table, it is a pair with
// the host "" (AllHosts).
func (s *Selector) ProxyBans() *ban.Table { return s.proxyBans }

// Limits returns the limits of pairs of a proxy and a host. A proxy at a limit is not a candidate.
func (s *Selector) Limits() *limit.Table { return s.limits }

// Select chooses a proxy and acquires it. If the scorer fails, the candidates are chosen in turn
// (core.Candidate.Rotation). The errors are:
//
//   - core.ErrPoolEmpty or core.ErrAllBreakersOpen, if q may use every proxy;
//   - a *core.RegionError in place of these two, if q has RegionStrict or Regions;
//   - a *core.TagError in place of the first two, if q has a Tag that is not preferred;
//   - a *core.SessionError in place of all errors above and of a *core.BannedError, if q has a strict session with a
//     proxy;
//   - core.ErrAllBusy, a *core.LimitedError, a *core.BannedError or ErrBarred.
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
		// If the next test time is not in the future, a probe is in flight. The probe may close its breaker at any
		// time, so nothing is recorded.
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
	c.checkAbility = s.pool.LacksAbilities()
	c.hostBans, c.proxyBans = s.hostBans.BansOf(uint64(q.HostHash)), s.proxyBans.BansOf(AllHosts)
	c.avoided, c.uncompared = s.pool.Avoided().BansOf(q.TargetHash), s.pool.Uncompared().BansOf(q.TargetHash)
	if !s.limits.Empty() {
		c.pairLimits = s.limits.PairsOf(q.Host, uint64(q.HostHash))
	}
	c.checkLimits = c.pairLimits.HaveLimit() || s.pool.HasLimits()
	return c
}

func (s *Selector) releaseChoice(c *choice) {
	c.Query, c.hostBans, c.proxyBans, c.avoided, c.uncompared = nil, nil, nil, nil, nil
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
	err := s.chooseWithAbility(c, snap, scorer)
	// The recorded abilities may be wrong, so the proxy is chosen again without regard to them. But if proxies with the
	// ability are only busy, the request waits for one of these.
	if err != nil && !core.IsBusy(err) && c.checkAbility {
		c.checkAbility = false
		return s.chooseWithAbility(c, snap, scorer)
	}
	return err
}

// chooseWithAbility chooses and acquires a proxy. If c.checkAbility is set, it leaves out proxies known to lack the
// ability that the request needs. Unless breaker.blame is "literal", a retry uses candidates with a closed breaker if
// there are any (keepForRetry, docs/decisions/open-time.md).
func (s *Selector) chooseWithAbility(c *choice, snap *upstream.Snapshot, scorer core.Scorer) error {
	if c.Session != nil {
		return s.chooseForSession(c, snap)
	}
	s.gatherCandidates(c, snap)
	if c.Attempt > 0 && !s.pool.Literal() {
		s.keepForRetry(c, snap)
	}
	if len(c.candidates) == 0 {
		return s.chooseLastResort(c, snap)
	}
	if len(c.avoided) > 0 || len(c.uncompared) > 0 {
		s.dropAvoided(c, snap)
	}
	c.keepPreferred()
	return s.chooseBest(c, scorer)
}

// chooseOverdueProbe chooses a proxy whose half-open breaker has waited too long for a probe, because no scorer has
// chosen the proxy. It returns false if there is no such proxy.
func (s *Selector) chooseOverdueProbe(c *choice, snap *upstream.Snapshot) bool {
	for _, u := range s.pool.OverdueProbes() {
		if !u.Draining() && c.isPermitted(u, snap) && c.hasAbility(u) && !c.isBanned(u) && !c.isAvoided(u) &&
			c.inFirstTier(u) && u.Breaker().ProbeOverdue() && c.acquire(u) {
			return true
		}
	}
	return false
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
	next := s.nextExploration.Load()
	for _, u := range list {
		if c.turn+exploreEvery-trialEvery < next {
			break
		}
		_, due := u.ExplorationDue(c.elapsed)
		if !due || c.turn < next && !u.OnTrial() || !c.isPermitted(u, snap) || !c.hasAbility(u) || c.isBanned(u) ||
			c.isLimited(u) || !c.inFirstTier(u) || c.isAvoided(u) {
			continue
		}
		if !s.nextExploration.CompareAndSwap(next, c.turn+exploreEvery) {
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

// HasUntried reports whether there is an admissible proxy that q has not tried, and that is known to relay responses if
// q.KnownToRelay is set.
func (s *Selector) HasUntried(q *Query, now time.Time) bool {
	if q.isSessionBound() || q.Direct {
		return false
	}
	c := s.newChoice(q, now)
	defer s.releaseChoice(c)
	s.gatherCandidates(c, s.pool.Snapshot())
	if q.KnownToRelay {
		return slices.ContainsFunc(c.candidates, c.isKnownToRelay)
	}
	return len(c.candidates) > 0
}

// chooseLastResort is called if there is no candidate, or if no candidate could be acquired. It first searches for an
// untried proxy; even a request that is not idempotent may then be the probe of a half-open breaker. If there is none,
// it chooses the proxy that the request tried longest ago.
func (s *Selector) chooseLastResort(c *choice, snap *upstream.Snapshot) error {
	busy, barred := false, false
	limited := earliestLimit{}
	acquire := func(u *upstream.Upstream) bool {
		switch {
		case u.Draining() || c.isExcluded(u) || !u.BreakerAdmits(c.elapsed) || !c.hasAbility(u) || c.isBanned(u):
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
		if slices.ContainsFunc(c.Tried[i+1:], func(later TriedProxy) bool { return later.Proxy == t.Proxy }) {
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
		return limited.limitedError(c.now, busy)
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
