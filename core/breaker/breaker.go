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
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Config holds the settings of a breaker.
type Config struct {
	FailureThreshold int           // failures within the window that open the breaker, >= 1
	WindowDuration   time.Duration // length of the sliding window, both ends included; > 0
	TimeoutDuration  time.Duration // time that the breaker stays open, > 0
	MaxTimeout       time.Duration // longest open time after repeated trips; no effect below TimeoutDuration
	// ProbeWait is the time for which a breaker may be half-open without a probe before it is overdue. The value 0 and
	// values above TimeoutDuration stand for TimeoutDuration.
	ProbeWait time.Duration

	probeTimeout time.Duration // time that a probe may hold the half-open breaker; 0 stands for defaultProbeTimeout
}

// DefaultProbeWait is the usual Config.ProbeWait.
const DefaultProbeWait = 5 * time.Second

// Default returns the default settings: 5 failures within 60 s open the breaker for 30 s, and
// repeated trips for up to 45 s. With these settings, a proxy that has recovered is in use again
// within a minute.
func Default() Config {
	return Config{
		FailureThreshold: 5, WindowDuration: time.Minute, TimeoutDuration: 30 * time.Second,
		MaxTimeout: 45 * time.Second, ProbeWait: DefaultProbeWait,
	}
}

const (
	defaultProbeTimeout = 10 * time.Second
	// probeSlack is the difference between probe timeout and attempt timeout. It leaves time to report a probe
	// that has reached its attempt timeout as a failure, before the breaker counts the probe as lost.
	probeSlack = time.Second
)

// WithAttemptTimeout returns c with a probe timeout for attempts that last at most d (> 0). The probe timeout
// is d plus one second.
func (c Config) WithAttemptTimeout(d time.Duration) Config {
	c.probeTimeout = d + probeSlack
	return c
}

// WithProbeTimeoutOf returns c with the probe timeout of the configuration other.
func (c Config) WithProbeTimeoutOf(other Config) Config {
	c.probeTimeout = other.probeTimeout
	return c
}

// Validate returns an error for the first field out of range.
func (c Config) Validate() error {
	switch {
	case c.FailureThreshold < 1:
		return fmt.Errorf("failure_threshold is %d; it must be at least 1", c.FailureThreshold)
	case c.WindowDuration <= 0:
		return fmt.Errorf("window_duration is %v; it must be above 0", c.WindowDuration)
	case c.TimeoutDuration <= 0:
		return fmt.Errorf("timeout_duration is %v; it must be above 0", c.TimeoutDuration)
	case c.MaxTimeout < 0:
		return fmt.Errorf("max_timeout is %v; it must be at least 0", c.MaxTimeout)
	}
	return nil
}

// Reasons of transitions (core.Transition.Reason).
const (
	ReasonThreshold    = "threshold" // enough failures
	ReasonTimeout      = "timeout"   // the open time has passed
	ReasonProbeSuccess = "probe_success"
	ReasonProbeFailure = "probe_failure"
	ReasonManualReset  = "manual_reset" // Reset
	ReasonReachable    = "reachable"    // Retest: the proxy can be reached again
	ReasonNoneClosed   = "none_closed"  // Retest: no breaker of the pool is closed
	ReasonFewClosed    = "few_closed"   // Retest: few breakers of the pool are closed
	ReasonCluster      = "cluster"      // Open or Close: other gateways of the cluster
)

// Word is the part of a breaker that every selection reads. It can be a field of a struct of the
// breaker's owner (see Breaker.Init), which saves a cache miss per candidate. The zero Word is closed.
type Word struct {
	state atomic.Uint64 // generation << 3 | probing << 2 | state; changed under mu
	due   atomic.Int64  // when the breaker becomes, or became, half-open, ns after the epoch
}

const (
	stateMask = 0b011
	probing   = 0b100 // a probe holds the half-open breaker
	genShift  = 3
)

// Closed reports whether the breaker is closed. It costs one atomic load.
func (w *Word) Closed() bool { return core.State(w.state.Load()&stateMask) == core.Closed }

// Open reports whether the breaker is open at the given time. The time counts from the breaker's epoch.
func (w *Word) Open(at time.Duration) bool {
	return core.State(w.state.Load()&stateMask) == core.Open && int64(at) < w.due.Load()
}

