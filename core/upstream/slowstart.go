package upstream

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// A proxy gets few attempts in flight until it has had some successes, as long as other proxies are
// available. Each proxy has a preferred number of attempts in flight:
//
//	0          while it cannot be reached and has never served a request. Also if all its attempts,
//	           at least two, have failed: for 1 s after the second, then 2 s, 4 s, and 8 s after
//	           each further one
//	1          until its first success, and after its breaker has closed
//	doubled    by each success, as in TCP's slow start (RFC 5681, section 3.1)
//	unlimited  from 64 on
//
// A selection prefers the proxies with fewer attempts in flight than that. If there is none, it
// ignores the number: no request is refused and none waits.
//
// Failures of a proxy that has served do not lower the number, since scorers and breaker use them
// already. Otherwise a scorer that sends everything to the best proxy would have to use worse ones: with a
// limit of 2 after one failure it had 94 % of the oracle's successes in the scenario outage of
// plugin simulate, with a limit of 2 after three failures in a row 98.5 %, and without a limit 99 %.
const (
	unreached  = -1 // stands for 0: the proxy cannot be reached
	unserved   = 0  // all attempts have failed
	unproven   = 1  // until the first success
	provenFrom = 64 // successes double the number up to this
	unlimited  = math.MaxInt32
)

// The time for which a proxy is not preferred if all its attempts have failed.
const (
	firstPause = time.Second // after the second failure
	pauseSteps = 3           // doublings by further failures
)

// slowStart is a proxy's preferred number of attempts in flight.
type slowStart struct{ limit atomic.Int32 }

// countAttempt adjusts the preferred number after an attempt that is already in the window.
func (u *Upstream) countAttempt(v core.Verdict) {
	limit := u.slow.limit.Load()
	switch {
	case v == core.Success && limit < unlimited:
		next := max(limit, unproven) * 2
		if next >= provenFrom {
			next = unlimited
		}
		u.slow.limit.CompareAndSwap(limit, next)
	case v != core.Failure:
	case limit == unproven && !u.HasServed() && load(&u.stats.failures) >= 2:
		u.slow.limit.CompareAndSwap(unproven, unserved)
	}
}

// Preferred reports whether the proxy has fewer attempts in flight than its preferred number at a
// time (Pool.Elapsed).
func (u *Upstream) Preferred(at time.Duration) bool {
	limit := u.slow.limit.Load()
	if limit > unserved {
		return u.inFlight.Load() < int64(limit)
	}
	return limit == unserved && u.inFlight.Load() == 0 && at-time.Duration(u.lastUse.Load()) > u.pause()
}

// pause returns the time for which a proxy is not preferred if all its attempts have failed.
func (u *Upstream) pause() time.Duration {
	return firstPause << min(max(int(load(&u.stats.failures))-2, 0), pauseSteps)
}

// Unreached reports whether the last check could not reach the proxy, and the proxy has never
// served a request.
func (u *Upstream) Unreached() bool { return u.slow.limit.Load() == unreached }

// SetReached records whether a check could open a connection to the proxy.
func (u *Upstream) SetReached(ok bool) {
	switch {
	case ok:
		u.slow.limit.CompareAndSwap(unreached, unproven)
	case !u.HasServed():
		u.slow.limit.CompareAndSwap(unproven, unreached)
		u.slow.limit.CompareAndSwap(unserved, unreached)
	}
}
