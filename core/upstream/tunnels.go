package upstream

import (
	"math"
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

// usualBytes holds, by target, the mean number of bytes that a tunnel brings to the client. Targets that share a place
// replace each other. Bits 32-63 are a part of the target's hash, bits 0-31 the mean as a float32.
type usualBytes [1024]atomic.Uint64

// usualAlpha is the weight of the latest tunnel in the moving average.
const usualAlpha = 0.2

func (b *usualBytes) place(target uint64) (place *atomic.Uint64, tag uint64) {
	return &b[target%uint64(len(b))], target >> 10 << 32
}

// get returns the mean for a target; 0 if it is unknown.
func (b *usualBytes) get(target uint64) int64 {
	place, tag := b.place(target)
	if word := place.Load(); word&^math.MaxUint32 == tag {
		return int64(math.Float32frombits(uint32(word)))
	}
	return 0
}

// add adds a tunnel to the mean of its target. If several tunnels end at the same time, one of them may be lost.
func (b *usualBytes) add(target uint64, bytes int64) {
	place, tag := b.place(target)
	mean := float32(bytes)
	if before := b.get(target); before > 0 {
		mean = float32(before) + usualAlpha*(mean-float32(before))
	}
	place.Store(tag | uint64(math.Float32bits(mean)))
}

// EndTunnel counts the end of a tunnel to the target. Unless breakers count literally, a tunnel that looks cut
// (verdict.TunnelEnd.Cut) counts as a failure of the breaker if the tunnels of other proxies to the same target end
// otherwise. The duration does not matter, because the tunnels of a fast proxy are shorter.
func (u *Upstream) EndTunnel(target evidence.Target, e *verdict.TunnelEnd) {
	if e.Short() {
		u.ends.short.Add(1)
	}
	if u.pool.literal.Load() || !e.Comparable() || !u.word.Closed() {
		return
	}
	now := u.pool.Elapsed(u.now())
	a := evidence.Attempt{Proxy: u.Hash(), Book: &u.ends.book, Target: target, Began: max(now-e.Lasted, 1), At: now}
	if !e.Cut(u.pool.tunnelBytes.get(target.Hash)) {
		u.pool.tunnelBytes.add(target.Hash, e.Down)
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
		return // at this target the tunnels of all proxies look cut
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