// Breaker is the circuit breaker of one proxy. It is safe for concurrent use.
//
// The pool of a long list has many breakers that have counted no failure. They have no history, which keeps them
// small. All times are durations after the epoch, except for changed.
type Breaker struct {
	word   *Word
	shared *Shared
	owner  Owner
	cfg    atomic.Pointer[Config]

	mu       sync.Mutex
	changed  int64 // time of day of the last change of state, or of Init, ns since 1970
	*history       // nil before the first failure or change of state
}

// history is the part of a breaker that its first failure or change of state creates. The breaker's mu guards it. The
// pool of a long list has many open breakers, so it is small (64 bytes).
type history struct {
	window     *window // nil if the window has no failures
	delivery   *delivery
	lastChange time.Duration // of the state; 0 before the first change
	probeEnds  time.Duration // end of the probe's timeout, while probing
	expires    time.Duration // valid while probing: after this time the probe's result has no effect; 0 for no limit
	trips      Trips
	answered   bool // valid while probing: the probe has received a response head or opened a tunnel
}

// window holds the failures that are not older than the breaker's window: failures[head:], the oldest first.
type window struct {
	failures []time.Duration
	head     int
}

// delivery passes transitions to the owner of a breaker. A breaker has no delivery after the owner has received all
// transitions.
type delivery struct {
	pending []core.Transition // not yet passed to the owner, in order; guarded by the breaker's mu
	users   int               // goroutines that wait for order or hold it; guarded by the breaker's mu
	order   sync.Mutex        // serializes the calls of the owner; locked before the breaker's mu
}

// Shared is what all breakers of a pool have in common.
type Shared struct {
	Now   func() time.Time
	Epoch time.Time // a time of the clock Now, with a monotonic reading and not in the future; Word.due counts from it
	Gate  Gate      // nil without one
}

// Owner is the owner of a breaker.
type Owner interface {
	ID() string // of the proxy; it never changes
	// Transition gets every transition of the breaker once, in order. It may call the methods of the breaker that cause
	// no other transition.
	Transition(core.Transition)
}

// New returns a closed breaker. It calls the function notify as described at Owner.Transition.
func New(id string, cfg Config, now func() time.Time, notify func(core.Transition)) *Breaker {
	b := &Breaker{}
	b.Init(new(Word), &cfg, &Shared{Now: now, Epoch: now()}, OwnerOf(id, notify))
	return b
}

// OwnerOf returns an Owner with the given id. Its method Transition calls the function notify.
func OwnerOf(id string, notify func(core.Transition)) Owner { return &owner{id, notify} }

type owner struct {
	id     string
	notify func(core.Transition)
}

func (o *owner) ID() string                   { return o.id }
func (o *owner) Transition(t core.Transition) { o.notify(t) }

// Init makes the zero Breaker a closed breaker that uses the caller's zero word. The caller does not change shared
// and cfg any more.
func (b *Breaker) Init(word *Word, cfg *Config, shared *Shared, owner Owner) {
	b.word, b.shared, b.owner = word, shared, owner
	b.cfg.Store(cfg)
	b.changed = shared.Now().UnixNano()
}

// now returns the current time.
func (b *Breaker) now() time.Duration { return b.shared.Now().Sub(b.shared.Epoch) }

// timeOf returns a time of day. It computes the result relative to the present time, because the sum of the epoch and
// the duration at would be wrong after a change of the clock or a suspension of the machine.
func (b *Breaker) timeOf(at time.Duration) time.Time {
	now := b.shared.Now()
	return now.Add(at - now.Sub(b.shared.Epoch))
}

// due returns the time when an open breaker is due.
func (b *Breaker) due() time.Duration { return time.Duration(b.word.due.Load()) }

// past returns the history. If there is none, it creates it. The caller holds mu.
func (b *Breaker) past() *history {
	if b.history == nil {
		b.history = &history{}
	}
	return b.history
}

// Permit is a breaker's admission of one attempt. The holder calls Report exactly once. A report
// with the zero Permit does nothing.
type Permit struct {
	b     *Breaker
	gen   uint64
	probe bool // the breaker was half-open
}

// Admissible reports whether Acquire would probably succeed now. It takes no permit. If the breaker is open and due,
// Admissible makes it half-open.
func (b *Breaker) Admissible() bool {
	w := b.word.state.Load()
	if core.State(w&stateMask) == core.Closed {
		return true
	}
	b.tick()
	w = b.word.state.Load()
	return core.State(w&stateMask) != core.Open && w&probing == 0 &&
		(core.State(w&stateMask) == core.Closed || b.shared.Gate == nil || b.shared.Gate.Ready(b.owner.ID()))
}

