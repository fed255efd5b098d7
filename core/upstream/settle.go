package upstream

import (
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Settle reports the attempt's outcome to the breaker, the ledger and the statistics of its proxy. After a
// failure, it returns the ledger's finding, which is empty if breaker.blame is "literal". A second call does
// nothing.
func (l *Lease) Settle(o *core.Outcome) (found evidence.Finding) {
	if l.Proxy == nil || l.settled {
		return found
	}
	l.settled = true
	u, counted, reported, enough := l.Proxy, o.Verdict, o.Verdict, breaker.Literal
	if !u.pool.literal.Load() {
		found, enough = l.weigh(o)
		if found.TargetFails && !found.Worse && o.Charge != core.ChargeProxy { // every proxy fails at this target
			counted = core.Excluded
			if l.permit.Probe() && u.pool.others(u) > 0 { // without another proxy, the probe counts as a failure
				reported = core.Excluded
			}
		}
		if o.Verdict == core.Failure && o.Charge != core.ChargeProxy && found.OthersFail && !found.JustServed {
			counted = core.Excluded // the target is the likely cause
		}
		if found.Banned && !found.Worse {
			counted = core.Excluded // the statistics are about all targets
			u.avoidFor(l.Target, l.endOf(o))
		}
	}
	switch {
	case l.check:
	case counted == core.Excluded:
		u.window.trial.release()
	default:
		u.window.add(&u.stats, counted, result{o.Latency, l.endOf(o), tagOf(l.Target.Hash)},
			time.Duration(u.pool.memory.Load()), u.pool.literal.Load())
		u.removeWithdrawn()
	}
	l.permit.Report(reported, enough)
	if f := u.pool.onFailure; f != nil && reported == core.Failure {
		f(u)
	}
	return found
}

// SettleUnserved settles an attempt whose charge depended on other proxies, after none of them has served the request.
// The proxy is not charged. If the proxy refused the request (verdict.IsRefusal), the target counts as failing.
func (l *Lease) SettleUnserved(o *core.Outcome) {
	if l.Proxy == nil || l.settled || l.Proxy.pool.literal.Load() || !verdict.IsRefusal(o.Cause) {
		return
	}
	l.settled = true
	u := l.Proxy
	a := evidence.Attempt{
		Proxy: u.Hash(), Target: l.Target, At: l.endOf(o), Peers: u.pool.others(u),
	}
	a.Bans = u.pool.avoided.RestingAt(l.Target.Hash).AnyRests(a.At)
	u.pool.ledger.RefusedByAll(&a)
}

// removeWithdrawn removes from the window the failures that the ledger has withdrawn. Withdrawn failures that are not
// in the window yet are removed by the next call.
func (u *Upstream) removeWithdrawn() {
	if n := u.takeWithdrawn(); n > 0 {
		u.extra().book.ReturnWithdrawn(n - u.window.removeFailures(&u.stats, n, anyTarget))
	}
}

// takeWithdrawn is Book.TakeWithdrawn of the proxy's book.
func (u *Upstream) takeWithdrawn() int {
	if x := u.extras.Load(); x != nil {
		return x.book.TakeWithdrawn()
	}
	return 0
}

// weigh records the attempt in the pool's ledger. It returns the finding and the evidence for
// the breaker.
func (l *Lease) weigh(o *core.Outcome) (found evidence.Finding, enough breaker.Evidence) {
	u := l.Proxy
	ledger := u.pool.ledger
	a := evidence.Attempt{
		Proxy: u.Hash(), Book: &u.extra().book, Gen: l.permit.Generation(), Target: l.Target, Began: l.began,
		At:  l.endOf(o),
		Own: o.Charge == core.ChargeProxy, Cause: uint8(o.Cause), ServedByOther: l.ServedByOther,
		Uncounted: l.check,
	}
	switch o.Verdict {
	case core.Success:
		ledger.Served(&a)
		if !l.check {
			u.countSuccess()
			u.pool.servedAgain(u, l.Target.Hash, a.At)
			u.pool.compared(l.Target.Hash, a.At)
		}
	case core.Failure:
		u.flags.set(failedToReach, verdict.IsConnectFailure(o.Cause))
		a.Reported = o.Cause == verdict.TargetUnreachable
		cfg := u.breaker.Config()
		a.Threshold, a.Window = cfg.FailureThreshold, cfg.WindowDuration
		a.Peers, a.Pool = u.pool.others(u), len(u.pool.Snapshot().All)
		a.Bans = u.pool.avoided.RestingAt(l.Target.Hash).AnyRests(a.At)
		found = ledger.Failed(&a)
		u.pool.compared(l.Target.Hash, a.At)
		if found.Uncompared {
			u.pool.uncompared.BeginRest(u.Hash(), l.Target.Hash,
				rest.Pair{ProxyID: u.id, Host: l.Target.Name, Since: a.At, Until: a.At + avoidTime})
		}
		if found.JustServed && verdict.IsTimeout(o.Cause) {
			u.countTimeout(a.At)
		}
		if found.Worse {
			enough = u.tooMuchEvidence()
		} else {
			u.pool.pending.add(u)
		}
	}
	return found, enough
}

// tooMuchEvidence stores the evidence against the proxy, and returns it for the breaker.
func (u *Upstream) tooMuchEvidence() breaker.Evidence {
	why := u.extra().book.Why(u.pool.ledger)
	u.why.Store(&why)
	return breaker.Evidence{Enough: true, Why: why.Text(causeWord)}
}

// CountUnreached reports a failed reachability check to the breaker. It does nothing if the breaker admits no attempt.
// The parameter tries is the number of failed checks in a row. The statistics do not change, because no request was
// sent.
func (u *Upstream) CountUnreached(cause core.Cause, tries int) {
	permit, ok := u.breaker.Acquire()
	if !ok {
		return
	}
	found := u.pool.unreached.find(cause, tries)
	u.why.Store(&found.why)
	u.flags.set(failedToReach, true)
	permit.Report(core.Failure, breaker.Evidence{Enough: true, Why: found.text})
	if f := u.pool.onFailure; f != nil {
		f(u)
	}
}

// unreachedWhys holds the evidence of failed reachability checks. All proxies with the same number of failed checks
// share it, because most proxies of a long list may be dead.
type unreachedWhys struct {
	mu   sync.Mutex
	list map[checks]*unreachedWhy
}

// checks is a number of failed reachability checks in a row, and the cause of the last one.
type checks struct {
	cause core.Cause
	n     int
}

type unreachedWhy struct {
	why  evidence.Why // must not be changed
	text string
}

// maxShared is the largest number of failed checks whose evidence is shared.
const maxShared = 32

// find returns the evidence of n failed checks. If there is none, it creates it.
func (s *unreachedWhys) find(cause core.Cause, n int) *unreachedWhy {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := checks{cause, n}
	if w := s.list[key]; w != nil {
		return w
	}
	w := &unreachedWhy{why: evidence.Why{
		Failures: n, Own: n, OwnCause: []evidence.CauseCount{{Cause: uint8(cause), Count: n}},
		Evidence: evidence.Needed, Needed: evidence.Needed,
	}}
	w.text = w.why.Text(causeWord)
	if n <= maxShared {
		if s.list == nil {
			s.list = map[checks]*unreachedWhy{}
		}
		s.list[key] = w
	}
	return w
}

func causeWord(c uint8) string { return verdict.CauseName(core.Cause(c)) }

// Target returns the target with the given authority: host:port in lower case.
func Target(authority string) evidence.Target {
	return evidence.Target{Hash: uint64(core.Hash53(authority)), Name: authority}
}

// Hash returns IDHash as an integer, without loss of precision.
func (u *Upstream) Hash() uint64 { return uint64(u.idHash) }

// Why returns the evidence against the proxy. If its breaker is closed, this is the evidence of the current
// episode; otherwise it is the evidence that opened the breaker.
func (u *Upstream) Why() evidence.Why {
	if why := u.why.Load(); why != nil && !u.word.Closed() {
		return *why
	}
	if x := u.extras.Load(); x != nil {
		return x.book.Why(u.pool.ledger)
	}
	return evidence.Why{Needed: evidence.Needed}
}
