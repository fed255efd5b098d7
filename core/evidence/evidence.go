// Package evidence decides whether a proxy's failures say that the proxy is
// bad, or the target: it compares the proxy with the rest of its pool.
//
// # The question
//
// A failure has one of three explanations: the target fails for everybody,
// the attempt was one of the few that always fail (noise), or the proxy is bad.
// Only the third may open the proxy's circuit breaker.
//
// # The rule
//
//  1. A failure at a target counts only once the target has served another
//     proxy in an attempt that began after it. The failures at a target that
//     serves nobody never count, nor do the successes that are still on their
//     way when it dies prove anything.
//     A failure that is the proxy's own by its kind (connection refused, its
//     TLS, its SOCKS greeting, credentials) counts at once.
//  2. The noise q of a target is the share of failures among the attempts of
//     the other proxies. Of these failures it takes only those after which the
//     target served the same proxy again: a dead proxy, or half a pool of
//     them, is no noise. A target seen seldom borrows from the pool's noise.
//     Failures of the proxy's own kind are held against the pool's noise of that
//     kind, which is counted in the same way.
//  3. Each failure that counts adds log(P1/q) to the proxy's evidence, each
//     success adds log((1-P1)/(1-q)), which is negative: the logarithm of how much
//     likelier the attempt is for a bad proxy, which fails with P1 = 0.85, than for
//     an equal of the others (Wald, "Sequential tests of statistical hypotheses",
//     Annals of Mathematical Statistics 16, 1945).
//  4. An excursion begins with a failure and ends when the evidence has come down
//     to 0; then all of it is forgotten (Page, "Continuous inspection schemes",
//     Biometrika 41, 1954). The proxy is worse than the rest when the evidence
//     reaches [Needed]. By Wald's inequality a proxy like the others reaches it in
//     at most one of about a million excursions (exp(13.5) = 730,000).
//  5. A target that never serves a proxy which other targets serve has banned
//     it. Its share of the evidence is limited, to a quarter of the last limit
//     each time the other targets have ended an excursion.
//  6. Once half of the pool is out, a quarter of a second has to lie between the first
//     failure and the last: a short disturbance takes no more of the pool.
//  7. Without a comparison the failures themselves count: in a pool that has never
//     had another proxy by the threshold alone, and else, where no other proxy takes
//     requests or tries the same targets, by the noise that is remembered. Each of
//     these attempts must have begun after the one before had failed: a burst of
//     attempts at once is one observation.
//  8. When everything fails in the whole pool, at several targets or by the
//     proxies' own kinds, for a tenth of a second if the pool has served before,
//     the threshold decides.
//
// # Example
//
// The others fail 1 % of the time. A proxy that dies adds log(0.85/0.01) = 4.4
// with each failure that another proxy's success has followed: it has 13.3 after
// the third and 17.8 after the fourth. A success takes 1.9 off.
//
// # Bookkeeping
//
// A [Ledger] belongs to a pool and remembers the targets with a recent failure. A
// [Book] belongs to a proxy and remembers the proxy's failures at up to 16 of
// them. Where no target has a recent failure, a success costs a few atomic loads
// and one addition. Nothing on its way takes a lock or allocates.
// A target costs about 400 bytes, a proxy and target with a recent failure 64.
package evidence

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The constants of the rule.
const (
	// P1 is the share of its attempts that a bad proxy fails.
	P1 = 0.85
	// Needed is the evidence, in nats, that a proxy is worse than the rest: log(730,000).
	Needed = 13.5

	floor      = 0.01             // the least noise that is assumed
	ownCeiling = 0.5              // the greatest noise of the proxies' own kinds of failure
	banned     = 0.45 * Needed    // what one target may add against a proxy that others serve
	coldWeight = 4.0              // attempts that the pool's noise of 1 % before any observation stands for
	poolMemory = 500              // attempts that the pool's noise remembers
	mixWeight  = 8.0              // attempts that the pool's noise stands for at a target
	siteMemory = 300              // attempts that a target's noise remembers
	hopeless   = 8                // failures of the rest after which an earlier failure will not count
	recent     = 8                // attempts of the rest that TargetFails and JustServed look at
	justServed = 2 * time.Second  // how old a success may be for JustServed
	suspectRow = 9                // failures in a row that make a target suspect
	suspectBy  = 3                // through so many proxies
	outage     = time.Second / 10 // how long everything must fail in a pool that has served
	lasting    = time.Second / 4  // how long failures must go on once half of the pool is out
	usualEvery = time.Second      // between a suspect target's requests that try as usual
	maxPairs   = 16               // targets that a book remembers
	uncompared = 12               // failures nobody can be compared at that count after all, at most
	ways       = 4                // slots that a target may lie in
)

