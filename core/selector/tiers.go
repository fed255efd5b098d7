package selector

import (
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// DefaultTierAttempts is the default of SetTierAttempts.
const DefaultTierAttempts = 2

// SetTierAttempts sets the maximum number of attempts of a request in one tier; n is at least 1. A tier in which the
// request has made n attempts is used only if no other tier has a candidate.
func (s *Selector) SetTierAttempts(n int) { s.tierAttempts.Store(int32(n)) }

// collectTiers sets the candidates to the group's admissible proxies of one tier: the lowest tier that has such
// proxies. A tier in which the request has made the maximum number of attempts (SetTierAttempts) comes after the
// others. Unless breaker.blame is "literal", a tier in which a retry would be the probe of a half-open breaker comes
// last.
func (s *Selector) collectTiers(c *choice, group *upstream.Group) {
	c.hasTier = true
	defer func() { c.hasTier = false }()
	maxAttempts, probeTier := int(s.tierAttempts.Load()), -1
	for _, exhausted := range [2]bool{false, true} {
		for i := range c.tiers {
			t := &c.tiers[i]
			if (c.attemptsInTier(t.Number) >= maxAttempts) != exhausted {
				continue
			}
			if s.collectTier(c, group, t); len(c.candidates) == 0 {
				continue
			}
			if c.Attempt == 0 || s.pool.Literal() || c.hasClosedBreaker() {
				return
			}
			if probeTier < 0 {
				probeTier = i
			}
		}
	}
	if probeTier >= 0 {
		s.collectTier(c, group, &c.tiers[probeTier])
	}
}

// collectTier sets the candidates from the proxies of group that are of tier t.
func (s *Selector) collectTier(c *choice, group *upstream.Group, t *upstream.Tier) {
	if c.tier = t.Number; group == c.allProxies {
		group = t.Group
	}
	s.collectGroup(c, group)
}

// attemptsInTier returns the number of proxies of a tier through which the request has been attempted.
func (q *Query) attemptsInTier(tier int32) (n int) {
	for i := range q.Tried {
		if q.Tried[i].Proxy.Tier() == tier {
			n++
		}
	}
	return n
}

func (c *choice) hasClosedBreaker() bool {
	for _, u := range c.candidates {
		if u.Breaker().State() == core.Closed {
			return true
		}
	}
	return false
}

// isOutsideTier reports whether u cannot be a candidate because the candidates must be of another tier.
func (c *choice) isOutsideTier(u *upstream.Upstream) bool { return c.hasTier && u.Tier() != c.tier }

// inFirstTier reports whether u is of the lowest tier. A proxy of a higher tier is not explored, and is probed only if
// it is the best candidate, because an attempt through it would cost more.
func (c *choice) inFirstTier(u *upstream.Upstream) bool {
	return len(c.tiers) == 0 || u.Tier() == c.tiers[0].Number
}
