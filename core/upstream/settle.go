package upstream

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
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
	}
	switch {
	case l.check:
	case counted == core.Excluded:
		u.window.trial.release()
	default:
		u.window.add(&u.stats, counted, o.Latency, l.began+o.Latency, time.Duration(u.pool.memory.Load()),
			u.pool.literal.Load())
		u.removeWithdrawn()
	}
	l.permit.Report(reported, enough)
	return found
}

// removeWithdrawn removes the failures from the window that the ledger has withdrawn. Those that are not in the
// window yet are removed by the next call.
func (u *Upstream) removeWithdrawn() {
	if n := u.book.TakeWithdrawn(); n > 0 {
		u.book.ReturnWithdrawn(n - u.window.removeFailures(&u.stats, n))
	}
}

// weigh records the attempt in the pool's ledger. It returns the finding and the evidence for
// the breaker.
func (l *Lease) weigh(o *core.Outcome) (found evidence.Finding, enough breaker.Evidence) {
	u := l.Proxy
	ledger := u.pool.ledger
	a := evidence.Attempt{
		Proxy: u.Hash(), Book: &u.book, Gen: l.permit.Generation(), Target: l.Target, Began: l.began,
		At:  l.began + o.Latency,
		Own: o.Charge == core.ChargeProxy, Cause: uint8(o.Cause), ServedByOther: l.ServedByOther,
		Uncounted: l.check,
	}
	switch o.Verdict {
	case core.Success:
		ledger.Served(&a)
		if !l.check {
			u.countSuccess()
		}
	case core.Failure:
		u.failedToReach.Store(verdict.Unreached(o.Cause))
		cfg := u.breaker.Config()
		a.Threshold, a.Window = cfg.FailureThreshold, cfg.WindowDuration
		a.Peers, a.Pool = u.pool.others(u), len(u.pool.Snapshot().All)
		found = ledger.Failed(&a)
		if found.JustServed && verdict.TimedOut(o.Cause) {
			u.countTimeout(a.At)
		}
		if enough.Enough = found.Worse; found.Worse {
			why := u.book.Why(ledger)
			u.why.Store(&why)
			enough.Why = why.Text(causeWord)
		}
	}
	return found, enough
}

// CountUnreached reports a failed reachability check to the breaker. It does nothing if the breaker admits
// no attempt. tries is the number of failed checks in a row. The statistics do not change, because no
// request was sent.
func (u *Upstream) CountUnreached(cause core.Cause, tries int) {
	permit, ok := u.breaker.Acquire()
	if !ok {
		return
	}
	why := evidence.Why{
		Failures: tries, Own: tries, OwnCause: []evidence.CauseCount{{Cause: uint8(cause), Count: tries}},
		Evidence: evidence.Needed, Needed: evidence.Needed,
	}
	u.why.Store(&why)
	u.failedToReach.Store(true)
	permit.Report(core.Failure, breaker.Evidence{Enough: true, Why: why.Text(causeWord)})
}

func causeWord(c uint8) string { return verdict.Word(core.Cause(c)) }

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
	return u.book.Why(u.pool.ledger)
}
