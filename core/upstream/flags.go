package upstream

import "sync/atomic"

// flag is one bit of flags.
type flag uint32

const (
	draining           flag = 1 << iota
	hasPendingFailures      // the proxy is in the pool's pendingFailures
	failedToReach           // the last failure was a failure to connect to the proxy
	openedByCluster         // other gateways caused the last opening of the breaker
	checkFailed             // the last health check failed
	checkPlanned            // see SetCheckPlanned
	known                   // see SetKnown
	hasLearnt               // the statistics for selections have failures of other gateways (Learn)
)

// flags are boolean values. They are kept as bits, because a long list has many proxies.
type flags struct{ bits atomic.Uint32 }

func (f *flags) has(bit flag) bool { return f.bits.Load()&uint32(bit) != 0 }

// The method set changes a flag, and returns the previous value of the flag.
func (f *flags) set(bit flag, on bool) (before bool) {
	if on {
		return f.bits.Or(uint32(bit))&uint32(bit) != 0
	}
	return f.bits.And(^uint32(bit))&uint32(bit) != 0
}

// SetCheckPlanned records whether a reachability check of the proxy is planned or in progress. It returns the previous
// value. Only the checker of the pool (package reach) calls it. A map of proxies in the checker would take more memory.
func (u *Upstream) SetCheckPlanned(on bool) (before bool) { return u.flags.set(checkPlanned, on) }

// CheckPlanned returns the value of the last SetCheckPlanned.
func (u *Upstream) CheckPlanned() bool { return u.flags.has(checkPlanned) }

// SetKnown records that the checker of the pool knows the proxy. It returns the previous value.
func (u *Upstream) SetKnown() (before bool) { return u.flags.set(known, true) }
