// Package upstream holds the pool and its proxies. Each proxy has a circuit breaker, a count of
// the attempts in flight and statistics of its last 100 attempts. Readers of the pool take an
// immutable snapshot.
package upstream

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// Upstream is one proxy of the pool. It is safe for concurrent use.
//
// The fields of this struct are those that a selection reads for every candidate. They take 128 bytes (two
// cache lines), which makes a selection among hundreds of proxies cheap. All other fields are in details.
type Upstream struct {
	*details
	breakerWord   breaker.StateWord
	inFlight      atomic.Int64
	inFlightLimit atomic.Int32 // max_in_flight, or this gateway's share of it; 0 while draining
	slowStart     slowStart
	weight        atomic.Uint64
	lastAcquire   atomic.Int64 // time of the last Acquire, ns after the epoch; 0 if there was none

	regionHash atomic.Uint64 // 0 without a region
	cost       atomic.Uint64
	idHash     float64
	uses       atomic.Uint64
	stats      stats
}

// details are the fields that a selection does not read.
type details struct {
	id             string
	spec           atomic.Pointer[Spec]
	pool           *Pool
	breaker        breaker.Breaker
	meter          atomic.Pointer[traffic.Meter] // nil before the first attempt
	costMeters     atomic.Pointer[costMeters]    // nil without vendor and price
	region         atomic.Pointer[string]        // see Region
	usage          atomic.Pointer[limit.Usage]   // nil without limits, apart from max_in_flight of the spec
	tags           atomic.Pointer[[]float64]     // core.Hash53 of each tag; nil without tags
	added          time.Duration                 // when the proxy was added to the pool (Pool.Elapsed)
	tier           atomic.Int32
	templates      templates // the templates of the credentials
	removalPending bool      // draining with attempts in flight; guarded by the pool's mu
	keptInPool     bool      // the proxy is in the pool after the present change; guarded by the pool's mu
	flags          flags
	share          *share.Share // of the spec's max_in_flight; nil for the initial share; guarded by the pool's limitMu
	window         window
	attemptFields  atomic.Pointer[attemptFields]   // nil for a proxy without attempts
	openEvidence   atomic.Pointer[evidence.Report] // the evidence when the breaker last opened
}

func (p *Pool) newUpstream(spec *Spec, cfg *breaker.Config) *Upstream {
	d := &details{id: spec.ID, pool: p, added: p.Elapsed(p.now())}
	d.templates = templates{spec.Address.HasTemplates(), spec.Address.AnyRegion()}
	u := &Upstream{details: d, idHash: core.Hash53(spec.ID)}
	u.breaker.Init(&u.breakerWord, cfg, &p.breakers, (*watcher)(u))
	u.stats.init()
	u.slowStart.limit.Store(p.startLimit())
	u.window.lastSuccess.Store(int64(u.added))
	if total, found := p.absentCosts[spec.ID]; found {
		delete(p.absentCosts, spec.ID)
		u.Meter().Add(total)
		u.ensureAttemptFields().addedBytes = total.Bytes()
	}
	u.configure(spec)
	return u
}

// attemptFields holds the fields that only a proxy with attempts needs. In a long list, many proxies have had no
// attempt.
type attemptFields struct {
	connections   atomic.Value // see SetConnections
	slot          core.Slot    // see Slot
	abilities     ability.Set
	book          evidence.Book // the proxy's failures
	lastCheck     atomic.Pointer[CheckReport]
	addedBytes    int64                             // added to the meter by addCosts; guarded by the pool's mu
	lastChallenge atomic.Pointer[challengingTarget] // nil before the first challenge that may come from a target
	tunnelEnds    atomic.Pointer[tunnelEnds]        // nil before the first followed tunnel
	shortTunnels  atomic.Uint64
	lastTimeout   atomic.Int64 // end of the last attempt counted in timeouts, ns after the epoch
	learntAt      atomic.Int64 // end of the last failure on other gateways (Learn), ns after the epoch; 0: none
	timeouts      atomic.Int32 // attempts before the first success that timed out where others succeed
	cutProbes     atomic.Int32 // see CutProbes
	stallBegun    atomic.Int64 // end of the first attempt in the latest stall (InStall), ns after the epoch; 0: none
}

