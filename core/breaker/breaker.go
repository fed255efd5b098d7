// Package breaker is the circuit breaker of one proxy: closed, open for a
// time after too many failures, then half-open with exactly one probe.
//
// Every admission is a [Permit] that carries the generation it was given in.
// A report from an older generation never changes state, so a request that
// began before the trip can neither close nor reopen a breaker.
package breaker

import (
	"cmp"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Config are the thresholds of a breaker. A probe may hold the half-open breaker for 10 s, or as long as an
// attempt may last (WithAttemptTimeout).
type Config struct {
	FailureThreshold int           // failures within the window that open it, >= 1
	WindowDuration   time.Duration // sliding; a failure aged exactly this still counts; > 0
	TimeoutDuration  time.Duration // open for so long, > 0
	MaxTimeout       time.Duration // repeated trips lengthen the open time to this; below TimeoutDuration: they do not

	probeTimeout time.Duration // 0: defaultProbeTimeout
}

// Default returns the defaults of the contract, 5 failures in 60 s open for 30 s,
// and open times of at most 2 minutes after repeated trips.
func Default() Config {
	return Config{
		FailureThreshold: 5, WindowDuration: time.Minute, TimeoutDuration: 30 * time.Second, MaxTimeout: 2 * time.Minute,
	}
}

const (
	defaultProbeTimeout = 10 * time.Second
	// probeSlack is what the probe timeout adds to the attempt timeout. A probe that times out is reported as a
	// failure within it, and is not a probe that was lost.
	probeSlack = time.Second
)

// WithAttemptTimeout returns c for attempts that last at most d (> 0): a probe may hold the half-open breaker a
// second longer than that.
func (c Config) WithAttemptTimeout(d time.Duration) Config {
	c.probeTimeout = d + probeSlack
	return c
}

// WithProbeTimeoutOf returns c with the probe timeout of other.
func (c Config) WithProbeTimeoutOf(other Config) Config {
	c.probeTimeout = other.probeTimeout
	return c
}

// Validate reports the first field out of range.
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

// The reasons of transitions.
const (
	ReasonThreshold    = "threshold"
	ReasonTimeout      = "timeout"
	ReasonProbeSuccess = "probe_success"
	ReasonProbeFailure = "probe_failure"
	ReasonManualReset  = "manual_reset"
	ReasonReachable    = "reachable"
)

// Word is the part of a breaker that every choice among proxies reads. It may lie
// inside a struct of the breaker's owner (see [NewAt]), so that looking at a
// breaker costs no further cache miss. The zero Word is closed.
type Word struct {
	state atomic.Uint64 // generation << 3 | slot taken << 2 | state; changed under mu
	due   atomic.Int64  // ns after the epoch: when it turns, or has turned, half-open
}

const (
	stateMask = 0b011
	slotTaken = 0b100
	genShift  = 3
)

// Closed reports whether the breaker is closed: one atomic load.
func (w *Word) Closed() bool { return core.State(w.state.Load()&stateMask) == core.Closed }

// Open reports whether the breaker is open and still is at a moment, which is
// counted from the breaker's epoch.
func (w *Word) Open(at time.Duration) bool {
	return core.State(w.state.Load()&stateMask) == core.Open && int64(at) < w.due.Load()
}

// Breaker is safe for concurrent use.
type Breaker struct {
	word   *Word
	id     string
	now    func() time.Time
	notify func(core.Transition)
	epoch  time.Time // has a monotonic reading, which the word's due is counted from

	mu         sync.Mutex
	cfg        Config
	failures   []time.Time // of the live window, oldest first from head
	head       int
	slotEnds   time.Time // while the slot is taken: when the probe loses it
	answered   bool      // and the head of the probe's answer has come
	lastChange time.Time
	trips      Trips
	pending    []core.Transition // to be told, in order

	notifyMu sync.Mutex // serialises notify; taken before mu is taken again
}

// New returns a closed breaker. notify hears of every transition once, in
// order, with no lock held that the breaker's methods need.
func New(id string, cfg Config, now func() time.Time, notify func(core.Transition)) *Breaker {
	return NewAt(new(Word), now(), id, cfg, now, notify)
}

// NewAt is New for a breaker whose word, a zero one, lies at a place of the
// caller's; epoch is a moment at or before the present, of the same clock.
func NewAt(word *Word, epoch time.Time, id string, cfg Config, now func() time.Time, notify func(core.Transition)) *Breaker {
	return &Breaker{word: word, id: id, cfg: cfg, now: now, notify: notify, epoch: epoch, lastChange: now()}
}

// Permit is the right to one attempt. Report it exactly once; the zero Permit
// reports to nobody.
type Permit struct {
	b   *Breaker
	gen uint64
	// probe is set on the one permit of a half-open generation.
	probe bool
}

// Admissible peeks: it reports whether Acquire would probably succeed now, and
// takes nothing.
func (b *Breaker) Admissible() bool {
	w := b.word.state.Load()
	if core.State(w&stateMask) == core.Closed {
		return true
	}
	b.tick()
	w = b.word.state.Load()
	return core.State(w&stateMask) != core.Open && w&slotTaken == 0
}

// State is the state now; an open breaker whose time has come turns half-open
// here as well.
func (b *Breaker) State() core.State {
	w := b.word.state.Load()
	if core.State(w&stateMask) == core.Closed {
		return core.Closed
	}
	b.tick()
	return core.State(b.word.state.Load() & stateMask)
}

// Overdue reports whether the breaker has been half-open with a free slot for
// longer than timeout_duration: nobody has chosen it.
func (b *Breaker) Overdue() bool {
	if b.State() != core.HalfOpen || b.word.state.Load()&slotTaken != 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	return now.Sub(b.dueTime(now)) > b.cfg.TimeoutDuration
}

// Acquire asks for a permit. Closed, it costs one atomic load. Half-open, it
// is given to one caller at a time.
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
	case core.State(w&stateMask) == core.Open, w&slotTaken != 0:
		return Permit{}, false
	}
	b.word.state.Store(w | slotTaken)
	b.slotEnds, b.answered = now.Add(cmp.Or(b.cfg.probeTimeout, defaultProbeTimeout)), false
	return Permit{b: b, gen: w >> genShift, probe: true}, true
}

