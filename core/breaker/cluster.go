package breaker

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Gate decides when half-open breakers may admit a probe, if several gateways share the probes of a proxy. Its methods
// return soon, and do not call the breaker.
type Gate interface {
	// Ready reports whether a probe of the proxy would probably be admitted now.
	Ready(proxy string) bool
	// Enter is called before a probe begins. The result ok is false if the gate does not admit the probe. After the
	// time until, the probe's result has no effect any more; the zero time stands for no limit.
	Enter(proxy string) (until time.Time, ok bool)
}

// expired reports whether the time for the result of the probe has passed. The caller holds mu.
func (b *Breaker) expired(now time.Duration) bool { return b.expires > 0 && now >= b.expires }

// Open opens the breaker for the time d, because it is open on other gateways. If the breaker is open already, it stays
// open for d from now. The reason of the transition is ReasonCluster.
func (b *Breaker) Open(d time.Duration, why string) {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.word.due.Store(int64(now + d))
	if core.State(b.word.state.Load()&stateMask) != core.Open {
		cfg := b.cfg.Load()
		b.past().trips.Next(0, cfg.TimeoutDuration, cfg.MaxTimeout) // so that the next trip here is a repeated one
		b.change(core.Open, now, ReasonCluster, why)
	}
}

// Close closes the breaker, because a probe of another gateway has succeeded. If the breaker is closed already, Close
// does nothing. The reason of the transition is ReasonCluster.
func (b *Breaker) Close() {
	b.mu.Lock()
	defer b.unlock()
	if core.State(b.word.state.Load()&stateMask) != core.Closed {
		b.trips = Trips{}
		b.change(core.Closed, b.now(), ReasonCluster, "")
	}
}

// FirstFailure returns the time of the oldest failure in the window. The result ok is false if there is none.
func (b *Breaker) FirstFailure() (at time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(b.now())
	if b.live() == 0 {
		return time.Time{}, false
	}
	return b.timeOf(b.window.failures[b.window.head]), true
}

// Waiting reports whether the breaker is half-open without a probe, whether or not its gate admits one.
func (b *Breaker) Waiting() bool {
	return b.State() == core.HalfOpen && b.word.state.Load()&probing == 0
}

// Probing reports whether the probe of the half-open breaker is in flight.
func (b *Breaker) Probing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.word.state.Load()&probing != 0
}

// OpenFor returns the time for which an open breaker stays open. In the other states it returns the
// time for which a first trip would open the breaker.
func (b *Breaker) OpenFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if core.State(b.word.state.Load()&stateMask) == core.Open {
		return max(b.due()-b.now(), 0)
	}
	return b.cfg.Load().TimeoutDuration
}
