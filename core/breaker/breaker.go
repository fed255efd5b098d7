// Package breaker implements the circuit breaker of a proxy. A closed breaker opens if it has failure_threshold
// failures in its window and enough [Evidence]. After a time it becomes half-open and admits exactly one probe. The
// result of the probe closes the breaker or opens it again.
//
// Every admission is a [Permit] with the generation of the breaker. Each change of state begins
// a new generation. A report with the permit of an older generation changes nothing, so an
// attempt that began before the breaker opened can neither close it nor open it again.
package breaker

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Reasons of transitions (core.Transition.Reason).
const (
	ReasonThreshold    = "threshold" // enough failures
	ReasonTimeout      = "timeout"   // the open time has passed
	ReasonProbeSuccess = "probe_success"
	ReasonProbeFailure = "probe_failure"
	ReasonManualReset  = "manual_reset" // Reset
	ReasonReachable    = "reachable"    // MakeHalfOpen: the proxy can be reached again
	ReasonNoneClosed   = "none_closed"  // MakeHalfOpen: no breaker of the pool is closed
	ReasonPoolFails    = "pool_fails"   // MakeHalfOpen: much more of the pool's attempts fail than usual
	ReasonTargetFails  = "target_fails" // MakeHalfOpen: a target refuses the proxies whose breakers are closed
	ReasonFewClosed    = "few_closed"   // MakeHalfOpen: few breakers of the pool are closed
	ReasonCluster      = "cluster"      // OpenForCluster or CloseForCluster
)

// Breaker is the circuit breaker of one proxy. It is safe for concurrent use.
//
// A breaker without a failure has no history. This saves memory if a long list has many breakers. All times are
// durations after the epoch, except for changedAt.
type Breaker struct {
	word   *StateWord
	shared *Shared
	owner  Owner
	cfg    atomic.Pointer[Config]

	mu        sync.Mutex // guards changedAt and history
	changedAt int64      // time of day of the last change of state, or of Init, ns since 1970
	*history             // nil before the first failure or change of state
}

// history holds the fields that a breaker needs only after its first failure or change of state. It is small (64
// bytes), because the pool of a long list has many open breakers. The breaker's mu guards it.
type history struct {
	window           *window // nil if the window has no failures
	delivery         *delivery
	lastChangeOffset time.Duration // time of the last change of state, after the epoch; 0 before the first change
	probeDeadline    time.Duration // end of the probe's timeout, while probing
	resultDeadline   time.Duration // end of the time in which the probe's result counts, while probing; 0 for no limit
	trips            Trips
	headReceived     bool // while probing: the probe has received a response head or opened a tunnel
}

// delivery passes transitions to the owner of a breaker. It exists only while there are transitions to pass.
type delivery struct {
	undelivered []core.Transition // not yet passed to the owner, in order; guarded by the breaker's mu
	callers     int               // goroutines that hold ownerMu or wait for it; guarded by the breaker's mu
	ownerMu     sync.Mutex        // serializes the calls of the owner; locked before the breaker's mu
}

// Shared holds the values that all breakers of a pool have in common.
type Shared struct {
	Now       func() time.Time
	Epoch     time.Time // time 0 of the breakers' durations: a past time of the clock Now, with a monotonic reading
	ProbeGate ProbeGate // nil without one
}

// Owner is the owner of a breaker.
type Owner interface {
	ID() string // of the proxy; it never changes
	// Transition gets every transition of the breaker once, in order. It may call the methods of the breaker that cause
	// no other transition.
	Transition(core.Transition)
}

// New returns a closed breaker. It passes its transitions to notify (see Owner.Transition).
func New(id string, cfg Config, now func() time.Time, notify func(core.Transition)) *Breaker {
	b := &Breaker{}
	b.Init(new(StateWord), &cfg, &Shared{Now: now, Epoch: now()}, OwnerOf(id, notify))
	return b
}

// OwnerOf returns an Owner with the given id, whose method Transition calls notify.
func OwnerOf(id string, notify func(core.Transition)) Owner { return &owner{id, notify} }

type owner struct {
	id     string
	notify func(core.Transition)
}

func (o *owner) ID() string                   { return o.id }
func (o *owner) Transition(t core.Transition) { o.notify(t) }

// Init turns the zero Breaker into a closed breaker, which keeps its state in word. The StateWord must be zero, too.
// After the call, *shared and *cfg must not change.
func (b *Breaker) Init(word *StateWord, cfg *Config, shared *Shared, owner Owner) {
	b.word, b.shared, b.owner = word, shared, owner
	b.cfg.Store(cfg)
	b.changedAt = shared.Now().UnixNano()
}

