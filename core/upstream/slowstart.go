package upstream

import (
	"math"
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// A proxy that has not shown that it works gets little traffic while others have
// shown it. Each proxy has a preferred number of attempts in flight:
//
//	none   it cannot be reached, and has never served a request
//	1      until its first success, and after its breaker has closed
//	2      while its last three attempts were failures
//	x 2    with each success, as TCP's slow start (RFC 5681, section 3.1)
//	any    from 64 on
//
// A choice prefers the proxies with fewer attempts in flight than that. Where there is
// none, every admissible proxy is as good as before: nothing is refused, and nothing waits.
//
// One failure changes nothing: where a scorer sends everything to the best proxy, each
// failure of one in fifty would send the next requests to worse ones (plugin simulate,
// outage: 94 % of the oracle instead of 99 %).
const (
	unreachable = 0
	unproven    = 1
	failing     = 2
	provenFrom  = 64
	unlimited   = math.MaxInt32
)

// slowStart is a proxy's preferred number of attempts in flight.
type slowStart struct{ limit atomic.Int32 }

// record takes the verdict of an attempt that counts, and how many attempts in a row
// have failed by now.
func (s *slowStart) record(v core.Verdict, failures float64) {
	limit := s.limit.Load()
	switch {
	case v == core.Success && limit < unlimited:
		next := max(limit, unproven) * 2
		if next >= provenFrom {
			next = unlimited
		}
		s.limit.CompareAndSwap(limit, next)
	case failures >= 3 && limit > failing:
		s.limit.Store(failing)
	}
}

// Preferred reports whether the proxy has fewer attempts in flight than it is
// preferred for.
func (u *Upstream) Preferred() bool { return u.inFlight.Load() < int64(u.slow.limit.Load()) }

// Unreached reports whether the last try to reach the proxy failed, and it
// has never served a request.
func (u *Upstream) Unreached() bool { return u.slow.limit.Load() == unreachable }

// SetReached takes the result of a connection that was opened to see whether the
// proxy can be reached.
func (u *Upstream) SetReached(ok bool) {
	switch {
	case ok:
		u.slow.limit.CompareAndSwap(unreachable, unproven)
	case !u.HasServed():
		u.slow.limit.CompareAndSwap(unproven, unreachable)
	}
}
