package upstream

import "sync/atomic"

// flag is one bit of flags.
type flag uint32

const (
	draining        flag = 1 << iota
	pending              // the proxy is in the pool's pendingFailures
	failedToReach        // the last failure was a failure to connect to the proxy
	openedByCluster      // other gateways caused the last opening of the breaker
	checkFailed          // the last health check failed
)

// flags are boolean values. They are kept as bits, because a long list has many proxies.
type flags struct{ bits atomic.Uint32 }

func (f *flags) has(bit flag) bool { return f.bits.Load()&uint32(bit) != 0 }

// set sets a flag and returns its value before.
func (f *flags) set(bit flag, on bool) (before bool) {
	if on {
		return f.bits.Or(uint32(bit))&uint32(bit) != 0
	}
	return f.bits.And(^uint32(bit))&uint32(bit) != 0
}
