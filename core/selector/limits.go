package selector

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// checkLimit reports whether the limits of u, and of its pair with the target's host, admit an attempt now. If
// they do not, the first result is the reason. Without limits the method takes no lock.
func (c *choice) checkLimit(u *upstream.Upstream) (limit.State, bool) {
	if !c.checkLimits {
		return limit.State{}, true
	}
	return limit.Check(u.Usage(), c.pairLimits.Usage(u.Hash()), c.now)
}

// isLimited reports whether u is at a limit. A proxy at a limit is not a candidate.
func (c *choice) isLimited(u *upstream.Upstream) bool {
	_, admits := c.checkLimit(u)
	return !admits
}

// acquire acquires u if its limits admit an attempt, and counts the attempt for these limits. If it returns true,
// c.lease holds the proxy.
func (c *choice) acquire(u *upstream.Upstream) (ok bool) {
	if !c.checkLimits {
		c.lease, ok = u.Acquire(c.now)
		return ok
	}
	share, admits := limit.Reserve(u.Usage(), c.pairLimits.BeginAttempt(u.Hash(), u.ID(), c.now), c.now)
	if !admits {
		return false
	}
	if c.lease, ok = u.Acquire(c.now); !ok {
		share.Cancel(c.now)
		return false
	}
	c.lease.SetLimitShare(share)
	return true
}

// earliestLimit determines when the first of the proxies that are at a limit admits an attempt.
type earliestLimit struct {
	until          time.Time // when the first of these proxies admits an attempt; zero if unknown
	found          bool
	hasUnknownTime bool // one of these proxies admits an attempt at an unknown time: when an attempt in flight ends
}

func (s *earliestLimit) add(state limit.State) {
	s.found = true
	switch {
	case state.Until.IsZero():
		s.hasUnknownTime = true
	case s.until.IsZero() || state.Until.Before(s.until):
		s.until = state.Until
	}
}

// limitedError returns the error of a request for which each remaining proxy is at a limit, or busy.
func (s *earliestLimit) limitedError(now time.Time, busy bool) error {
	e := &core.LimitedError{WaitsForAttempt: busy || s.hasUnknownTime}
	if !s.until.IsZero() {
		e.TimeLeft = max(s.until.Sub(now), time.Nanosecond)
	}
	return e
}
