package selector

import (
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// dropAvoided removes the candidates that should be avoided for the target (isAvoided), unless these are all
// candidates. If the target probably bans some proxies, and its latest attempts have failed, the target may have banned
// the proxies of these attempts, too. dropAvoided then first removes the proxies of these attempts. In a retry it
// removes no other candidates. If all candidates have just failed in this way, the retry may be a probe
// (probeAtTarget).
func (s *Selector) dropAvoided(c *choice, snap *upstream.Snapshot) {
	if c.avoided.HasBan(c.elapsed) {
		if state := s.pool.Ledger().TargetState(c.TargetHash, c.elapsed); state.Fails() {
			kept := c.keepAny(func(u *upstream.Upstream) bool { return !state.FailedThrough(u.Hash()) })
			if c.Attempt > 0 {
				if !kept {
					s.probeAtTarget(c, snap, state.FailedThrough)
				}
				return
			}
		}
	}
	c.keepIf(func(u *upstream.Upstream) bool { return !c.isAvoided(u) })
}

// probeAtTarget is called in a retry if the target has just failed through all candidates, and probably bans some
// proxies. A proxy that several targets ban may have an open breaker, although this target does not ban it. So
// probeAtTarget first makes a breaker half-open if possible. Then it keeps only the proxies whose half-open breaker
// waits for a probe (docs/decisions/suspect-targets.md). The function failedThrough gets the hash of a proxy, and
// reports whether the target has just failed through this proxy.
func (s *Selector) probeAtTarget(c *choice, snap *upstream.Snapshot, failedThrough func(proxy uint64) bool) {
	mayServe := func(u *upstream.Upstream) bool {
		return c.mayProbe(u, snap) && !failedThrough(u.Hash()) && !c.isAvoided(u)
	}
	if c.KnownToRelay || !c.Idempotent || !s.pool.ProbeAtTarget(mayServe) {
		return
	}
	s.gatherCandidates(c, snap)
	if !c.keepAny(func(u *upstream.Upstream) bool {
		return u.Breaker().State() == core.HalfOpen && mayServe(u)
	}) {
		c.keepIf(hasClosedBreaker)
	}
}

// mayProbe reports whether a retry of the request may be the probe of u's breaker. It does not check the breaker.
func (c *choice) mayProbe(u *upstream.Upstream, snap *upstream.Snapshot) bool {
	return !c.hasTried(u) && c.isPermitted(u, snap) && !c.isBanned(u) && c.hasAbility(u)
}

func hasClosedBreaker(u *upstream.Upstream) bool { return u.Breaker().State() == core.Closed }

func (c *choice) isKnownToRelay(u *upstream.Upstream) bool { return u.IsKnownToRelay(c.elapsed) }

// keepForRetry removes the candidates without a closed breaker, unless these are all candidates. If much more of the
// pool's attempts fail than usual, it keeps only the first of these groups that has a candidate: proxies that have not
// failed lately; proxies whose latest attempt has succeeded; proxies whose half-open breaker waits for a probe
// (docs/decisions/failing-pool.md).
func (s *Selector) keepForRetry(c *choice, snap *upstream.Snapshot) {
	if c.KnownToRelay && c.keepAny(c.isKnownToRelay) {
		return
	}
	failing := s.pool.Ledger().FailingProxies(c.elapsed)
	if failing.Empty() {
		c.keepIf(hasClosedBreaker)
		return
	}
	if c.keepAny(func(u *upstream.Upstream) bool {
		return hasClosedBreaker(u) && !u.IsUnreached() && !failing.Failed(u.Hash())
	}) || c.keepAny(func(u *upstream.Upstream) bool { return hasClosedBreaker(u) && failing.Serves(u.Hash()) }) {
		return
	}
	mayProbe := func(u *upstream.Upstream) bool { return c.mayProbe(u, snap) }
	if c.Idempotent && s.pool.ProbeInRetry(mayProbe) {
		s.gatherCandidates(c, snap)
		if c.keepAny(func(u *upstream.Upstream) bool { return u.Breaker().State() == core.HalfOpen }) {
			return
		}
	}
	c.keepIf(hasClosedBreaker)
}

// hasAbility reports whether u is not known to lack the ability that the request needs.
func (c *choice) hasAbility(u *upstream.Upstream) bool {
	return !c.checkAbility || u.MeetsNeed(c.Need, c.elapsed)
}

// isPermitted reports whether the wanted region and the tag permit an attempt of the request through u.
func (c *choice) isPermitted(u *upstream.Upstream, snap *upstream.Snapshot) bool {
	return !c.isExcluded(u) &&
		(!c.regionOnly() || c.matchesRegion(u) || snap.Region(c.RegionHash) == nil) &&
		(!c.tagOnly() || u.HasTag(c.Tag) || snap.Tag(c.Tag) == nil)
}

// requiredGroup returns the group of proxies to which the tag or the region limits the next attempt. If both limit it,
// the smaller group is returned. The result is nil if nothing limits the attempt, or if there is no such proxy.
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

// gatherCandidates sets the candidates: the admissible proxies that the request has not tried, or a sample of them. The
// candidates have the wanted region and the tag. If there are none, a region or tag that is only preferred is ignored.
func (s *Selector) gatherCandidates(c *choice, snap *upstream.Snapshot) {
	c.tiers, c.allProxies = snap.Tiers(), snap.Group
	tag, region := c.tagOnly(), c.regionOnly()
	if tag || region {
		c.candidates = c.candidates[:0]
		if g := c.requiredGroup(snap); g != nil {
			// Each proxy of g must be checked. If both a tag and a region are required, g is the group of only one of
			// them. The group of a region also contains the proxies that can use every plain region.
			c.onlyPreferred = tag && region || region && !c.PlainRegion
			s.gatherFromGroup(c, g)
			c.onlyPreferred = false
		}
		if len(c.candidates) > 0 || (!tag || c.tagStrict()) && (!region || c.RegionMode == RegionStrict) {
			return
		}
	}
	if tag && region && !c.tagStrict() { // the region is preferred to the tag
		if g := snap.Region(c.RegionHash); g != nil {
			if s.gatherFromGroup(c, g); len(c.candidates) > 0 {
				return
			}
		}
	}
	switch {
	case c.tagStrict():
		if g := snap.Tag(c.Tag); g != nil {
			s.gatherFromGroup(c, g)
		}
	case c.RegionMode == RegionStrict:
		if g := snap.Region(c.RegionHash); g != nil {
			s.gatherFromGroup(c, g)
		}
	default:
		s.gatherFromGroup(c, snap.Group)
	}
}

// keepPreferred keeps the preferred candidates (Upstream.Preferred). If there are none, it keeps those that can be
// reached.
func (c *choice) keepPreferred() {
	if allHaveFullLoad(c.candidates) {
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

func allHaveFullLoad(list []*upstream.Upstream) bool {
	for _, u := range list {
		if !u.HasFullLoad() {
			return false
		}
	}
	return true
}

// keepAny does the same as keepIf. It reports whether ok returned true for any candidate.
func (c *choice) keepAny(ok func(*upstream.Upstream) bool) bool {
	if !slices.ContainsFunc(c.candidates, ok) {
		return false
	}
	c.keepIf(ok)
	return true
}

// keepIf removes the candidates for which ok returns false. If these are all candidates, it removes none.
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

// gatherFromGroup sets the candidates from a group of proxies. All candidates are of one tier.
func (s *Selector) gatherFromGroup(c *choice, group *upstream.Group) {
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

// isBanned reports whether u is banned, for the target's host or for all hosts.
func (c *choice) isBanned(u *upstream.Upstream) bool {
	_, banned := c.exclusions().excludedUntil(u, c.elapsed)
	return banned
}

// exclusions holds the proxies that are banned for a host, and those that are banned for all hosts. None of them may be
// chosen now.
type exclusions struct{ hostBans, proxyBans ban.HostBans }

func (c *choice) exclusions() exclusions { return exclusions{c.hostBans, c.proxyBans} }

// exclusionsFor returns the proxies that must not be chosen for the target's host.
func (s *Selector) exclusionsFor(q *Query) exclusions {
	return exclusions{s.hostBans.BansOf(uint64(q.HostHash)), s.proxyBans.BansOf(AllHosts)}
}

// excludedUntil returns the time until which u must not be chosen: the end of its ban for the host or of its ban for
// all hosts, whichever is later. The second result is false if u may be chosen now.
func (e exclusions) excludedUntil(u *upstream.Upstream, at time.Duration) (until time.Duration, excluded bool) {
	if len(e.hostBans) == 0 && len(e.proxyBans) == 0 {
		return 0, false
	}
	hostEnd, hostBanned := e.hostBans.EndOf(u.Hash(), at)
	proxyEnd, proxyBanned := e.proxyBans.EndOf(u.Hash(), at)
	return max(hostEnd, proxyEnd), hostBanned || proxyBanned
}

// sampleGroup sets the candidates to a sample of a large group. The first candidate is the next admissible proxy in the
// rotation, so that the rotation covers the whole group. The others are neighbours in Group.Mixed, most of which are
// neighbours in memory.
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
		!c.isBanned(u) && !c.isExcluded(u) && !c.isOutsideTier(u) && !c.isLimited(u) && !c.isNotPreferred(u)
}

// isNotPreferred reports whether u lacks a region or tag that onlyPreferred requires.
func (c *choice) isNotPreferred(u *upstream.Upstream) bool {
	return c.onlyPreferred && (c.tagOnly() && !u.HasTag(c.Tag) || c.regionOnly() && !c.matchesRegion(u))
}

// skipsChecks reports whether a proxy for which ClosedAndNotFull returns true needs no further check by isAdmissible.
func (c *choice) skipsChecks() bool {
	return len(c.Tried) == 0 && len(c.hostBans) == 0 && len(c.proxyBans) == 0 && !c.checkAbility &&
		!c.checkLimits && !c.hasTier && !c.onlyPreferred &&
		c.Regions == nil && (c.RegionMode != RegionStrict || c.PlainRegion && c.Tag == 0) &&
		(c.RegionMode == RegionScored || !c.tagStrict())
}