// proof is how long a probe whose answer has begun may still fail.
const proof = time.Second

// Answered says that an answer has come whose body is still to come, or that a
// tunnel stands. A probe that has got so far, and does not break off within a
// second, is a success: else a long download or an idle tunnel would hold the
// slot, and a pool of them would never close a breaker.
func (p Permit) Answered() {
	if !p.probe {
		return
	}
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.b.word.state.Load()>>genShift == p.gen {
		p.b.answered = true
		if soon := p.b.now().Add(proof); soon.Before(p.b.slotEnds) {
			p.b.slotEnds = soon
		}
	}
}

// Generation is the breaker's when the permit was given. It goes up with every
// change of state and with each reset.
func (p Permit) Generation() uint64 { return p.gen }

// Probe reports whether the permit is the one of a half-open breaker.
func (p Permit) Probe() bool { return p.probe }

// Evidence says whether a failure may open a closed breaker once failure_threshold
// of them lie in the window.
type Evidence struct {
	Enough bool
	Why    string // of a transition, for people; may be empty
}

// Literal is the evidence where the count alone decides.
var Literal = Evidence{Enough: true}

// Report settles the permit; e matters for a failure only.
func (p Permit) Report(v core.Verdict, e Evidence) {
	b := p.b
	if b == nil || v != core.Failure && !p.probe {
		return // a success does not clear the window
	}
	b.mu.Lock()
	defer b.unlock()
	// Not advanced before: a probe that is late, but whose slot nobody has
	// taken back yet, has its say.
	now := b.now()
	w := b.word.state.Load()
	if w>>genShift != p.gen {
		return
	}
	switch core.State(w & stateMask) {
	case core.Closed:
		b.fail(now, e)
	case core.HalfOpen:
		switch v {
		case core.Success:
			b.change(core.Closed, now, ReasonProbeSuccess, "")
		case core.Failure:
			b.push(now)
			b.open(now, ReasonProbeFailure, "")
		default:
			b.word.state.Store((w>>genShift+1)<<genShift | uint64(core.HalfOpen))
		}
	}
}

// fail counts a failure of a closed breaker. Requires mu.
func (b *Breaker) fail(now time.Time, e Evidence) {
	b.push(now)
	if b.live() >= b.cfg.FailureThreshold && e.Enough {
		b.open(now, ReasonThreshold, e.Why)
	}
}

// mostFailures bounds the failures that are remembered, unless the threshold is higher:
// without enough evidence a breaker stays closed however many there are.
const mostFailures = 1000

func (b *Breaker) push(now time.Time) {
	b.prune(now)
	if b.live() >= max(b.cfg.FailureThreshold, mostFailures) {
		b.head++ // the threshold is met in any case
	}
	if b.head > cap(b.failures)/2 && len(b.failures) == cap(b.failures) {
		b.failures = append(b.failures[:0], b.failures[b.head:]...)
		b.head = 0
	}
	b.failures = append(b.failures, now)
}

func (b *Breaker) prune(now time.Time) {
	for b.head < len(b.failures) && now.Sub(b.failures[b.head]) > b.cfg.WindowDuration {
		b.head++
	}
	if b.head == len(b.failures) {
		b.failures, b.head = b.failures[:0], 0
	}
}

func (b *Breaker) live() int { return len(b.failures) - b.head }

