package evidence

import (
	"sync"
	"time"
)

const (
	maxCutProxies = 8 // number of proxies in Ledger.cuts
	// stallSpread is the longest time between the cuts of one stall. The attempts that a stall affects began at
	// different times, so their adaptive timeouts end at different times.
	stallSpread = 250 * time.Millisecond
	// stallProxies is the number of other proxies that a stall also has to affect, or all if the pool has fewer.
	stallProxies = 2
)

// cuts holds the proxies whose attempts were cut short last.
type cuts struct {
	mu     sync.Mutex // guards latest
	latest [maxCutProxies]struct {
		proxy uint64 // hash; 0 for an empty entry
		at    time.Duration
	}
}

// RecordCutShort records that an attempt through a proxy was cut short. It reports whether the pool seems to have been
// silent since the attempt began: no response has begun in a tick of recentSuccesses after the tick of the attempt's
// beginning. A response counts only when its body has ended.
func (l *Ledger) RecordCutShort(proxy uint64, began, ended time.Duration) (silent bool) {
	l.cuts.mu.Lock()
	entry := &l.cuts.latest[0] // the entry of the proxy, or the oldest one
	for i := range l.cuts.latest {
		c := &l.cuts.latest[i]
		if c.proxy == proxy {
			entry = c
			break
		}
		if c.at < entry.at {
			entry = c
		}
	}
	entry.proxy, entry.at = proxy, ended
	l.cuts.mu.Unlock()
	return !l.recent.hasAnyAfterTick(began, ended)
}

// OthersCutShort reports whether attempts through at least two other proxies were cut short at the given time or later.
// If there are fewer other proxies with a closed breaker, it requires all of them, but at least one. If the pool was
// silent as well (RecordCutShort), the whole pool has probably stalled for a moment, so the attempt is no evidence
// against its proxy. The reason may be the network between gateway and proxies, or the machine.
func (l *Ledger) OthersCutShort(proxy uint64, at time.Duration, closedPeers int) bool {
	l.cuts.mu.Lock()
	defer l.cuts.mu.Unlock()
	n := 0
	for _, c := range l.cuts.latest {
		if c.proxy != 0 && c.proxy != proxy && c.at >= at-stallSpread {
			n++
		}
	}
	return n >= max(min(stallProxies, closedPeers), 1)
}