func (b *Breaker) now() time.Duration { return b.shared.Now().Sub(b.shared.Epoch) }

// wallTime converts a time after the epoch to a time of day. It computes the result from the present time of day,
// because the clock may have been changed since the epoch.
func (b *Breaker) wallTime(at time.Duration) time.Time {
	now := b.shared.Now()
	return now.Add(at - now.Sub(b.shared.Epoch))
}

func (b *Breaker) openEnd() time.Duration { return time.Duration(b.word.openEnd.Load()) }

// ensureHistory returns the history. The caller holds mu.
func (b *Breaker) ensureHistory() *history {
	if b.history == nil {
		b.history = &history{}
	}
	return b.history
}

// Permit is a breaker's admission of one attempt. The holder calls Report exactly once. A report
// with the zero Permit does nothing.
type Permit struct {
	breaker    *Breaker
	generation uint64
	isProbe    bool // the breaker was half-open
}

// Admissible reports whether Acquire would probably succeed now. It takes no permit.
func (b *Breaker) Admissible() bool {
	if b.word.IsClosed() {
		return true
	}
	b.updateStateIfDue()
	switch p := b.word.load(); p.state() {
	case core.Closed:
		return true
	case core.HalfOpen:
		return !p.hasProbe() && (b.shared.ProbeGate == nil || b.shared.ProbeGate.MayProbe(b.owner.ID()))
	}
	return false
}

// State returns the current state.
func (b *Breaker) State() core.State {
	if b.word.IsClosed() {
		return core.Closed
	}
	b.updateStateIfDue()
	return b.word.load().state()
}

// ProbeOverdue reports whether the half-open breaker has been without a probe for longer than Config.ProbeWait.
func (b *Breaker) ProbeOverdue() bool {
	if !b.AwaitsProbe() {
		return false
	}
	cfg := b.cfg.Load()
	return b.now()-b.openEnd() > min(cmp.Or(cfg.ProbeWait, cfg.TimeoutDuration), cfg.TimeoutDuration)
}

// Acquire returns a permit. It returns false if the breaker admits no attempt: the breaker is open, or it is half-open
// and has a probe. At a closed breaker, Acquire costs one atomic load.
func (b *Breaker) Acquire() (Permit, bool) {
	if p := b.word.load(); p.state() == core.Closed {
		return Permit{breaker: b, generation: p.generation()}, true
	}
	return b.acquireProbe()
}

func (b *Breaker) acquireProbe() (Permit, bool) {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	now := b.now()
	b.updateState(now)
	p := b.word.load()
	switch {
	case p.state() == core.Closed:
		return Permit{breaker: b, generation: p.generation()}, true
	case p.state() == core.Open, p.hasProbe():
		return Permit{}, false
	}
	h := b.ensureHistory()
	h.resultDeadline = 0
	if b.shared.ProbeGate != nil {
		until, ok := b.shared.ProbeGate.BeginProbe(b.owner.ID())
		if !ok {
			return Permit{}, false
		}
		if !until.IsZero() {
			h.resultDeadline = max(until.Sub(b.shared.Epoch), 1)
		}
	}
	b.word.store(p | probeBit)
	h.probeDeadline, h.headReceived = now+cmp.Or(b.cfg.Load().probeTimeout, defaultProbeTimeout), false
	return Permit{breaker: b, generation: p.generation(), isProbe: true}, true
}

// timeoutAfterHead is the time after ReportHead within which a probe may still fail.
const timeoutAfterHead = time.Second

// ReportHead reports that the attempt has received a response head or opened a tunnel. A probe that does not fail
// within the next second is then a success. Otherwise a long download or an idle tunnel would keep the breaker
// half-open.
func (p Permit) ReportHead() {
	if !p.isProbe {
		return
	}
	p.breaker.mu.Lock()
	defer p.breaker.mu.Unlock()
	if p.breaker.Generation() == p.generation {
		p.breaker.headReceived = true
		p.breaker.probeDeadline = min(p.breaker.probeDeadline, p.breaker.now()+timeoutAfterHead)
	}
}

// Generation returns the breaker's generation at the admission. The generation increases with every change of state,
// with each reset and with each probe that ends without a result.
func (p Permit) Generation() uint64 { return p.generation }

// IsProbe reports whether the attempt is the probe of a half-open breaker.
func (p Permit) IsProbe() bool { return p.isProbe }

// Evidence is the second condition for opening a closed breaker. The first condition is that the last window_duration
// has failure_threshold failures.
type Evidence struct {
	IsEnough    bool
	Explanation string // explanation in words, copied to the transition; may be empty
}

