package breaker

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// ProbeGate ensures that only one gateway of a cluster probes a proxy at a time. Its methods return soon, and do not
// call the breaker.
type ProbeGate interface {
	// MayProbe reports whether BeginProbe would probably return true now.
	MayProbe(proxy string) bool
	// BeginProbe is called before a probe begins. It returns false if the gate does not admit the probe. After the
	// returned time, the result of the probe has no effect any more; the zero time stands for no limit.
	BeginProbe(proxy string) (until time.Time, ok bool)
}

// resultExpired reports whether the time for the result of the probe has passed. The caller holds mu.
func (b *Breaker) resultExpired(now time.Duration) bool {
	return b.resultDeadline > 0 && now >= b.resultDeadline
}

// OpenForCluster opens the breaker for the time d, because it is open on other gateways. If the breaker is open
// already, it stays open for d from now. The reason of the transition is ReasonCluster.
func (b *Breaker) OpenForCluster(d time.Duration, explanation string) {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	now := b.now()
	b.word.openEnd.Store(int64(now + d))
	if b.word.load().state() != core.Open {
		cfg := b.cfg.Load()
		b.ensureHistory().trips.CountTrip(0, cfg.TimeoutDuration, cfg.MaxTimeout)
		b.setState(core.Open, now, ReasonCluster, explanation)
	}
}

// CloseForCluster closes the breaker, because a probe of another gateway has succeeded. If the breaker is closed
// already, it does nothing. The reason of the transition is ReasonCluster.
func (b *Breaker) CloseForCluster() {
	b.mu.Lock()
	defer b.unlockAndDeliver()
	if b.word.load().state() != core.Closed {
		b.trips = Trips{}
		b.setState(core.Closed, b.now(), ReasonCluster, "")
	}
}

// FirstFailure returns the time of the oldest failure in the window. It returns false if the window has no failure.
func (b *Breaker) FirstFailure() (at time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropOldFailures(b.now())
	if b.failureCount() == 0 {
		return time.Time{}, false
	}
	return b.wallTime(b.window.failures[b.window.head]), true
}

// AwaitsProbe reports whether the breaker is half-open without a probe, whether or not its gate admits one.
func (b *Breaker) AwaitsProbe() bool {
	return b.State() == core.HalfOpen && !b.word.load().hasProbe()
}

// HasProbe reports whether the probe of the half-open breaker is in flight.
func (b *Breaker) HasProbe() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.word.load().hasProbe()
}

// OpenTime returns the remaining open time of an open breaker. In the other states it returns the open time of a first
// trip.
func (b *Breaker) OpenTime() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.word.load().state() == core.Open {
		return max(b.openEnd()-b.now(), 0)
	}
	return b.cfg.Load().TimeoutDuration
}