// State returns the current state. If the breaker is open and due, State first makes it half-open.
func (b *Breaker) State() core.State {
	w := b.word.state.Load()
	if core.State(w&stateMask) == core.Closed {
		return core.Closed
	}
	b.tick()
	return core.State(b.word.state.Load() & stateMask)
}

// Overdue reports whether the breaker has waited for a probe for longer than Config.ProbeWait: it is half-open, and no
// selection has chosen the proxy.
func (b *Breaker) Overdue() bool {
	if b.State() != core.HalfOpen || b.word.state.Load()&probing != 0 {
		return false
	}
	cfg := b.cfg.Load()
	return b.now()-b.due() > min(cmp.Or(cfg.ProbeWait, cfg.TimeoutDuration), cfg.TimeoutDuration)
}

// Acquire returns a permit. It returns false if the breaker admits no attempt: the breaker is open, or it is half-open
// and has a probe. At a closed breaker, Acquire costs one atomic load.
func (b *Breaker) Acquire() (Permit, bool) {
	w := b.word.state.Load()
	if core.State(w&stateMask) == core.Closed {
		return Permit{b: b, gen: w >> genShift}, true
	}
	return b.acquireProbe()
}

func (b *Breaker) acquireProbe() (Permit, bool) {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.advance(now)
	w := b.word.state.Load()
	switch {
	case core.State(w&stateMask) == core.Closed:
		return Permit{b: b, gen: w >> genShift}, true
	case core.State(w&stateMask) == core.Open, w&probing != 0:
		return Permit{}, false
	}
	h := b.past()
	h.expires = 0
	if b.shared.Gate != nil {
		until, ok := b.shared.Gate.Enter(b.owner.ID())
		if !ok {
			return Permit{}, false
		}
		if !until.IsZero() {
			h.expires = max(until.Sub(b.shared.Epoch), 1)
		}
	}
	b.word.state.Store(w | probing)
	h.probeEnds, h.answered = now+cmp.Or(b.cfg.Load().probeTimeout, defaultProbeTimeout), false
	return Permit{b: b, gen: w >> genShift, probe: true}, true
}

// answeredTimeout is the time after Answered within which a probe may still fail.
const answeredTimeout = time.Second

// Answered records that the attempt has received a response head or opened a tunnel. A probe that does not fail
// within the next second is then a success. Without this rule, a long download or an idle tunnel would hold the
// half-open breaker, and the breaker of a proxy with only such attempts would never close.
func (p Permit) Answered() {
	if !p.probe {
		return
	}
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.b.word.state.Load()>>genShift == p.gen {
		p.b.answered = true
		p.b.probeEnds = min(p.b.probeEnds, p.b.now()+answeredTimeout)
	}
}

// Generation returns the breaker's generation at the admission. The generation increases with every change of state,
// with each reset and with each probe that ends without a result.
func (p Permit) Generation() uint64 { return p.gen }

// Probe reports whether the attempt is the probe of a half-open breaker.
func (p Permit) Probe() bool { return p.probe }

// Evidence is the second condition for opening a closed breaker, beside failure_threshold failures in
// the window.
type Evidence struct {
	Enough bool
	Why    string // explanation in words, copied to the transition; may be empty
}

// Literal is always enough evidence: the number of failures alone opens the breaker.
var Literal = Evidence{Enough: true}

// Report ends the attempt with a verdict. It uses the evidence e only if the verdict is a failure.
func (p Permit) Report(v core.Verdict, e Evidence) {
	b := p.b
	if b == nil || v != core.Failure && !p.probe {
		return // a success does not clear the window of a closed breaker
	}
	b.mu.Lock()
	defer b.unlock()
	// advance is not called here, because it would end a probe whose timeout has passed. The report of such a
	// probe still counts.
	now := b.now()
	w := b.word.state.Load()
	if w>>genShift != p.gen {
		return
	}
	switch core.State(w & stateMask) {
	case core.Closed:
		b.fail(now, e)
	case core.HalfOpen:
		switch {
		case b.expired(now):
			b.word.state.Store((w>>genShift+1)<<genShift | uint64(core.HalfOpen))
		case v == core.Success:
			b.change(core.Closed, now, ReasonProbeSuccess, "")
		case v == core.Failure:
			b.push(now)
			b.open(now, ReasonProbeFailure, "")
		default:
			b.word.state.Store((w>>genShift+1)<<genShift | uint64(core.HalfOpen))
		}
	}
}