// ensureAttemptFields returns the fields that only a proxy with attempts needs. If there are none, it creates them. To
// read the fields of any proxy, use the field attemptFields, which may be nil.
func (u *Upstream) ensureAttemptFields() *attemptFields {
	if x := u.attemptFields.Load(); x != nil {
		return x
	}
	x := &attemptFields{book: evidence.Book{OnWithdrawn: u.removeWithdrawn, CountElsewhere: u.window.countElsewhere}}
	x.abilities.SetMissingFlag(&u.pool.lacksAbilities)
	u.attemptFields.CompareAndSwap(nil, x)
	return u.attemptFields.Load()
}

func (u *Upstream) now() time.Time { return u.pool.now() }

// watcher is an Upstream with the methods that its breaker calls.
type watcher Upstream

// ID returns the id of the proxy.
func (w *watcher) ID() string { return w.id }

func (w *watcher) Transition(t core.Transition) {
	p := w.pool
	p.recordTransition((*Upstream)(w), t)
	if p.onTransition != nil {
		p.onTransition(t)
	}
}

// configure replaces the configuration. The caller holds the pool's mu.
func (u *Upstream) configure(spec *Spec) {
	u.replaceSpec(spec)
	store(&u.weight, spec.Weight)
	store(&u.cost, spec.Cost)
	u.tags.Store(hashTags(spec.Tags))
	u.pool.limitMu.Lock()
	u.updateInFlightLimit()
	u.pool.limitMu.Unlock()
	u.tier.Store(int32(spec.Tier))
	u.costMeters.Store(u.pool.costMetersOf(spec))
	u.setLimit()
}

// replaceSpec makes spec the proxy's configuration. The caller holds the pool's mu.
func (u *Upstream) replaceSpec(spec *Spec) {
	u.spec.Store(spec)
	u.updateRegion()
}

// drain ends the admission of attempts.
func (u *Upstream) drain() {
	u.pool.limitMu.Lock()
	defer u.pool.limitMu.Unlock()
	u.flags.set(draining, true)
	u.updateInFlightLimit()
}

// SetConnections stores the proxy's idle connections, for the package that makes them. All values must have the same
// type. A call of Connections is faster than a look-up in a map with the proxies as keys.
func (u *Upstream) SetConnections(value any) { u.ensureAttemptFields().connections.Store(value) }

// Connections returns the value of the last SetConnections; nil if there was none.
func (u *Upstream) Connections() any {
	if x := u.attemptFields.Load(); x != nil {
		return x.connections.Load()
	}
	return nil
}

// Slot returns the core.Slot of the proxy, in which the recorder of attempts keeps its counters.
func (u *Upstream) Slot() *core.Slot { return &u.ensureAttemptFields().slot }

// ID returns the proxy's id.
func (u *Upstream) ID() string { return u.id }

// IDHash returns the core.Hash53 of the id.
func (u *Upstream) IDHash() float64 { return u.idHash }

// RegionHash returns the core.RegionHash of the proxy's region; 0 if it has none.
func (u *Upstream) RegionHash() float64 { return load(&u.regionHash) }

// Spec returns the proxy's configuration. The caller must not change it.
func (u *Upstream) Spec() *Spec { return u.spec.Load() }

// Breaker returns the proxy's circuit breaker.
func (u *Upstream) Breaker() *breaker.Breaker { return &u.breaker }

// State returns the state of the proxy's breaker.
func (u *Upstream) State() core.State {
	if u.breakerWord.IsClosed() { // faster than breaker.State, for lists of many proxies
		return core.Closed
	}
	return u.breaker.State()
}

// AttemptCount returns the number of attempts that have begun through the proxy.
func (u *Upstream) AttemptCount() uint64 { return u.uses.Load() }

// InFlight returns the number of attempts in flight, open tunnels included.
func (u *Upstream) InFlight() int64 { return u.inFlight.Load() }

// Weight returns the proxy's weight, which is above 0.
func (u *Upstream) Weight() float64 { return load(&u.weight) }

// Load returns InFlight divided by the proxy's weight.
func (u *Upstream) Load() float64 {
	n := u.inFlight.Load()
	if n == 0 {
		return 0
	}
	return float64(n) / u.Weight()
}

// Direct reports whether u is direct://. Attempts with it connect to the target itself, without a proxy.
func (u *Upstream) Direct() bool { return u.Spec().Address.Scheme == Direct }

// PoolHasServed reports whether an attempt through a proxy of the pool has ever succeeded. It is false if breaker.blame
// is "literal".
func (u *Upstream) PoolHasServed() bool { return u.pool.ledger.HasServed() }

// HasServed reports whether an attempt through the proxy has succeeded since the proxy was added.
func (u *Upstream) HasServed() bool { return time.Duration(u.window.lastSuccess.Load()) > u.added }

