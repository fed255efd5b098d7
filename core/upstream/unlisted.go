package upstream

import (
	"maps"
	"time"
)

// Proxy lists often omit a proxy for a while. If its list has the proxy again within keepUnlisted, with the same id and
// address, the proxy gets its earlier breaker and statistics. If breaker.blame is "literal", it gets new ones.

const (
	keepUnlisted = 10 * time.Minute
	maxUnlisted  = 10_000 // number of proxies that are kept
)

// unlistedProxy is a proxy that is not in its list any more.
type unlistedProxy struct {
	*Upstream
	since time.Duration // Pool.Elapsed
}

// keepUnlistedProxy keeps a proxy that leaves the pool because its list no longer has it. The caller holds mu.
func (p *Pool) keepUnlistedProxy(u *Upstream) {
	source := u.Spec().Source
	isListed := source != SourceConfig && source != SourceAPI && source != ""
	hasState := u.AttemptCount() > 0 || !u.breakerWord.IsClosed()
	if isListed && hasState && !p.literal.Load() && !u.Draining() && len(p.unlistedProxies) < maxUnlisted {
		p.unlistedProxies[u.id] = unlistedProxy{u, p.Elapsed(p.now())}
	}
}

// forgetUnlisted forgets the proxies that have not been in their list for longer than keepUnlisted. The caller holds
// mu.
func (p *Pool) forgetUnlisted() {
	oldest := p.Elapsed(p.now()) - keepUnlisted
	maps.DeleteFunc(p.unlistedProxies, func(_ string, v unlistedProxy) bool { return v.since < oldest })
}

// restoreState gives a new proxy the state of the unlisted proxy with the same id and address. The caller holds mu, and
// must call watchBreaker after it has published the snapshot with u.
func (p *Pool) restoreState(u *Upstream) (resumed bool) {
	old, found := p.unlistedProxies[u.id]
	if !found {
		return false
	}
	delete(p.unlistedProxies, u.id)
	if p.literal.Load() || old.Spec().Address != u.Spec().Address {
		return false
	}
	u.window.copyFrom(&old.window)
	u.stats.copyFrom(&old.stats)
	u.window.learn(&u.stats, 0, 0)
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
	if u.breakerWord.IsClosed() {
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