// Config bounds a ledger. Zero values stand for the defaults.
type Config struct {
	MaxTargets int           // targets remembered, rounded up to a power of two; default 8192
	Forget     time.Duration // a target without a failure for so long is forgotten; default 2 minutes
}

// Target is a host and port.
type Target struct {
	Hash uint64 // of Name
	Name string // host:port
}

// Attempt says whose attempt ended, where and when.
type Attempt struct {
	Proxy  uint64 // hash of the proxy's id
	Book   *Book
	Gen    uint64 // generation of the proxy's breaker that admitted the attempt
	Target Target
	At     time.Duration // when it ended, since the ledger's epoch, monotonic
	Began  time.Duration // when it began; 0 stands for At

	// The following are read for failures only.

	Own       bool  // the fault is the proxy's own by its kind
	Elsewhere bool  // another proxy has served the same request since: not everything fails
	Cause     uint8 // counted for the explanation; opaque
	Threshold int   // failure_threshold of the proxy's breaker
	Window    time.Duration
	Peers     int // other proxies of the pool that take requests now
	Pool      int // proxies of the pool
}

func (a *Attempt) began() time.Duration {
	if a.Began == 0 {
		return a.At
	}
	return a.Began
}

// Finding is what a failure says.
type Finding struct {
	// Worse: the proxy is worse than the rest of the pool, or nothing can be
	// compared. The breaker may open if its threshold is met.
	Worse bool
	// TargetFails: the latest attempts of the others at the target, up to 8 in the last
	// minute and 4 at least, all failed too. The failure says nothing of the proxy.
	TargetFails bool
	// JustServed: one of the latest attempts of the others, begun less than 2 s
	// ago, was a success. The proxy is the likely cause.
	JustServed bool
}

// Ledger holds the targets with recent failures of one pool. It is safe for
// concurrent use.
type Ledger struct {
	cfg   Config
	slots []atomic.Pointer[target] // sets of four neighbours
	mask  uint64

	// Read by every success, written seldom.
	live      atomic.Int64  // targets in slots
	hasServed atomic.Bool   // the pool has served a request
	failing   atomic.Bool   // the pool has failed since its last success
	several   atomic.Bool   // more than one target has served the pool since rotated
	only      atomic.Uint64 // the target that has, until several

	fresh fresh

	_ [64]byte // keeps what failures write off that cache line

	known atomic.Pointer[Book] // the first proxy that failed
	crowd atomic.Bool          // the pool has had more than one
	wave  atomic.Uint64        // counts the successes that found failing set

	waveBegan atomic.Int64 // the first failure since the pool's last success, ns after the epoch

	mu           sync.Mutex // of the following and of changes to slots
	rotated      time.Duration
	severalSoFar bool // several, of the period before rotated
	noise, own   rate
}

// rate is a share of failures that forgets: of 1 % before any observation.
type rate struct{ failures, attempts float64 }

func (r *rate) add(failures, attempts float64) {
	r.failures += failures
	r.attempts += attempts
	if r.attempts > poolMemory {
		r.failures *= poolMemory / r.attempts
		r.attempts = poolMemory
	}
}

func (r *rate) estimate(ceiling float64) float64 {
	return clamp((r.failures+coldWeight*floor)/(r.attempts+coldWeight), ceiling)
}