// AlwaysEnough is the Evidence for breakers that open at failure_threshold failures, without a second condition.
var AlwaysEnough = Evidence{IsEnough: true}

// Report ends the attempt with a verdict. It uses the evidence e only if the verdict is a failure.
func (p Permit) Report(v core.Verdict, e Evidence) {
	b := p.breaker
	if b == nil || v != core.Failure && !p.isProbe {
		return // a success does not clear the window of a closed breaker
	}
	b.mu.Lock()
	defer b.unlockAndDeliver()
	// The result of a probe still counts after the probe's timeout. Therefore Report does not call updateState, which
	// would end such a probe.
	now, current := b.now(), b.word.load()
	if current.generation() != p.generation {
		return
	}
	switch current.state() {
	case core.Closed:
		b.addFailure(now)
		b.tripIfNeeded(now, e)
	case core.HalfOpen:
		b.endProbe(now, v)
	}
}

func (b *Breaker) endProbe(now time.Duration, v core.Verdict) {
	switch {
	case b.resultExpired(now):
		b.admitNextProbe()
	case v == core.Success:
		b.setState(core.Closed, now, ReasonProbeSuccess, "")
	case v == core.Failure:
		b.addFailure(now)
		b.trip(now, ReasonProbeFailure, "")
	default:
		b.admitNextProbe()
	}
}

// admitNextProbe ends a probe without a result. The caller holds mu.
func (b *Breaker) admitNextProbe() { b.word.store(b.word.load().withState(core.HalfOpen)) }

// tripIfNeeded opens the breaker if the window has at least failure_threshold failures and the evidence is enough. The
// caller holds mu.
func (b *Breaker) tripIfNeeded(now time.Duration, e Evidence) {
	if b.failureCount() >= b.cfg.Load().FailureThreshold && e.IsEnough {
		b.trip(now, ReasonThreshold, e.Explanation)
	}
}

// TripOnEvidence opens a closed breaker if its window has at least failure_threshold failures and the evidence is
// enough. It is called when the evidence has changed without a new failure. It does nothing if the breaker has another
// generation than the given one.
func (b *Breaker) TripOnEvidence(gen uint64, e Evidence) {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	if p := b.word.load(); p.generation() != gen || p.state() != core.Closed {
		return
	}
	now := b.now()
	b.dropOldFailures(now)
	b.tripIfNeeded(now, e)
}

// trip opens the breaker for a time that grows with repeated trips. The caller holds mu.
func (b *Breaker) trip(now time.Duration, reason, explanation string) {
	var closedFor time.Duration
	h, cfg := b.ensureHistory(), b.cfg.Load()
	if reason == ReasonThreshold {
		closedFor = now - h.lastChangeOffset
	}
	openFor := h.trips.CountTrip(closedFor, cfg.TimeoutDuration, cfg.MaxTimeout)
	b.word.openEnd.Store(int64(now + openFor))
	b.setState(core.Open, now, reason, explanation)
}

// setState sets the state, begins a new generation and queues the transition. The caller holds mu.
func (b *Breaker) setState(to core.State, at time.Duration, reason, explanation string) {
	before := b.word.load()
	b.dropOldFailures(at)
	count := b.failureCount()
	if to == core.Closed {
		b.forgetFailures()
	}
	b.word.store(before.withState(to))
	h, day := b.ensureHistory(), b.wallTime(at)
	h.lastChangeOffset, b.changedAt = at, day.UnixNano()
	if h.delivery == nil {
		h.delivery = &delivery{}
	}
	h.delivery.undelivered = append(h.delivery.undelivered, core.Transition{
		ProxyID: b.owner.ID(), From: before.state(), To: to, At: day, FailureCount: count, Reason: reason,
		Why: explanation,
	})
}

// updateStateIfDue calls updateState, but takes the lock only if a change may be due.
func (b *Breaker) updateStateIfDue() {
	p := b.word.load()
	if b.word.IsOpen(b.now()) || p.state() == core.HalfOpen && !p.hasProbe() {
		return
	}
	b.mu.Lock()
	defer b.unlockAndDeliver()
	b.updateState(b.now())
}

