package upstream

import "sync"

// A failure counts as evidence only after another proxy has succeeded at the target. By then the failed proxy may get
// no attempts any more, because its score is low. Therefore each sweep reconsiders proxies with such failures.

// sweepPending is the number of proxies that one sweep reconsiders.
const sweepPending = 256

// pendingFailures is a queue of proxies with failures that later attempts through other proxies may confirm.
type pendingFailures struct {
	mu    sync.Mutex  // guards queue
	queue []*Upstream // each proxy at most once (flag pending)
}

// add puts the proxy in the queue, unless it is there already.
func (p *pendingFailures) add(u *Upstream) {
	if !u.flags.set(hasPendingFailures, true) {
		p.mu.Lock()
		p.queue = append(p.queue, u)
		p.mu.Unlock()
	}
}

// take removes up to n proxies from the front of the queue, and returns them. The result is valid until the
// next call.
func (p *pendingFailures) take(n int) []*Upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(n, len(p.queue))
	taken := p.queue[:n:n]
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	for _, u := range taken {
		u.flags.set(hasPendingFailures, false)
	}
	return taken
}

// reconsiderPending opens breakers of proxies whose pending failures were confirmed by other proxies. It does not wait
// for another failure of such a proxy. reconsiderPending also finds targets that refuse a proxy.
func (p *Pool) reconsiderPending() {
	if p.literal.Load() {
		return
	}
	at := p.Elapsed(p.now())
	for _, u := range p.pendingFailures.take(sweepPending) {
		if !u.breakerWord.IsClosed() || p.Snapshot().Get(u.id) != u {
			continue
		}
		switch r := p.ledger.Reconsider(&u.ensureAttemptFields().book, at, p.countOthers(u)); {
		case r.ShouldOpen:
			u.breaker.TripOnEvidence(r.BreakerGen, u.storeOpenEvidence())
			if u.breakerWord.IsClosed() {
				p.pendingFailures.add(u) // not enough failures in the window yet
			}
		default:
			for _, t := range r.Banned {
				u.avoidFor(t, at)
			}
			if r.HasPending {
				p.pendingFailures.add(u)
			}
		}
	}
}