// ServedSince reports whether an attempt through the proxy has succeeded since the given time (Pool.Elapsed).
func (u *Upstream) ServedSince(at time.Duration) bool {
	return u.HasServed() && time.Duration(u.window.lastSuccess.Load()) > at
}

// FailedToReach reports whether the proxy's last failure was a failure to connect to the proxy.
func (u *Upstream) FailedToReach() bool { return u.flags.has(failedToReach) }

// Draining reports whether the proxy is being removed. A draining proxy admits no attempts.
func (u *Upstream) Draining() bool { return u.flags.has(draining) }

// InService reports whether the proxy is in service, as the API and the dashboard show it: its breaker is closed, it is
// neither banned nor draining, and IsUnreached is false. The caller passes whether the proxy is banned, because the
// pool does not have the bans.
func (u *Upstream) InService(banned bool) bool {
	return u.State() == core.Closed && !u.Draining() && !banned && !u.IsUnreached()
}

// Full reports whether the proxy has reached max_in_flight or is draining.
func (u *Upstream) Full() bool { return u.inFlight.Load() >= int64(u.inFlightLimit.Load()) }

// ClosedAndNotFull reports whether the breaker is closed and the proxy is not full. If ClosedAndNotFull returns true,
// Admissible returns true for any arguments.
func (u *Upstream) ClosedAndNotFull() bool { return u.breakerWord.IsClosed() && !u.Full() }

// BreakerAdmits reports whether the breaker would probably admit an attempt now. It takes no permit. The parameter at
// is the current time (Pool.Elapsed).
func (u *Upstream) BreakerAdmits(at time.Duration) bool {
	return u.breakerWord.IsClosed() || u.halfOpen(at)
}

// Admissible reports whether Acquire would probably succeed now. It takes no permit. The parameter at is the current
// time (Pool.Elapsed). The parameter probe is set if the attempt may be the probe of a half-open breaker.
func (u *Upstream) Admissible(at time.Duration, probe bool) bool {
	return !u.Full() && (u.breakerWord.IsClosed() || probe && u.halfOpen(at))
}

// halfOpen reports whether the breaker is half-open and waits for its probe. The breaker must not
// be closed.
func (u *Upstream) halfOpen(at time.Duration) bool {
	return !u.breakerWord.IsOpen(at) && u.breaker.Admissible()
}

// Lease is one attempt's hold on a proxy: the attempt counts as in flight (max_in_flight), and has the permit of the
// proxy's breaker. The zero Lease holds nothing. One goroutine uses it at a time.
type Lease struct {
	Proxy         *Upstream
	Target        evidence.Target // of the attempt; the caller sets it
	ServedByOther bool            // another proxy has served the same request; the caller sets it
	isCheck       bool            // for a health check, which counts neither toward max_in_flight nor in the statistics
	permit        breaker.Permit
	began         time.Duration // beginning of the attempt (Pool.Elapsed)
	ended         time.Duration // see EndAt (Pool.Elapsed); 0 if it was not called
	settled       bool
	placeReleased bool               // the attempt no longer counts toward max_in_flight (DetachPermit)
	limitShare    *limit.Reservation // nil without limits
}

// Acquire begins an attempt. It returns false if the proxy is full or draining, or if its breaker
// admits no attempt. If the breaker is half-open, the attempt is its probe.
func (u *Upstream) Acquire(now time.Time) (Lease, bool) {
	if !u.takePlace() {
		return Lease{}, false
	}
	permit, ok := u.breaker.Acquire()
	if !ok {
		u.inFlight.Add(-1)
		return Lease{}, false
	}
	u.uses.Add(1)
	began := max(u.Elapsed(now), 1)
	u.lastAcquire.Store(int64(began))
	return Lease{Proxy: u, permit: permit, began: began}, true
}

// EndAt sets the end of the attempt, for Settle. Without EndAt, the attempt ends when the latency of its outcome has
// passed. That is too early for an attempt whose tunnel failed after it was opened, so the caller must call EndAt for
// such an attempt.
func (l *Lease) EndAt(now time.Time) {
	if l.Proxy != nil {
		l.ended = max(l.Proxy.Elapsed(now), l.began)
	}
}

// endTime returns the end of the attempt with outcome o (Pool.Elapsed).
func (l *Lease) endTime(o *core.Outcome) time.Duration {
	if l.ended > 0 {
		return l.ended
	}
	return l.began + o.Latency
}

