package transport

import (
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// CloseIdle closes the idle connections of a proxy that has left the pool.
func (t *Transport) CloseIdle(u *upstream.Upstream) {
	if p, ok := t.pools.LoadAndDelete(u); ok {
		p.(*idlePool).close()
	}
}

// Close closes all idle connections.
func (t *Transport) Close() {
	t.watcher.Close()
	t.pools.Range(func(u, p any) bool {
		t.pools.Delete(u)
		p.(*idlePool).close()
		return true
	})
}

// CloseExpired closes the connections that have been idle for longer than idleTimeout.
func (t *Transport) CloseExpired() { t.closeIdleBefore(t.cfg.Now().Add(-idleTimeout)) }

// The limits of CloseSurplus.
const (
	minIdleKept = 64              // idle connections per proxy that CloseSurplus does not close
	surplusAge  = 3 * time.Second // idle time after which surplus connections are closed
)

// CloseSurplus closes idle connections that a burst of requests has left. It closes the connections that have been idle
// for surplusAge, the oldest first, but keeps minIdleKept connections per proxy. Requests seldom need the oldest
// connections: a request reuses the connection to its target that became idle last.
func (t *Transport) CloseSurplus() {
	cutoff := t.cfg.Now().Add(-surplusAge)
	t.pools.Range(func(_, p any) bool {
		p.(*idlePool).closeSurplus(cutoff)
		return true
	})
}

// CloseAllIdle closes all idle connections. The Transport remains usable.
func (t *Transport) CloseAllIdle() { t.closeIdleBefore(t.cfg.Now()) }

// CloseOldestIdle closes the connections that have been idle for the longest time: an eighth of all idle connections,
// at least one. It returns false if there is no idle connection.
func (t *Transport) CloseOldestIdle() bool {
	var since []time.Time
	t.pools.Range(func(_, p any) bool {
		since = p.(*idlePool).appendIdleTimes(since)
		return true
	})
	if len(since) == 0 {
		return false
	}
	slices.SortFunc(since, time.Time.Compare)
	last := since[max(len(since)/8, 1)-1]
	return t.closeIdleBefore(last.Add(1)) > 0 // also closes the connections that became idle at the time last
}

// closeIdleBefore closes the connections that became idle before cutoff, and returns their number.
func (t *Transport) closeIdleBefore(cutoff time.Time) (closed int) {
	t.pools.Range(func(_, p any) bool {
		closed += p.(*idlePool).closeIdleBefore(cutoff)
		return true
	})
	return closed
}