func (b *Breaker) open(now time.Time, reason, why string) {
	var closed time.Duration
	if reason == ReasonThreshold {
		closed = now.Sub(b.lastChange)
	}
	openFor := b.trips.Next(closed, b.cfg.TimeoutDuration, b.cfg.MaxTimeout)
	b.word.due.Store(int64(now.Add(openFor).Sub(b.epoch)))
	b.change(core.Open, now, reason, why)
}

// dueTime is counted from now, since the epoch's time of day is wrong once the
// clock has been set or the machine has slept.
func (b *Breaker) dueTime(now time.Time) time.Time {
	return now.Add(time.Duration(b.word.due.Load()) - now.Sub(b.epoch))
}

// change moves to another state in a new generation. Requires mu.
func (b *Breaker) change(to core.State, at time.Time, reason, why string) {
	w := b.word.state.Load()
	from := core.State(w & stateMask)
	b.prune(at)
	count := b.live()
	if to == core.Closed {
		b.failures, b.head = nil, 0
	}
	b.lastChange = at
	b.word.state.Store((w>>genShift+1)<<genShift | uint64(to))
	b.pending = append(b.pending, core.Transition{ProxyID: b.id, From: from, To: to, At: at, FailureCount: count, Reason: reason, Why: why})
}

// tick lets time take effect.
func (b *Breaker) tick() {
	w := b.word.state.Load()
	if b.word.Open(b.now().Sub(b.epoch)) {
		return // the common case of an open breaker, without the lock
	}
	if core.State(w&stateMask) == core.HalfOpen && w&slotTaken == 0 {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	b.advance(b.now())
}

// advance applies what the passing of time has changed: an open breaker past its
// due time has been half-open since then; a probe past the probe timeout has succeeded if
// the head of its answer has come, and else has lost the slot. Requires mu.
func (b *Breaker) advance(now time.Time) {
	w := b.word.state.Load()
	switch core.State(w & stateMask) {
	case core.Open:
		if due := b.dueTime(now); !now.Before(due) {
			b.change(core.HalfOpen, due, ReasonTimeout, "")
		}
	case core.HalfOpen:
		switch {
		case w&slotTaken == 0 || !now.After(b.slotEnds):
		case b.answered:
			b.change(core.Closed, b.slotEnds, ReasonProbeSuccess, "")
		default:
			b.word.state.Store((w>>genShift+1)<<genShift | uint64(core.HalfOpen))
		}
	}
}

// unlock releases mu and then tells of the transitions made under it. The
// order is kept: whoever holds notifyMu tells all that is pending.
func (b *Breaker) unlock() {
	pending := len(b.pending) > 0
	b.mu.Unlock()
	if !pending {
		return
	}
	b.notifyMu.Lock()
	defer b.notifyMu.Unlock()
	b.mu.Lock()
	told := b.pending
	b.pending = nil
	b.mu.Unlock()
	for _, t := range told {
		b.notify(t)
	}
}

// Reset closes the breaker by hand: window cleared, permits given before void.
func (b *Breaker) Reset() {
	b.mu.Lock()
	defer b.unlock()
	b.advance(b.now())
	b.trips = Trips{}
	w := b.word.state.Load()
	if core.State(w&stateMask) != core.Closed {
		b.change(core.Closed, b.now(), ReasonManualReset, "")
		return
	}
	b.failures, b.head = nil, 0
	b.word.state.Store((w>>genShift + 1) << genShift)
}

// Retest lets an open breaker turn half-open now: there is reason to believe that
// the proxy works again. It does nothing in another state.
func (b *Breaker) Retest() {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.advance(now)
	if core.State(b.word.state.Load()&stateMask) == core.Open {
		b.word.due.Store(int64(now.Sub(b.epoch)))
		b.change(core.HalfOpen, now, ReasonReachable, "")
	}
}

// Postpone keeps an open breaker open for at least d from now: the proxy is known not
// to work. It does nothing in another state.
func (b *Breaker) Postpone(d time.Duration) {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.advance(now)
	if core.State(b.word.state.Load()&stateMask) != core.Open {
		return
	}
	if due := int64(now.Add(d).Sub(b.epoch)); due > b.word.due.Load() {
		b.word.due.Store(due)
	}
}

// Configure replaces the thresholds; they are used from the next input on.
func (b *Breaker) Configure(cfg Config) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cfg = cfg
}

// Config returns the thresholds in force.
func (b *Breaker) Config() Config {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cfg
}

// View is a breaker at one moment.
type View struct {
	State        core.State
	FailureCount int // in the live window; at most 1000, or failure_threshold
	Config       Config
	NextTest     time.Time // zero unless open
	LastChange   time.Time
}

// Snapshot returns the breaker as it is now.
func (b *Breaker) Snapshot() View {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.advance(now)
	b.prune(now)
	v := View{State: core.State(b.word.state.Load() & stateMask), FailureCount: b.live(), Config: b.cfg, LastChange: b.lastChange}
	if v.State == core.Open {
		v.NextTest = b.dueTime(now)
	}
	return v
}
