package upstream

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// avoidTime is the time for which a proxy is avoided for a target that probably refuses it. The ledger keeps the target
// for longer, so that one further failure at the target can renew the time.
const avoidTime = time.Minute

// Avoided returns the pairs of a proxy and a target that probably refuses the proxy (evidence.Finding.Banned). The
// proxy is chosen for the target only if there is no other candidate, if the target fails (evidence.TargetState), or
// for a session. Pair.Host is the target's host:port.
func (p *Pool) Avoided() *ban.Table { return p.avoided }

// avoidFor makes later requests for the target avoid u, because the target probably refuses u. It removes the failures
// at this target from the statistics of u, because they show nothing about other targets. The parameter at is the
// current time (Pool.Elapsed).
func (u *Upstream) avoidFor(t evidence.Target, at time.Duration) {
	u.pool.avoided.Begin(u.Hash(), t.Hash, ban.Pair{ProxyID: u.id, Host: t.Name, Since: at, Until: at + avoidTime})
	u.window.removeFailures(&u.stats, windowSize, tagOf(t.Hash))
}

// Uncompared returns pairs of a proxy and a target. The proxy has failed at the target, and no other proxy has been
// used for the target (evidence.Finding.Uncompared). The next attempt at the target goes through another proxy if there
// is a candidate. Pair.Host is the target's host:port.
func (p *Pool) Uncompared() *ban.Table { return p.uncompared }

// recordCompared removes the pairs of a target from Uncompared after a further attempt at the target.
func (p *Pool) recordCompared(target uint64, at time.Duration) {
	if len(p.uncompared.BansOf(target)) > 0 {
		p.uncompared.EndHost(target, at)
	}
}

// recordServedAgain is called when a target has served a request through u. From then on, u is not avoided for the
// target any more.
func (p *Pool) recordServedAgain(u *Upstream, target uint64, at time.Duration) {
	if _, avoided := p.avoided.BansOf(target).EndOf(u.Hash(), at); avoided {
		p.avoided.End(u.Hash(), target, at)
	}
}

// Reset resets the breaker (breaker.Breaker.Reset) and removes all evidence against the proxy. If the proxy's
// statistics have failures, the proxy soon gets attempts that may replace them (see trial).
func (u *Upstream) Reset() {
	u.breaker.Reset()
	x := u.ensureAttemptFields()
	x.book.Reset(u.breaker.Generation())
	if ends := x.tunnelEnds.Load(); ends != nil {
		ends.book.Reset(u.breaker.Generation())
	}
	u.pool.avoided.EndProxy(u.Hash(), u.pool.Elapsed(u.now()))
	u.pool.uncompared.EndProxy(u.Hash(), u.pool.Elapsed(u.now()))
	if !u.pool.literal.Load() {
		u.window.trial.begin()
	}
}