// fail counts a failure of a closed breaker. It opens the breaker if failure_threshold failures are in the window and
// the evidence e is enough. The caller holds mu.
func (b *Breaker) fail(now time.Duration, e Evidence) {
	b.push(now)
	if b.live() >= b.cfg.Load().FailureThreshold && e.Enough {
		b.open(now, ReasonThreshold, e.Why)
	}
}

// Reconsider opens the breaker if it is closed, its generation is gen, and both conditions hold: the evidence e is
// enough, and failure_threshold failures are in the window. It is called when the evidence changes without a new
// failure.
func (b *Breaker) Reconsider(gen uint64, e Evidence) {
	b.mu.Lock()
	defer b.unlock()
	if w := b.word.state.Load(); w>>genShift != gen || core.State(w&stateMask) != core.Closed {
		return
	}
	now := b.now()
	b.prune(now)
	if b.live() >= b.cfg.Load().FailureThreshold && e.Enough {
		b.open(now, ReasonThreshold, e.Why)
	}
}

// maxFailures is the number of failures kept (8 KB), unless the threshold is higher. The number must
// be limited, because a closed breaker collects failures as long as there is not enough evidence.
const maxFailures = 1000

// push adds a failure to the window. The caller holds mu.
func (b *Breaker) push(now time.Duration) {
	h, threshold := b.past(), b.cfg.Load().FailureThreshold
	b.prune(now)
	if h.window == nil {
		h.window = &window{failures: make([]time.Duration, 0, min(threshold, firstFailures))}
	}
	w := h.window
	if b.live() >= max(threshold, maxFailures) {
		w.head++ // without its oldest failure, the window still reaches the threshold
	}
	if w.head > cap(w.failures)/2 && len(w.failures) == cap(w.failures) {
		w.failures = append(w.failures[:0], w.failures[w.head:]...)
		w.head = 0
	}
	w.failures = append(w.failures, now)
}

// firstFailures is the largest number of failures for which a window has memory at first. Most breakers open with
// the last of failure_threshold failures, and count no more.
const firstFailures = 8

// prune removes the failures that are older than the window. The caller holds mu.
func (b *Breaker) prune(now time.Duration) {
	if b.history == nil || b.window == nil {
		return
	}
	w, limit := b.window, b.cfg.Load().WindowDuration
	for w.head < len(w.failures) && now-w.failures[w.head] > limit {
		w.head++
	}
	if w.head == len(w.failures) {
		b.window = nil
	}
}

// live returns the number of failures in the window, as of the last prune. The caller holds mu.
func (b *Breaker) live() int {
	if b.history == nil || b.window == nil {
		return 0
	}
	return len(b.window.failures) - b.window.head
}

// forgetFailures empties the window. The caller holds mu.
func (b *Breaker) forgetFailures() {
	if b.history != nil {
		b.window = nil
	}
}

// open opens the breaker for a time that grows with repeated trips. The caller holds mu.
func (b *Breaker) open(now time.Duration, reason, why string) {
	var closed time.Duration
	h, cfg := b.past(), b.cfg.Load()
	if reason == ReasonThreshold {
		closed = now - h.lastChange
	}
	openFor := h.trips.Next(closed, cfg.TimeoutDuration, cfg.MaxTimeout)
	b.word.due.Store(int64(now + openFor))
	b.change(core.Open, now, reason, why)
}

// change sets the state, begins a new generation and queues the transition. The caller holds mu.
func (b *Breaker) change(to core.State, at time.Duration, reason, why string) {
	w := b.word.state.Load()
	from := core.State(w & stateMask)
	b.prune(at)
	count := b.live()
	if to == core.Closed {
		b.forgetFailures()
	}
	b.word.state.Store((w>>genShift+1)<<genShift | uint64(to))
	h, day := b.past(), b.timeOf(at)
	h.lastChange, b.changed = at, day.UnixNano()
	if h.delivery == nil {
		h.delivery = &delivery{}
	}
	h.delivery.pending = append(h.delivery.pending, core.Transition{
		ProxyID: b.owner.ID(), From: from, To: to, At: day, FailureCount: count, Reason: reason, Why: why,
	})
}