// updateState makes the changes of state that are due. An open breaker becomes half-open. A probe whose timeout has
// passed is a success if it has received a response head; otherwise the breaker admits another probe. The caller
// holds mu.
func (b *Breaker) updateState(now time.Duration) {
	switch p := b.word.load(); p.state() {
	case core.Open:
		if end := b.openEnd(); now >= end {
			b.setState(core.HalfOpen, end, ReasonTimeout, "")
		}
	case core.HalfOpen:
		switch {
		case !p.hasProbe() || now <= b.probeDeadline:
		case b.headReceived && !b.resultExpired(now):
			b.setState(core.Closed, b.probeDeadline, ReasonProbeSuccess, "")
		default:
			b.admitNextProbe()
		}
	}
}

// unlockAndDeliver unlocks mu and then passes the pending transitions to the owner, in order.
func (b *Breaker) unlockAndDeliver() {
	if b.history == nil || b.delivery == nil || len(b.delivery.undelivered) == 0 {
		b.mu.Unlock()
		return
	}
	d := b.delivery
	d.callers++
	b.mu.Unlock()
	d.ownerMu.Lock()
	defer d.ownerMu.Unlock()
	b.mu.Lock()
	transitions := d.undelivered
	d.undelivered = nil
	b.mu.Unlock()
	for _, t := range transitions {
		b.owner.Transition(t)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.callers--; d.callers == 0 && len(d.undelivered) == 0 {
		b.delivery = nil
	}
}

// Reset closes the breaker and clears its window. Earlier permits have no effect any more.
func (b *Breaker) Reset() {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	b.updateState(b.now())
	if b.history != nil {
		b.trips = Trips{}
	}
	if !b.word.IsClosed() {
		b.setState(core.Closed, b.now(), ReasonManualReset, "")
		return
	}
	b.forgetFailures()
	b.word.store(b.word.load().withState(core.Closed))
}

// Generation returns the current generation.
func (b *Breaker) Generation() uint64 { return b.word.load().generation() }

// MakeHalfOpen makes an open breaker half-open, because the proxy may work again. At any other breaker it does nothing.
func (b *Breaker) MakeHalfOpen(reason string) {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	now := b.now()
	b.updateState(now)
	if b.word.load().state() == core.Open {
		b.word.openEnd.Store(int64(now))
		b.setState(core.HalfOpen, now, reason, "")
	}
}

// Postpone keeps an open breaker open for at least d from now, because the proxy still fails. At any other breaker it
// does nothing.
func (b *Breaker) Postpone(d time.Duration) {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	now := b.now()
	b.updateState(now)
	if b.word.load().state() != core.Open {
		return
	}
	b.dropOldFailures(now) // frees memory: many open breakers are postponed, each one repeatedly
	if end := int64(now + d); end > b.word.openEnd.Load() {
		b.word.openEnd.Store(end)
	}
}

// Configure replaces the settings. The time at which an open breaker becomes half-open does not change. After the call,
// *cfg must not change.
func (b *Breaker) Configure(cfg *Config) { b.cfg.Store(cfg) }

// Config returns the settings.
func (b *Breaker) Config() Config { return *b.cfg.Load() }

// CopyState copies the state of another breaker of the same pool to b, which must not have been used yet. It does not
// copy the probe, and causes no transition.
func (b *Breaker) CopyState(other *Breaker) {
	other.mu.Lock()
	defer other.mu.Unlock()
	b.word.store(other.word.load() &^ probeBit)
	b.word.openEnd.Store(other.word.openEnd.Load())
	b.changedAt = other.changedAt
	if other.history == nil {
		return
	}
	b.history = &history{lastChangeOffset: other.lastChangeOffset, trips: other.trips}
	if o := other.window; o != nil {
		b.window = &window{failures: slices.Clone(o.failures[o.head:])}
	}
}

// View is the state of a breaker at one time.
type View struct {
	State        core.State
	FailureCount int // failures in the window, at most the larger of 1000 and failure_threshold
	Config       Config
	NextTest     time.Time // when an open breaker becomes half-open; zero in the other states
	// LastChange is the time of day of the last change of state; before the first change, it is the time of the
	// creation. Compare LastChangeOffset instead of LastChange: the clock may have been changed.
	LastChange       time.Time
	LastChangeOffset time.Duration // time of the last change of state, after the epoch; 0 before the first change
}

// Snapshot returns the current state of the breaker.
func (b *Breaker) Snapshot() View {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	now := b.now()
	b.updateState(now)
	b.dropOldFailures(now)
	v := View{
		State: b.word.load().state(), FailureCount: b.failureCount(), Config: b.Config(),
		LastChange: time.Unix(0, b.changedAt).In(b.shared.Epoch.Location()),
	}
	if b.history != nil {
		v.LastChangeOffset = b.lastChangeOffset
	}
	if v.State == core.Open {
		v.NextTest = b.wallTime(b.openEnd())
	}
	return v
}
