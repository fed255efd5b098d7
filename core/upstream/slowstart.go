package upstream

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// A proxy that has not shown that it works gets little traffic while others have
// shown it. Each proxy has a preferred number of attempts in flight:
//
//	none   it cannot be reached, and has never served a request; or all of its attempts,
//	       two or more, have failed: for 1 s from the last, then 2 s, 4 s, and 8 s each further time
//	1      until its first success, and after its breaker has closed
//	x 2    with each success, as in TCP's slow start (RFC 5681, section 3.1)
//	any    from 64 on
//
// A choice prefers the proxies with fewer attempts in flight than that. Where there is
// none, every admissible proxy is as good as before: nothing is refused, and nothing waits.
//
// The failures of a proxy that has served change nothing here: scorers see them, and the
// breaker does. With a limit of 2 after a failure, a scorer that sends everything to the best
// proxy would be sent to worse ones (plugin simulate, outage: 94 % of the oracle instead of
// 99 %; after three failures in a row still 98.5 %).
const (
	unreached  = -1
	unserved   = 0
	unproven   = 1
	provenFrom = 64
	unlimited  = math.MaxInt32
)

// The pauses of a proxy all of whose attempts have failed.
const (
	firstPause = time.Second
	pauseSteps = 3
)

// slowStart is a proxy's preferred number of attempts in flight.
type slowStart struct{ limit atomic.Int32 }

// countAttempt takes the verdict of an attempt that counts, after the window has.
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

// Preferred reports whether the proxy has fewer attempts in flight than it is
// preferred for at a moment (Pool.Elapsed).
func (u *Upstream) Preferred(at time.Duration) bool {
	limit := u.slow.limit.Load()
	if limit > unserved {
		return u.inFlight.Load() < int64(limit)
	}
	return limit == unserved && u.inFlight.Load() == 0 && at-time.Duration(u.lastUse.Load()) > u.pause()
}

// pause is how long a proxy all of whose attempts have failed is not preferred.
func (u *Upstream) pause() time.Duration {
	return firstPause << min(max(int(load(&u.stats.failures))-2, 0), pauseSteps)
}

// Unreached reports whether the last try to reach the proxy failed, and it
// has never served a request.
func (u *Upstream) Unreached() bool { return u.slow.limit.Load() == unreached }

// SetReached takes the result of a connection that was opened to see whether the
// proxy can be reached.
func (u *Upstream) SetReached(ok bool) {
	switch {
	case ok:
		u.slow.limit.CompareAndSwap(unreached, unproven)
	case !u.HasServed():
		u.slow.limit.CompareAndSwap(unproven, unreached)
		u.slow.limit.CompareAndSwap(unserved, unreached)
	}
}
