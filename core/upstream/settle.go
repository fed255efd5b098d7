package upstream

import (
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// provenAge is the maximum age of a proxy's latest success for evidence.Finding.NoneServesNow.
const provenAge = time.Minute

// Settle reports the attempt's outcome to the breaker, the ledger and the statistics of its proxy. After a
// failure, it returns the ledger's finding, which is empty if breaker.blame is "literal". A second call does
// nothing.
func (l *Lease) Settle(o *core.Outcome) (finding evidence.Finding) {
	if l.Proxy == nil || l.settled {
		return finding
	}
	l.settled = true
	u, statsVerdict, breakerVerdict, breakerEvidence := l.Proxy, o.Verdict, o.Verdict, breaker.AlwaysEnough
	if !u.pool.literal.Load() {
		finding, breakerEvidence = l.recordEvidence(o)
		if finding.TargetFails && !finding.ShouldOpen && o.Charge != core.ChargeProxy { // all proxies fail there
			statsVerdict = core.Excluded
			if l.permit.IsProbe() && u.pool.countOthers(u) > 0 { // without another proxy, the probe counts as a failure
				breakerVerdict = core.Excluded
			}
		}
		if o.Verdict == core.Failure && o.Charge != core.ChargeProxy &&
			finding.OthersFail && !finding.OtherJustSucceeded {
			statsVerdict = core.Excluded // the target is the likely cause
		}
		if finding.Banned && !finding.ShouldOpen {
			statsVerdict = core.Excluded // the statistics are about all targets
			u.avoidFor(l.Target, l.endTime(o))
		}
	}
	switch {
	case l.isCheck:
	case statsVerdict == core.Excluded:
		u.window.trial.endExcluded()
	default:
		u.window.addAttempt(&u.stats, statsVerdict, attemptResult{o.Latency, l.endTime(o), tagOf(l.Target.Hash)},
			time.Duration(u.pool.memory.Load()), u.pool.literal.Load())
		u.removeWithdrawn()
	}
	l.permit.Report(breakerVerdict, breakerEvidence)
	if f := u.pool.onFailure; f != nil && breakerVerdict == core.Failure {
		f(u)
	}
	return finding
}

// SettleUnserved settles an attempt that would be charged to its proxy if another proxy had served the request. The
// caller must be certain that none has. The proxy is therefore not charged. The target counts as failing if the proxy
// refused the request (verdict.IsRefusal). It also counts as failing if the attempt was cut short, unless the proxy has
// never served a request: then the proxy itself may be the cause.
func (l *Lease) SettleUnserved(o *core.Outcome) {
	u := l.Proxy
	if u == nil || l.settled || u.pool.literal.Load() ||
		!verdict.IsRefusal(o.Cause) && !(o.Cause == verdict.CutShort && u.HasServed()) {
		return
	}
	l.settled = true
	a := evidence.Attempt{
		Proxy: u.Hash(), Target: l.Target, Ended: l.endTime(o), ClosedPeers: u.pool.countOthers(u),
	}
	a.TargetBans = u.pool.avoided.BansOf(l.Target.Hash).HasBan(a.Ended)
	u.pool.ledger.RecordUnserved(&a)
}

// RecordCutShort records that the attempt with outcome o was cut short. It reports whether nothing has succeeded
// through the pool since the attempt began (evidence.Ledger.RecordCutShort). With blame = "literal" it does nothing.
func (l *Lease) RecordCutShort(o *core.Outcome) (poolWasSilent bool) {
	u := l.Proxy
	return !u.pool.literal.Load() && u.pool.ledger.RecordCutShort(u.Hash(), l.began, l.endTime(o))
}

// InStall reports whether the attempt with outcome o, which was cut short, may be part of a stall of the whole pool.
// Attempts through other proxies were then cut short at that time or later (evidence.Ledger.OthersCutShort). The probe
// of a breaker is never part of a stall. An attempt is not part of it either if it ends more than maxStall after the
// proxy's first attempt in the stall, unless the proxy has served a request since. So a proxy that hangs is soon
// charged.
func (l *Lease) InStall(o *core.Outcome) bool {
	u, at := l.Proxy, l.endTime(o)
	if l.Probe() || !u.pool.ledger.OthersCutShort(u.Hash(), at, u.pool.countOthers(u)) {
		return false
	}
	x := u.ensureAttemptFields()
	begun := time.Duration(x.stallBegun.Load())
	if begun == 0 || time.Duration(u.window.lastSuccess.Load()) > begun {
		x.stallBegun.Store(int64(at))
		return true
	}
	return at-begun <= maxStall
}

// maxStall is the time for which a stall of the pool may last (InStall).
const maxStall = time.Second

// removeWithdrawn removes from the proxy's statistics the failures that the ledger has withdrawn, because other proxies
// fail at the target, too. A failure that is not in the statistics yet is removed by the next call.
func (u *Upstream) removeWithdrawn() {
	if n := u.takeWithdrawn(); n > 0 {
		u.ensureAttemptFields().book.ReturnWithdrawn(n - u.window.removeFailures(&u.stats, n, anyTarget))
	}
}

// takeWithdrawn returns the number of withdrawn failures that are still to be removed from the statistics
// (Book.TakeWithdrawn).
func (u *Upstream) takeWithdrawn() int {
	if x := u.attemptFields.Load(); x != nil {
		return x.book.TakeWithdrawn()
	}
	return 0
}

// recordEvidence records the attempt in the pool's ledger. It returns the finding and the evidence for
// the breaker.
func (l *Lease) recordEvidence(o *core.Outcome) (finding evidence.Finding, breakerEvidence breaker.Evidence) {
	u := l.Proxy
	ledger := u.pool.ledger
	a := evidence.Attempt{
		Proxy: u.Hash(), Book: &u.ensureAttemptFields().book, BreakerGen: l.permit.Generation(), Target: l.Target,
		Began: l.began, Ended: l.endTime(o),
		OwnFailure: o.Charge == core.ChargeProxy, Cause: uint8(o.Cause), ServedByOther: l.ServedByOther,
		NotInStats: l.isCheck,
	}
	switch o.Verdict {
	case core.Success:
		ledger.RecordSuccess(&a)
		if !l.isCheck {
			u.countSuccess()
			u.pool.recordServedAgain(u, l.Target.Hash, a.Ended)
			u.pool.recordCompared(l.Target.Hash, a.Ended)
		}
	case core.Failure:
		u.flags.set(failedToReach, verdict.IsConnectFailure(o.Cause))
		a.ReportedByProxy = o.Cause == verdict.TargetUnreachable
		cfg := u.breaker.Config()
		a.Threshold, a.Window = cfg.FailureThreshold, cfg.WindowDuration
		a.ClosedPeers, a.PoolSize = u.pool.countOthers(u), len(u.pool.Snapshot().All)
		a.TargetBans = u.pool.avoided.BansOf(l.Target.Hash).HasBan(a.Ended)
		finding = ledger.RecordFailure(&a)
		if !u.ServedSince(a.Ended - provenAge) { // the proxy itself is the likely cause
			finding.NoneServesNow = false
		}
		u.pool.recordCompared(l.Target.Hash, a.Ended)
		if finding.Uncompared {
			u.pool.uncompared.Begin(u.Hash(), l.Target.Hash,
				ban.Pair{ProxyID: u.id, Host: l.Target.Name, Since: a.Ended, Until: a.Ended + avoidTime})
		}
		if finding.OtherJustSucceeded && verdict.IsTimeout(o.Cause) {
			u.countTimeout(a.Ended)
		}
		if finding.ShouldOpen {
			breakerEvidence = u.storeOpenEvidence()
		} else {
			u.pool.pendingFailures.add(u)
		}
	}
	return finding, breakerEvidence
}

// storeOpenEvidence stores the current evidence against the proxy as the evidence that opens its breaker, and returns
// it.
func (u *Upstream) storeOpenEvidence() breaker.Evidence {
	why := u.ensureAttemptFields().book.Report(u.pool.ledger)
	u.openEvidence.Store(&why)
	return breaker.Evidence{IsEnough: true, Explanation: why.Text(causeWord)}
}

// CountUnreached reports a failed reachability check to the breaker. It does nothing if the breaker admits no attempt.
// The parameter failedChecks is the number of failed checks in a row. The statistics do not change, because no request
// was sent.
func (u *Upstream) CountUnreached(cause core.Cause, failedChecks int) {
	permit, ok := u.breaker.Acquire()
	if !ok {
		return
	}
	found := u.pool.unreached.find(cause, failedChecks)
	u.openEvidence.Store(&found.why)
	u.flags.set(failedToReach, true)
	permit.Report(core.Failure, breaker.Evidence{IsEnough: true, Explanation: found.text})
	if f := u.pool.onFailure; f != nil {
		f(u)
	}
}

// unreachedReasons holds the evidence of failed reachability checks. Proxies with the same cause and number of failed
// checks share it, to save memory: most proxies of a long list may be dead.
type unreachedReasons struct {
	mu   sync.Mutex // guards list
	list map[checks]*unreachedReason
}

// checks is a number of failed reachability checks in a row, and the cause of the last check.
type checks struct {
	cause core.Cause
	n     int
}

type unreachedReason struct {
	why  evidence.Report // must not be changed
	text string
}

// maxShared is the largest number of failed checks whose evidence is shared.
const maxShared = 32

// find returns the evidence of n failed checks. If there is none, it creates it.
func (s *unreachedReasons) find(cause core.Cause, n int) *unreachedReason {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := checks{cause, n}
	if w := s.list[key]; w != nil {
		return w
	}
	w := &unreachedReason{why: evidence.Report{
		Failures: n, OwnFailures: n, OwnCauses: []evidence.CauseCount{{Cause: uint8(cause), Count: n}},
		Evidence: evidence.NeededEvidence, Needed: evidence.NeededEvidence,
	}}
	w.text = w.why.Text(causeWord)
	if n <= maxShared {
		if s.list == nil {
			s.list = map[checks]*unreachedReason{}
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

// EvidenceReport returns the evidence against the proxy. If its breaker is closed, this is the evidence of the current
// episode; otherwise it is the evidence that opened the breaker.
func (u *Upstream) EvidenceReport() evidence.Report {
	if why := u.openEvidence.Load(); why != nil && !u.breakerWord.IsClosed() {
		return *why
	}
	if x := u.attemptFields.Load(); x != nil {
		return x.book.Report(u.pool.ledger)
	}
	return evidence.Report{Needed: evidence.NeededEvidence}
}
