package upstream

import (
	"maps"
	"time"
)

// Proxy lists often omit a proxy for a while. If its list has the proxy again within keepVanished, with the same id and
// address, the proxy gets its earlier breaker and statistics. If breaker.blame is "literal", it gets new ones.

const (
	keepVanished = 10 * time.Minute
	maxVanished  = 10_000 // number of proxies that are kept
)

// vanishedProxy is a proxy that is not in its list any more.
type vanishedProxy struct {
	*Upstream
	since time.Duration // Pool.Elapsed
}

// keepVanishedProxy keeps a proxy that leaves the pool because its list no longer has it. The caller holds mu.
func (p *Pool) keepVanishedProxy(u *Upstream) {
	source := u.Spec().Source
	isListed := source != SourceConfig && source != SourceAPI && source != ""
	hasState := u.Uses() > 0 || !u.breakerWord.Closed()
	if isListed && hasState && !p.literal.Load() && !u.Draining() && len(p.vanished) < maxVanished {
		p.vanished[u.id] = vanishedProxy{u, p.Elapsed(p.now())}
	}
}

// forgetVanished forgets the proxies that have vanished for longer than keepVanished. The caller holds mu.
func (p *Pool) forgetVanished() {
	oldest := p.Elapsed(p.now()) - keepVanished
	maps.DeleteFunc(p.vanished, func(_ string, v vanishedProxy) bool { return v.since < oldest })
}

// resume gives a new proxy the state of the vanished proxy with the same id and address. The caller holds mu, and must
// call watchBreaker after it has published the snapshot with u.
func (p *Pool) resume(u *Upstream) (resumed bool) {
	old, found := p.vanished[u.id]
	if !found {
		return false
	}
	delete(p.vanished, u.id)
	if p.literal.Load() || old.Spec().Address != u.Spec().Address {
		return false
	}
	u.window.copyFrom(&old.window)
	u.stats.copyFrom(&old.stats)
	u.uses.Store(old.uses.Load())
	u.lastAcquire.Store(old.lastAcquire.Load())
	u.slowStart.limit.Store(old.slowStart.limit.Load())
	u.flags.set(failedToReach, old.flags.has(failedToReach))
	u.openEvidence.Store(old.openEvidence.Load())
	u.breaker.CopyState(&old.breaker)
	return true
}

// watchBreaker adds a proxy to the map notClosed if the proxy's breaker is not closed.
func (p *Pool) watchBreaker(u *Upstream) {
	if u.breakerWord.Closed() {
		return
	}
	p.watchMu.Lock()
	defer p.watchMu.Unlock()
	p.notClosed[u] = struct{}{}
	p.openList = nil
	p.nextTestTime.Store(0)
	p.changes.Add(1)
}

// copyFrom makes w a copy of another window. No other goroutine uses w yet.
func (w *window) copyFrom(o *window) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.attempts != nil {
		copied := *o.attempts
		w.attempts = &copied
	}
	w.lastSuccess.Store(o.lastSuccess.Load())
	w.tail.Store(o.tail.Load())
	w.oldest.Store(o.oldest.Load())
	w.trial.remaining.Store(o.trial.remaining.Load())
}

func (s *stats) copyFrom(o *stats) {
	s.successRate.Store(o.successRate.Load())
	s.samples.Store(o.samples.Load())
	s.mean.Store(o.mean.Load())
	s.ewma.Store(o.ewma.Load())
	s.failures.Store(o.failures.Load())
}