// ReportHead reports to the breaker that the attempt has received a response head or opened a tunnel.
func (l *Lease) ReportHead() { l.permit.ReportHead() }

// DetachPermit moves the permit to a new lease, which it returns. The attempt no longer counts as in flight, and l
// holds nothing. The caller settles and releases the new lease later.
func (l *Lease) DetachPermit() Lease {
	detached := *l
	detached.placeReleased = true
	if !l.placeReleased {
		l.limitShare.EndAttempt()
		l.Proxy.releasePlace()
	}
	detached.limitShare = nil
	*l = Lease{}
	return detached
}

// Release ends the attempt. An attempt that is not settled counts neither for nor against the proxy, and the breaker
// may admit another probe.
func (l *Lease) Release() {
	if l.Proxy == nil {
		return
	}
	l.Settle(&core.Outcome{Verdict: core.Excluded})
	if !l.placeReleased {
		l.limitShare.EndAttempt()
		l.Proxy.releasePlace()
	}
	*l = Lease{}
}

// takePlace counts a new attempt in flight, and returns true, if the limit permits it. It never increases inFlight
// beyond the limit, not even for a moment. If it did, a request that is about to begin an attempt could find the limit
// reached, although another attempt has just ended.
func (u *Upstream) takePlace() bool {
	if room := int64(u.inFlightLimit.Load()); room == math.MaxInt32 {
		u.inFlight.Add(1)
	} else {
		n := u.inFlight.Load()
		for n < room && !u.inFlight.CompareAndSwap(n, n+1) {
			n = u.inFlight.Load()
		}
		if n >= room {
			return false
		}
	}
	if u.inFlight.Load() > int64(u.inFlightLimit.Load()) { // the proxy drains, or the limit was lowered
		u.inFlight.Add(-1)
		return false
	}
	return true
}

func (u *Upstream) releasePlace() {
	u.inFlight.Add(-1)
	if f := u.pool.onFree; f != nil {
		f()
	}
}

// Fill writes the proxy's current data into c. The parameter at is the current time (Pool.Elapsed). The parameter
// region is the core.RegionHash of the wanted region, 0 for none. Fill does not set affinity, rotation and normalized
// latency, which the selector computes.
func (u *Upstream) Fill(c *core.Candidate, at time.Duration, region float64) {
	s := &u.stats
	c.SuccessRate = load(&s.successRate)
	c.Samples = load(&s.samples)
	c.LatencyMean = load(&s.mean)
	c.LatencyEWMA = load(&s.ewma)
	c.InFlight = float64(u.inFlight.Load())
	c.Weight = load(&u.weight)
	c.Cost = load(&u.cost)
	c.RegionMatch = 0
	if region != 0 && load(&u.regionHash) == region {
		c.RegionMatch = 1
	}
	c.ConsecutiveFailures = load(&s.failures)
	c.SinceUse = -1
	if last := u.lastAcquire.Load(); last > 0 {
		c.SinceUse = float64(max(int64(at)-last, 0)) / 1e9
	}
	c.Uses = float64(int64(u.uses.Load())) // faster than from a uint64
	c.BreakerState = 0
	if !u.breakerWord.IsClosed() {
		c.BreakerState = float64(u.breaker.State())
	}
	c.IDHash = u.idHash
}

// Stats are the proxy's statistics.
type Stats struct {
	SuccessRate float64       // share of successes among Samples, 0 to 1; 0.5 without samples
	Samples     int           // attempts in the statistics, at most 100
	LatencyMean time.Duration // of the successes; 0 without a success
	LatencyEWMA time.Duration // moving average of the successes; 0 without a success
	InFlight    int64
	Uses        uint64    // attempts since the proxy was added
	LastUsed    time.Time // beginning of the last attempt; zero if there was none
}

// Stats returns the statistics as they are now. They are those of this gateway's attempts.
func (u *Upstream) Stats() Stats {
	rate, samples := load(&u.stats.successRate), int(load(&u.stats.samples))
	if u.flags.has(hasLearnt) {
		rate, samples = u.window.ownRate()
	}
	s := Stats{
		SuccessRate: rate, Samples: samples,
		LatencyMean: time.Duration(load(&u.stats.mean) * 1e9), LatencyEWMA: time.Duration(load(&u.stats.ewma) * 1e9),
		InFlight: u.inFlight.Load(), Uses: u.uses.Load(),
	}
	if last := u.lastAcquire.Load(); last > 0 {
		now := u.now()
		s.LastUsed = now.Add(time.Duration(last) - u.Elapsed(now))
	}
	return s
}
