package upstream

import (
	"math"
	"sync/atomic"
	"time"
)

// Slow start, as in TCP (RFC 5681, section 3.1), limits the attempts in flight of a proxy. A selection prefers proxies
// below their limit. If no proxy is below its limit, the selection ignores the limits. docs/decisions/slow-start.md has
// the reasons.
const (
	unreachedLimit = -1 // stands for a limit of 0: the proxy cannot be reached, and has never served
	unservedLimit  = 0  // for a pause (slowStartPause), if attempts time out before the first success
	unprovenLimit  = 1  // until the first success, and after the breaker has closed
	provenFrom     = 64 // each success doubles the limit until this value, after which it is unlimited
	noLimit        = math.MaxInt32
)

// The time for which a proxy is not preferred after its attempts have timed out.
const (
	firstPause = time.Second // after the second timeout
	pauseSteps = 3           // number of timeouts after the second that double the time
)

// slowStart is a proxy's preferred number of attempts in flight.
type slowStart struct{ limit atomic.Int32 }

// startLimit returns the preferred number of attempts in flight of a new proxy, and of a proxy whose breaker has just
// closed.
func (p *Pool) startLimit() int32 {
	if p.noSlowStart || p.literal.Load() {
		return noLimit
	}
	return unprovenLimit
}

// A paused limit is negative. The method pausedLimit converts a limit to the paused one, and back.
const (
	pausedNoLimit = math.MinInt32
	firstPaused   = unreachedLimit - 1 // of unreachedLimit; the others are smaller
)

func pausedLimit(limit int32) int32 {
	switch limit {
	case noLimit:
		return pausedNoLimit
	case pausedNoLimit:
		return noLimit
	}
	return firstPaused + unreachedLimit - limit
}

func isPaused(limit int32) bool { return limit <= firstPaused }

// pause makes the proxy not preferred until resume is called, a success, or learntPause after the last failure on other
// gateways.
func (s *slowStart) pause() {
	if limit := s.limit.Load(); !isPaused(limit) {
		s.limit.CompareAndSwap(limit, pausedLimit(limit))
	}
}

func (s *slowStart) resume() {
	if limit := s.limit.Load(); isPaused(limit) {
		s.limit.CompareAndSwap(limit, pausedLimit(limit))
	}
}

func (u *Upstream) countSuccess() {
	u.slowStart.resume()
	limit := u.slowStart.limit.Load()
	if limit == noLimit {
		return
	}
	next := max(limit, unprovenLimit) * 2
	if next >= provenFrom {
		next = noLimit
	}
	u.slowStart.limit.CompareAndSwap(limit, next)
}

// countTimeout counts an attempt that timed out at a target at which other proxies succeed. It does nothing if the
// proxy has already served a request. The parameter at is the end of the attempt (Pool.Elapsed).
func (u *Upstream) countTimeout(at time.Duration) {
	if u.HasServed() {
		return
	}
	x := u.ensureAttemptFields()
	x.lastTimeout.Store(int64(at))
	if x.timeouts.Add(1) >= 2 {
		u.slowStart.limit.CompareAndSwap(unprovenLimit, unservedLimit)
		u.slowStart.limit.CompareAndSwap(pausedLimit(unprovenLimit), pausedLimit(unservedLimit))
	}
}

// Preferred reports whether the proxy has fewer attempts in flight than its preferred number. The parameter at is the
// current time (Pool.Elapsed).
func (u *Upstream) Preferred(at time.Duration) bool {
	limit := u.slowStart.limit.Load()
	if isPaused(limit) {
		if at-time.Duration(u.ensureAttemptFields().learntAt.Load()) <= learntPause {
			return false
		}
		limit = pausedLimit(limit)
	}
	if limit > unservedLimit {
		return u.inFlight.Load() < int64(limit)
	}
	return limit == unservedLimit && u.inFlight.Load() == 0 &&
		at-time.Duration(u.ensureAttemptFields().lastTimeout.Load()) > u.slowStartPause()
}

// HasFullLoad reports whether the proxy has no preferred number of attempts in flight any more, so that it is always
// Preferred.
func (u *Upstream) HasFullLoad() bool { return u.slowStart.limit.Load() == noLimit }

// slowStartPause returns the time for which the proxy is not preferred after its last timeout.
func (u *Upstream) slowStartPause() time.Duration {
	return firstPause << min(max(u.ensureAttemptFields().timeouts.Load()-2, 0), pauseSteps)
}

// IsUnreached reports whether the last reachability check failed and the proxy has never served a request.
func (u *Upstream) IsUnreached() bool {
	limit := u.slowStart.limit.Load()
	return limit == unreachedLimit || limit == firstPaused
}

// SetReached records the result of a reachability check.
func (u *Upstream) SetReached(ok bool) {
	u.slowStart.resume()
	switch {
	case ok && u.flags.has(checkFailed):
	case ok:
		u.slowStart.limit.CompareAndSwap(unreachedLimit, unprovenLimit)
	case !u.HasServed():
		u.slowStart.limit.CompareAndSwap(unprovenLimit, unreachedLimit)
		u.slowStart.limit.CompareAndSwap(unservedLimit, unreachedLimit)
	}
}
