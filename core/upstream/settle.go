package upstream

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Settle tells breaker and statistics how the attempt went, and returns what the
// rest of the pool's attempts say of a failure: nothing where breakers count
// literally. A second call does nothing.
func (l *Lease) Settle(o *core.Outcome) (found evidence.Finding) {
	if l.Proxy == nil || l.settled {
		return found
	}
	l.settled = true
	u, counted, reported, enough := l.Proxy, o.Verdict, o.Verdict, breaker.Literal
	if !u.pool.literal.Load() {
		found, enough = l.weigh(o)
		if found.TargetFails && !found.Worse && o.Charge != core.ChargeProxy { // it would have failed through any proxy
			counted = core.Excluded
			if l.permit.Probe() && u.pool.others(u) > 0 { // where nobody else serves, a probe that fails has failed
				reported = core.Excluded
			}
		}
	}
	if counted != core.Excluded {
		u.window.add(&u.stats, counted, o.Latency, l.began+o.Latency, time.Duration(u.pool.memory.Load()))
		if !u.pool.literal.Load() {
			u.countAttempt(counted)
		}
	}
	l.permit.Report(reported, enough)
	return found
}

// weigh enters the attempt into the pool's ledger and returns what it says.
func (l *Lease) weigh(o *core.Outcome) (found evidence.Finding, enough breaker.Evidence) {
	u := l.Proxy
	ledger := u.pool.ledger
	a := evidence.Attempt{
		Proxy: u.Hash(), Book: &u.book, Gen: l.permit.Generation(), Target: l.Target, Began: l.began, At: l.began + o.Latency,
		Own: o.Charge == core.ChargeProxy, Cause: uint8(o.Cause), ServedByOther: l.ServedByOther,
	}
	switch o.Verdict {
	case core.Success:
		ledger.Served(&a)
	case core.Failure:
		u.failedToReach.Store(verdict.Unreached(o.Cause))
		cfg := u.breaker.Config()
		a.Threshold, a.Window = cfg.FailureThreshold, cfg.WindowDuration
		a.Peers, a.Pool = u.pool.others(u), len(u.pool.Snapshot().All)
		found = ledger.Failed(&a)
		if enough.Enough = found.Worse; found.Worse {
			why := u.book.Why(ledger)
			u.why.Store(&why)
			enough.Why = why.Text(causeWord)
		}
	}
	return found, enough
}

// CountUnreached counts a failed check of whether the proxy can be reached as a failure
// for its breaker, if that admits an attempt. tries is how many have failed in a row. The
// proxy's statistics do not change: no request was tried.
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

// Target names a target by its host:port, in lower case.
func Target(authority string) evidence.Target {
	return evidence.Target{Hash: uint64(core.Hash53(authority)), Name: authority}
}

// Hash is IDHash as a whole number, which it is.
func (u *Upstream) Hash() uint64 { return uint64(u.idHash) }

// Why says what the proxy's failures are, beside those of the rest of the pool: while
// its breaker is closed the failures of late, else those that opened it.
func (u *Upstream) Why() evidence.Why {
	if why := u.why.Load(); why != nil && !u.word.Closed() {
		return *why
	}
	return u.book.Why(u.pool.ledger)
}