func clamp(q, ceiling float64) float64 { return min(max(q, floor), ceiling) }

// NewLedger returns an empty ledger.
func NewLedger(cfg Config) *Ledger {
	if cfg.MaxTargets <= 0 {
		cfg.MaxTargets = 8192
	}
	if cfg.Forget <= 0 {
		cfg.Forget = 2 * time.Minute
	}
	size := ways
	for size < cfg.MaxTargets {
		size *= 2
	}
	return &Ledger{cfg: cfg, slots: make([]atomic.Pointer[target], size), mask: uint64(size - ways)}
}

// set returns the slots that a target may lie in. The hash is mixed, since
// its low bits may be those of a weak hash.
func (l *Ledger) set(hash uint64) []atomic.Pointer[target] {
	i := hash * 0x9e3779b97f4a7c15 >> 20 & l.mask
	return l.slots[i : i+ways]
}

// find returns the target's entry, or nil. Names are compared as well, since two of
// one hash are easily made.
func (l *Ledger) find(at Target) *target {
	set := l.set(at.Hash)
	for i := range set {
		if t := set[i].Load(); t != nil && t.hash == at.Hash && t.name == at.Name {
			return t
		}
	}
	return nil
}

// open returns the target's entry. A new one takes the place of the set's
// target whose last failure is the oldest, if the set is full.
func (l *Ledger) open(at Target) *target {
	if t := l.find(at); t != nil {
		return t
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.set(at.Hash)
	place := &set[0]
	for i := range set {
		t := set[i].Load()
		if t == nil {
			place = &set[i]
			break
		}
		if t.hash == at.Hash && t.name == at.Name {
			return t
		}
		if t.lastFailure.Load() < place.Load().lastFailure.Load() {
			place = &set[i]
		}
	}
	t := &target{hash: at.Hash, name: at.Name}
	t.lastServed.Store(never)
	if place.Swap(t) == nil {
		l.live.Add(1)
	}
	return t
}

// Served records a success.
func (l *Ledger) Served(a *Attempt) {
	a.Book.served.Add(1)
	if !l.hasServed.Load() {
		l.hasServed.Store(true)
	}
	l.fresh.serve(a.Target.Hash, a.Proxy, a.At)
	if l.failing.Load() {
		l.failing.Store(false)
		l.wave.Add(1)
	}
	if !l.several.Load() {
		l.see(a.Target.Hash)
	}
	if l.live.Load() == 0 {
		return
	}
	t := l.find(a.Target)
	if t == nil {
		return
	}
	t.serve(a)
	for p := a.Book.pairs.Load(); p != nil; p = p.next.Load() {
		if p.target == t {
			p.serve()
			return
		}
	}
}

// see notes which target serves the pool, until there are several.
func (l *Ledger) see(hash uint64) {
	if only := l.only.Load(); only == hash || only == 0 && l.only.CompareAndSwap(0, hash) {
		return
	}
	l.several.Store(true)
}

// Failed records a failure and says what follows from it.
func (l *Ledger) Failed(a *Attempt) Finding {
	b := a.Book
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.Gen < b.gen {
		return l.find(a.Target).finding(a)
	}
	if !a.Elsewhere && !l.failing.Load() {
		l.waveBegan.Store(int64(a.At))
		l.failing.Store(true)
	}
	if a.Gen > b.gen || a.At-b.last > a.Window {
		b.begin(a.Gen)
	}
	if b.failures > 0 && b.evidence(l, a).possible <= 0 {
		b.endByServing(l)
	}
	b.last, b.latest = a.At, *a
	b.latest.Book = nil

	served := b.served.Load()
	if b.failures == 0 {
		b.since, b.served0 = a.At, served
	}
	if served != b.servedRun {
		l.learn(b.run, b.runOwn, float64(served-b.servedRun))
		b.run, b.runOwn, b.servedRun = 0, 0, served
		b.row = spread{}
	}
	if wave := l.wave.Load(); wave != b.waveNth {
		b.wave, b.waveNth = spread{}, wave
	}
	alone := l.alone(a)
	b.failures++
	if a.began() >= b.chainEnd {
		b.chain++
		b.chainEnd = a.At
	}
	b.row.add(a)
	if !a.Elsewhere && int64(a.began()) >= l.waveBegan.Load() {
		b.wave.add(a) // one that began before may have begun before the last success
	}

	var f Finding
	if a.Own {
		b.own++
		b.runOwn++
		b.ownCauses.count(a.Cause)
		f = l.find(a.Target).finding(a)
	} else {
		t := l.open(a.Target)
		f = t.finding(a)
		if t.likelyNoise(a) {
			b.run++
		}
		b.fail(l, t, a)
		t.fail(a)
	}
	f.JustServed = f.JustServed || l.fresh.served(a.Target.Hash, a.Proxy, a.At, justServed)
	b.outage = b.everythingFails(l, a.Threshold) && (!l.hasServed.Load() || int64(a.At)-l.waveBegan.Load() >= int64(outage))
	f.Worse = alone || b.outage || b.evidence(l, a).total >= Needed && (2*(a.Peers+1) > a.Pool || a.At-b.since >= lasting)
	return f
}

// alone reports whether the pool has had no other proxy than this one.
func (l *Ledger) alone(a *Attempt) bool {
	if l.crowd.Load() {
		return false
	}
	if !l.known.CompareAndSwap(nil, a.Book) && l.known.Load() != a.Book || a.Peers > 0 {
		l.crowd.Store(true)
		return false
	}
	return true
}

// learn adds a run of failures that a success of the same proxy has ended to
// the noise of the pool.
func (l *Ledger) learn(failures, own, served float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noise.add(failures, failures+own+served)
	l.own.add(own, failures+own+served)
}

// poolNoise returns the pool's share of failures: of those that may be the
// target's, and of the proxies' own kinds.
func (l *Ledger) poolNoise() (noise, own float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.noise.estimate(P1), l.own.estimate(ownCeiling)
}

// severalTargets reports whether more than one target has served the pool lately.
// Where one has, a proxy that it bans is of no more use than a dead one.
func (l *Ledger) severalTargets() bool {
	if l.several.Load() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.severalSoFar
}

// Suspect reports whether the target fails through several proxies while none
// is served by it: its latest attempts all failed.
func (l *Ledger) Suspect(t Target, _ time.Duration) bool {
	if l.live.Load() == 0 {
		return false
	}
	e := l.find(t)
	return e != nil && e.suspect.Load()
}

// ServedElsewhere reports whether the target has just served another proxy of the pool.
func (l *Ledger) ServedElsewhere(t Target, proxy uint64, now time.Duration) bool {
	return l.fresh.served(t.Hash, proxy, now, justServed) || l.find(t).finding(&Attempt{Proxy: proxy, At: now}).JustServed
}

// TryAsUsual reports whether a request may be tried as if the target were not
// suspect: one a second may, and every request of a target that is not.
func (l *Ledger) TryAsUsual(t Target, now time.Duration) bool {
	e := l.find(t)
	if e == nil || !e.suspect.Load() {
		return true
	}
	last := e.usual.Load()
	return int64(now)-last >= int64(usualEvery) && e.usual.CompareAndSwap(last, int64(now))
}

// Sweep forgets the targets without a recent failure. To be called every few
// seconds or minutes.
func (l *Ledger) Sweep(now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.slots {
		t := l.slots[i].Load()
		if t != nil && int64(now)-t.lastFailure.Load() > int64(l.cfg.Forget) {
			l.slots[i].Store(nil)
			l.live.Add(-1)
		}
	}
	if now-l.rotated >= l.cfg.Forget {
		l.rotated = now
		l.severalSoFar = l.several.Swap(false)
		l.only.Store(0)
	}
}

// gain is what a failure that counts, and a success, add to the evidence where
// the noise is q.
func gain(q float64) (failure, success float64) {
	return math.Log(P1 / q), math.Log((1 - P1) / (1 - q))
}
