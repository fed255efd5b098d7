package upstream

import (
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// tunnelEnds are the ends of a proxy's tunnels. An end is compared with those of the other proxies' tunnels
// to the same target. Attempts are not part of this, because a tunnel that has brought a byte is a success
// however it ends.
type tunnelEnds struct {
	short atomic.Uint64
	book  evidence.Book
}

// EndTunnel counts the end of a tunnel to the target. Unless breakers count literally, a short tunnel counts
// as a failure of the breaker if the tunnels of other proxies to the same target end otherwise.
func (u *Upstream) EndTunnel(target evidence.Target, e *verdict.TunnelEnd) {
	short := e.Short()
	if short {
		u.ends.short.Add(1)
	}
	if u.pool.literal.Load() || !e.Comparable() || !u.word.Closed() {
		return
	}
	now := u.pool.Elapsed(u.now())
	a := evidence.Attempt{Proxy: u.Hash(), Book: &u.ends.book, Target: target, Began: max(now-e.Lasted, 1), At: now}
	if !short {
		u.pool.ends.Served(&a)
		return
	}
	permit, ok := u.breaker.Acquire()
	if !ok {
		return
	}
	if permit.Probe() { // the breaker has opened since the tunnel was opened
		permit.Report(core.Excluded, breaker.Evidence{})
		return
	}
	cfg := u.breaker.Config()
	a.Gen, a.Threshold, a.Window, a.Cause = permit.Generation(), cfg.FailureThreshold, cfg.WindowDuration,
		uint8(verdict.TunnelDied)
	a.Peers, a.Pool = u.pool.others(u), len(u.pool.Snapshot().All)
	found := u.pool.ends.Failed(&a)
	if !found.OthersServed {
		return // at this target the tunnels of all proxies are short
	}
	enough := breaker.Evidence{Enough: found.Worse}
	if found.Worse {
		why := u.ends.book.Why(u.pool.ends)
		u.why.Store(&why)
		enough.Why = "short tunnels: " + why.Text(func(uint8) string { return "short_tunnel" })
	}
	permit.Report(core.Failure, enough)
}

// ShortTunnels returns the number of short tunnels (verdict.TunnelEnd.Short) since the proxy was added.
func (u *Upstream) ShortTunnels() uint64 { return u.ends.short.Load() }
