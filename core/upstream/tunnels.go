package upstream

import (
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// tunnelEnds holds the ends of a proxy's followed tunnels: tunnels in which the gateway reads the TLS records of the
// target. The end of a cut tunnel is a failure, any other end is a success. These ends have a ledger of their own. In
// the ledger of the attempts, the attempt of a tunnel is a success when the target's first byte arrives.
type tunnelEnds struct {
	followed atomic.Uint64 // followed tunnels, counted at their first byte
	others   atomic.Uint64 // successful attempts in the field book, apart from the followed tunnels
	book     evidence.Book
}

// FollowTunnel counts a tunnel whose TLS records the gateway reads. It is called at the target's first byte.
func (l *Lease) FollowTunnel() { l.Proxy.ensureEnds().followed.Add(1) }

// ensureEnds returns the ends of the proxy's followed tunnels. If there are none, it creates them.
func (u *Upstream) ensureEnds() *tunnelEnds {
	x := u.ensureAttemptFields()
	if ends := x.tunnelEnds.Load(); ends != nil {
		return ends
	}
	x.tunnelEnds.CompareAndSwap(nil, new(tunnelEnds))
	return x.tunnelEnds.Load()
}

// EndTunnel is called when a tunnel has ended at the given time, with the cause of its outcome. It counts short
// tunnels. The end of a followed tunnel is evidence for or against the proxy, unless breaker.blame is "literal".
func (l *Lease) EndTunnel(e *verdict.TunnelEnd, cause core.Cause, at time.Time) {
	u := l.Proxy
	if e.IsShort() {
		u.ensureAttemptFields().shortTunnels.Add(1)
	}
	if !e.Followed || e.StoppedByGateway || u.pool.literal.Load() || !u.breakerWord.IsClosed() {
		return
	}
	ends, ended := u.ensureEnds(), max(u.Elapsed(at), l.began)
	a := evidence.Attempt{
		Proxy: u.Hash(), Book: &ends.book, BreakerGen: l.breakerGen(), Target: l.Target,
		Began: max(l.began, ended-maxTunnelAge), Ended: ended, Cause: uint8(cause), ServedByOther: true,
		NotInStats: true,
	}
	if cause != verdict.TunnelCut {
		u.pool.tunnelEnds.RecordSuccess(&a)
		return
	}
	if a.ClosedPeers = u.pool.countOthers(u); a.ClosedPeers == 0 { // there is no comparison
		return
	}
	permit, ok := u.breaker.Acquire()
	if !ok {
		return
	}
	if permit.Generation() != a.BreakerGen { // the breaker has changed its state since the tunnel was opened
		permit.Report(core.Excluded, breaker.Evidence{})
		return
	}
	u.addOtherSuccesses(ends)
	cfg := u.breaker.Config()
	a.Threshold, a.Window, a.PoolSize = cfg.FailureThreshold, cfg.WindowDuration, len(u.pool.Snapshot().All)
	cut := breaker.Evidence{}
	if u.pool.tunnelEnds.RecordFailure(&a).ShouldOpen {
		why := ends.book.Report(u.pool.tunnelEnds)
		u.openEvidence.Store(&why)
		cut = breaker.Evidence{IsEnough: true, Explanation: why.Text(causeWord)}
	}
	permit.Report(core.Failure, cut)
	if f := u.pool.onFailure; f != nil {
		f(u)
	}
}

// maxTunnelAge limits the age of a tunnel in its evidence.Attempt. It is less than half of the longest time that
// package evidence can compare.
const maxTunnelAge = 15 * time.Minute

// breakerGen returns the generation that the breaker had after the first byte of the lease's tunnel had arrived.
func (l *Lease) breakerGen() uint64 {
	if l.Probe() {
		return l.permit.Generation() + 1 // the success of the probe has closed the breaker
	}
	return l.permit.Generation()
}

// addOtherSuccesses adds to the book of the tunnel ends the attempts without a followed tunnel that have succeeded
// since the last cut tunnel. They outweigh cut tunnels as they outweigh failed attempts. If a client's target cuts its
// tunnels at some proxies, the breakers of a pool that mostly serves other targets therefore stay closed.
func (u *Upstream) addOtherSuccesses(ends *tunnelEnds) {
	followed, successes := ends.followed.Load(), u.ensureAttemptFields().book.Successes()
	others := successes - min(followed, successes)
	for before := ends.others.Load(); others > before; before = ends.others.Load() {
		if ends.others.CompareAndSwap(before, others) {
			ends.book.AddSuccesses(others - before)
			return
		}
	}
}

// ShortTunnels returns the number of short tunnels (verdict.TunnelEnd.IsShort) since the proxy was added.
func (u *Upstream) ShortTunnels() uint64 {
	if x := u.attemptFields.Load(); x != nil {
		return x.shortTunnels.Load()
	}
	return 0
}
