package evidence

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Config limits a ledger. Zero values stand for the defaults.
type Config struct {
	MaxTargets  int           // targets in the ledger, rounded up to a power of two; default 8192
	ForgetAfter time.Duration // a target is removed when its last failure is older than this; default 2 minutes
	// ComparedOnly makes failures count only after a comparison with other proxies at the same target. Failures of the
	// pool's only proxy then do not count, and failures at a target for which no other proxy is used do not count
	// either. If the caller also sets Attempt.ServedByOther in each attempt, the ledger finds no outages.
	ComparedOnly bool
}

// Ledger holds the targets of one pool that have a recent failure. It is safe for concurrent use.
type Ledger struct {
	cfg   Config
	slots []atomic.Pointer[target] // a set-associative table with sets of setSize slots
	mask  uint64

	// The following fields are read at every success and seldom change.
	size          atomic.Int64 // targets in slots
	hasServed     atomic.Bool  // the pool has had a success
	inStreak      atomic.Bool  // the pool has had a failure since its last success
	servedTargets servedTargets

	recent recentSuccesses
	cuts   cuts

	pool poolTest

	_ [64]byte // keeps the fields above and below in different cache lines

	firstBook      atomic.Pointer[Book] // the book of the first proxy that had a failure
	hadSecondProxy atomic.Bool          // the pool has had a second proxy

	// A streak of the pool is a series of failures without a success between them.
	endedStreaks atomic.Uint64 // number of streaks that have ended
	streakBegan  atomic.Int64  // end of the first failure of the streak, ns after the epoch

	mu sync.Mutex // guards the next two fields, and changes of slots
	// noise is the pool's rate of transient confirmed failures, ownNoise its rate of transient own failures.
	noise, ownNoise rate
}

// setSize is the number of slots in which the entry of a target may be.
const setSize = 4

// NewLedger returns an empty ledger.
func NewLedger(cfg Config) *Ledger {
	if cfg.MaxTargets <= 0 {
		cfg.MaxTargets = 8192
	}
	if cfg.ForgetAfter <= 0 {
		cfg.ForgetAfter = 2 * time.Minute
	}
	size := setSize
	for size < cfg.MaxTargets {
		size *= 2
	}
	return &Ledger{cfg: cfg, slots: make([]atomic.Pointer[target], size), mask: uint64(size - setSize)}
}

// slotsOf returns the slots in which the entry of a target may be. It mixes the bits of the target's hash,
// because the hash may be weak.
func (l *Ledger) slotsOf(hash uint64) []atomic.Pointer[target] {
	i := hash * 0x9e3779b97f4a7c15 >> 20 & l.mask
	return l.slots[i : i+setSize]
}

// find returns the target's entry, or nil. It compares names as well, because clients can choose two names with the
// same hash.
func (l *Ledger) find(key Target) *target {
	slots := l.slotsOf(key.Hash)
	for i := range slots {
		if t := slots[i].Load(); t != nil && t.hash == key.Hash && t.name == key.Name {
			return t
		}
	}
	return nil
}