// tick does the same as advance, but takes the lock only if a change is due.
func (b *Breaker) tick() {
	w := b.word.state.Load()
	if b.word.Open(b.now()) {
		return // open and not due
	}
	if core.State(w&stateMask) == core.HalfOpen && w&probing == 0 {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	b.advance(b.now())
}

// advance makes the changes of state that are due. An open breaker that is due becomes half-open. A probe
// whose timeout has passed is a success if it was answered; otherwise it is lost, and the breaker admits
// another probe. The caller holds mu.
func (b *Breaker) advance(now time.Duration) {
	w := b.word.state.Load()
	switch core.State(w & stateMask) {
	case core.Open:
		if due := b.due(); now >= due {
			b.change(core.HalfOpen, due, ReasonTimeout, "")
		}
	case core.HalfOpen:
		switch {
		case w&probing == 0 || now <= b.probeEnds:
		case b.answered && !b.expired(now):
			b.change(core.Closed, b.probeEnds, ReasonProbeSuccess, "")
		default:
			b.word.state.Store((w>>genShift+1)<<genShift | uint64(core.HalfOpen))
		}
	}
}

// unlock unlocks mu and then passes the pending transitions to the owner. The goroutine that holds delivery.order
// passes all pending transitions, so that they keep their order.
func (b *Breaker) unlock() {
	if b.history == nil || b.delivery == nil || len(b.delivery.pending) == 0 {
		b.mu.Unlock()
		return
	}
	d := b.delivery
	d.users++
	b.mu.Unlock()
	d.order.Lock()
	defer d.order.Unlock()
	b.mu.Lock()
	transitions := d.pending
	d.pending = nil
	b.mu.Unlock()
	for _, t := range transitions {
		b.owner.Transition(t)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.users--; d.users == 0 && len(d.pending) == 0 {
		b.delivery = nil
	}
}

// Reset closes the breaker, clears its window and begins a new generation, so that earlier permits
// have no effect.
func (b *Breaker) Reset() {
	b.mu.Lock()
	defer b.unlock()
	b.advance(b.now())
	if b.history != nil {
		b.trips = Trips{}
	}
	w := b.word.state.Load()
	if core.State(w&stateMask) != core.Closed {
		b.change(core.Closed, b.now(), ReasonManualReset, "")
		return
	}
	b.forgetFailures()
	b.word.state.Store((w>>genShift + 1) << genShift)
}

// Generation returns the present generation.
func (b *Breaker) Generation() uint64 { return b.word.state.Load() >> genShift }

// Retest makes an open breaker half-open, because the proxy may work again. The parameter reason is the reason of the
// transition. If the breaker is not open, Retest does nothing.
func (b *Breaker) Retest(reason string) {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.advance(now)
	if core.State(b.word.state.Load()&stateMask) == core.Open {
		b.word.due.Store(int64(now))
		b.change(core.HalfOpen, now, reason, "")
	}
}

// Postpone keeps an open breaker open for at least d from now, because the proxy still fails. If
// the breaker is not open, Postpone does nothing.
func (b *Breaker) Postpone(d time.Duration) {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.advance(now)
	if core.State(b.word.state.Load()&stateMask) != core.Open {
		return
	}
	b.prune(now) // many open breakers are postponed again and again
	if due := int64(now + d); due > b.word.due.Load() {
		b.word.due.Store(due)
	}
}

// Configure replaces the settings. The present state and its due time stay. The caller does not change cfg any more.
func (b *Breaker) Configure(cfg *Config) { b.cfg.Store(cfg) }

// Config returns the settings.
func (b *Breaker) Config() Config { return *b.cfg.Load() }

// View is the state of a breaker at one time.
type View struct {
	State        core.State
	FailureCount int // failures in the window, at most the larger of 1000 and failure_threshold
	Config       Config
	NextTest     time.Time // when an open breaker becomes half-open; zero in the other states
	// LastChange is the time of day of the last change of state or, before the first change, of the creation. It is as
	// the clock was then. To compare it with other times, use Since.
	LastChange time.Time
	Since      time.Duration // time of the last change of state, after the epoch; 0 before the first change
}

// Snapshot returns the current state of the breaker.
func (b *Breaker) Snapshot() View {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.advance(now)
	b.prune(now)
	v := View{
		State: core.State(b.word.state.Load() & stateMask), FailureCount: b.live(), Config: b.Config(),
		LastChange: time.Unix(0, b.changed).In(b.shared.Epoch.Location()),
	}
	if b.history != nil {
		v.Since = b.lastChange
	}
	if v.State == core.Open {
		v.NextTest = b.timeOf(b.due())
	}
	return v
}