// findOrAdd returns the target's entry. If it needs a slot for a new entry, it may replace the entry of another target:
// the entry with the oldest last failure.
func (l *Ledger) findOrAdd(key Target) *target {
	if t := l.find(key); t != nil {
		return t
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	slots := l.slotsOf(key.Hash)
	slot := &slots[0]
	for i := range slots {
		t := slots[i].Load()
		if t == nil {
			slot = &slots[i]
			break
		}
		if t.hash == key.Hash && t.name == key.Name {
			return t
		}
		if t.lastFailure.Load() < slot.Load().lastFailure.Load() {
			slot = &slots[i]
		}
	}
	t := &target{hash: key.Hash, name: key.Name, servedBefore: l.recent.hasTarget(key.Hash)}
	t.lastSuccess.Store(neverTime)
	if slot.Swap(t) == nil {
		l.size.Add(1)
	}
	return t
}

// RecordSuccess records a success.
func (l *Ledger) RecordSuccess(a *Attempt) {
	a.Book.successes.Add(1)
	if !l.hasServed.Load() {
		l.hasServed.Store(true)
	}
	l.recent.add(a.Target.Hash, a.Proxy, a.Ended)
	if l.inStreak.Load() {
		l.inStreak.Store(false)
		l.endedStreaks.Add(1)
	}
	l.servedTargets.add(a.Target.Hash)
	l.pool.addSuccess(a.Proxy)
	if l.size.Load() == 0 {
		return
	}
	t := l.find(a.Target)
	if t == nil {
		return
	}
	t.addSuccess(a)
	for r := a.Book.records.Load(); r != nil; r = r.next.Load() {
		if r.target == t {
			r.addSuccess()
			return
		}
	}
}

// RecordFailure records a failure and returns the conclusion from it. Before that, it evaluates the successes since the
// proxy's last failure. These may end the proxy's episode and the streaks.
func (l *Ledger) RecordFailure(a *Attempt) Finding {
	b := a.Book
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.BreakerGen < b.breakerGen { // admitted before the breaker changed its state
		return l.finding(a, l.find(a.Target))
	}
	l.beginStreak(a)
	b.updateStreaks(l, a)
	b.updateEpisode(l, a)
	b.addToStreaks(l, a)
	f, r := b.addAtTarget(l, a)
	l.addToPool(a, &f)
	b.inOutage = b.isOutage(l, a)
	f.ShouldOpen = l.isOnlyProxy(a) || b.inOutage || b.reachesNeeded(l, a)
	if f.Banned && !f.ShouldOpen { // a proxy that is worse is not avoided for one target, because its breaker opens
		r.refused |= refusalsReported
	}
	return f
}

// RecordUnserved records a failure that counts for the target, but not against the proxy. The proxy has refused a
// request that no other proxy served either, or it has not responded in time.
func (l *Ledger) RecordUnserved(a *Attempt) { l.addFailure(l.findOrAdd(a.Target), a) }

// addFailure records a failure that the target t may have caused. If enough attempts in a row have failed at the
// target, through enough proxies, the target becomes suspect (see IsSuspect).
func (l *Ledger) addFailure(t *target, a *Attempt) {
	t.addFailure(a)
	if !t.suspect.Load() && l.FailingProxies(a.Ended).Empty() &&
		t.failsForAll(a, suspectFailures) && t.failsForAll(a, l.suspectFailures(a)) {
		t.retriesAdmitted.Store(int64(a.Ended))
		t.suspect.Store(true)
	}
}

// suspectFailures returns the number of failures in a row that make a target suspect. With this number, noise alone
// makes a target suspect with a probability of at most suspectChance, unless the limit ringSize applies. The caller
// passes the latest failure.
func (l *Ledger) suspectFailures(a *Attempt) int {
	if a.TargetBans {
		return ringSize
	}
	return l.unlikelyRun(suspectChance, suspectFailures)
}

// unlikelyRun returns a number of failures in a row that the pool's noise causes with a probability of at most chance.
// It is at least the given number, and at most ringSize.
func (l *Ledger) unlikelyRun(chance float64, least int) int {
	noise, _ := l.poolNoise()
	needed := int(math.Ceil(math.Log(chance) / math.Log(noise)))
	return min(max(needed, least), ringSize)
}

// HasServed reports whether a proxy of the pool has ever had a success.
func (l *Ledger) HasServed() bool { return l.hasServed.Load() }

// beginStreak begins a streak of the pool, unless there is one.
func (l *Ledger) beginStreak(a *Attempt) {
	if !a.ServedByOther && !l.inStreak.Load() {
		l.streakBegan.Store(int64(a.Ended))
		l.inStreak.Store(true)
	}
}

// isOnlyProxy reports whether the pool has never had a second proxy.
func (l *Ledger) isOnlyProxy(a *Attempt) bool {
	if l.cfg.ComparedOnly || l.hadSecondProxy.Load() {
		return false
	}
	if !l.firstBook.CompareAndSwap(nil, a.Book) && l.firstBook.Load() != a.Book || a.ClosedPeers > 0 {
		l.hadSecondProxy.Store(true)
		return false
	}
	return true
}

// addNoise adds transient failures of a proxy, and the successes after them, to the noise of the pool.
func (l *Ledger) addNoise(confirmed, own, successes float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noise.add(confirmed, confirmed+own+successes)
	l.ownNoise.add(own, confirmed+own+successes)
}

// poolNoise returns the pool's noise of confirmed failures and of own failures.
func (l *Ledger) poolNoise() (noise, own float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.noise.estimate(BadProxyFailureRate), l.ownNoise.estimate(maxOwnNoise)
}

// IsSuspect reports whether a target is suspect: its latest nine attempts failed, through at least three proxies, or
// two if fewer than three breakers are closed. More failures are required if the pool's noise is above 27 %, and 32 if
// the target bans proxies (Attempt.TargetBans). A request for a suspect target gets one attempt, unless AdmitRetries
// permits more.
func (l *Ledger) IsSuspect(t Target) bool {
	if l.size.Load() == 0 {
		return false
	}
	e := l.find(t)
	return e != nil && e.suspect.Load()
}

// AdmitRetries reports whether a request for a suspect target gets all its attempts. It returns true at most once a
// second per target, and false for a target without a recent failure. If the target hangs, all attempts take long, so
// it returns true at most once in 5 s.
func (l *Ledger) AdmitRetries(t Target, hangs bool, now time.Duration) bool {
	e := l.find(t)
	if e == nil {
		return false
	}
	last, interval := e.retriesAdmitted.Load(), suspectRetryInterval
	if hangs {
		interval = hangingRetryInterval
	}
	return int64(now)-last >= int64(interval) && e.retriesAdmitted.CompareAndSwap(last, int64(now))
}

// RecordRetriesFailed records that a request has failed for which AdmitRetries returned true. The caller passes the
// time of that call, and the end of the request. The interval of AdmitRetries then counts from the end of the request,
// unless another request has been admitted since. The interval does not count from the beginning of the request:
// attempts often take longer than the interval, so each request of a client that sends requests one after another would
// be admitted.
func (l *Ledger) RecordRetriesFailed(t Target, admittedAt, endedAt time.Duration) {
	if e := l.find(t); e != nil {
		e.retriesAdmitted.CompareAndSwap(int64(admittedAt), int64(endedAt))
	}
}

// JustSucceededThroughOther reports whether another proxy of the pool has succeeded at the target within the last 2 s.
func (l *Ledger) JustSucceededThroughOther(t Target, proxy uint64, now time.Duration) bool {
	return l.finding(&Attempt{Proxy: proxy, Ended: now, Target: t}, l.find(t)).OtherJustSucceeded
}

// finding returns the conclusion from the attempts of other proxies at the target t. If t is nil, there are no such
// attempts.
func (l *Ledger) finding(a *Attempt, t *target) Finding {
	f := t.finding(a)
	f.OtherJustSucceeded = f.OtherJustSucceeded ||
		l.recent.hasSuccessThroughOther(a.Target.Hash, a.Proxy, a.Ended, maxRecentSuccessAge)
	f.NoneServesNow = f.OtherJustSucceeded && t != nil && !a.TargetBans && l.FailingProxies(a.Ended).Empty() &&
		t.noneServes(a, l.unlikelyRun(noneServesChance, noneServesFailures))
	return f
}

// Sweep removes the targets without a recent failure. It is called every few seconds or minutes.
func (l *Ledger) Sweep(now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.slots {
		t := l.slots[i].Load()
		if t != nil && int64(now)-t.lastFailure.Load() > int64(l.cfg.ForgetAfter) {
			l.slots[i].Store(nil)
			l.size.Add(-1)
		}
	}
	l.servedTargets.sweep(now, l.cfg.ForgetAfter)
}

// servedTargets states whether attempts have succeeded at more than one target, in this period or in the one before. A
// period lasts for Config.ForgetAfter.
type servedTargets struct {
	severalInPeriod     atomic.Bool   // attempts have succeeded at several targets in this period
	firstInPeriod       atomic.Uint64 // hash of the first target in this period; 0 before the first success
	severalInLastPeriod atomic.Bool   // attempts have succeeded at several targets in the previous period
	periodStart         time.Duration // beginning of this period; used only by sweep
}

func (s *servedTargets) add(hash uint64) {
	if s.severalInPeriod.Load() {
		return
	}
	if first := s.firstInPeriod.Load(); first != hash && (first != 0 || !s.firstInPeriod.CompareAndSwap(0, hash)) {
		s.severalInPeriod.Store(true)
	}
}

// sweep begins a new period if the current period has lasted long enough. Calls must not overlap.
func (s *servedTargets) sweep(now, period time.Duration) {
	if now-s.periodStart >= period {
		s.periodStart = now
		s.severalInLastPeriod.Store(s.severalInPeriod.Swap(false))
		s.firstInPeriod.Store(0)
	}
}

// hasSeveral reports whether attempts have succeeded at more than one target. If a pool is used for one target only, a
// proxy that this target bans is as useless as a dead proxy.
func (s *servedTargets) hasSeveral() bool {
	return s.severalInPeriod.Load() || s.severalInLastPeriod.Load()
}
