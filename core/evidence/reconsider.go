package evidence

import "time"

// ReconsiderResult is the result of Reconsider.
type ReconsiderResult struct {
	ShouldOpen bool   // see Finding.ShouldOpen
	HasPending bool   // later successes may still confirm failures of the proxy, or show that a target refuses it
	BreakerGen uint64 // generation of the breaker at the admission of the episode's attempts
	// Banned are the targets that probably refuse the proxy (Finding.Banned). It is empty if ShouldOpen is set. A
	// target is listed again only after another confirmed failure there.
	Banned []Target
}

// Reconsider evaluates the evidence against a proxy without a new attempt through it, because attempts through other
// proxies may have confirmed its failures. It returns the zero value if the proxy has not failed within the
// window_duration of its breaker. The parameter peers is the current number of other proxies whose breaker is closed.
func (l *Ledger) Reconsider(b *Book, now time.Duration, peers int) ReconsiderResult {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.lastFailure
	if b.failures == 0 || now-a.Ended > a.Window {
		return ReconsiderResult{}
	}
	a.ClosedPeers = peers
	r := ReconsiderResult{ShouldOpen: b.reachesNeeded(l, &a), BreakerGen: b.breakerGen}
	succeededSince := b.successes.Load() != b.pendingNoise.successes
	for rec := range b.currentRecords {
		switch {
		case rec.refused.isReported(): // a new report needs another confirmed failure
			r.HasPending = r.HasPending || rec.pending() > 0
		case !r.ShouldOpen && b.isBanned(l, rec, succeededSince):
			rec.refused |= refusalsReported
			t := rec.target
			t.updateProvisional(&Attempt{Book: b}, Finding{Banned: true})
			r.Banned = append(r.Banned, Target{t.hash, t.name})
		case rec.pending() > 0, rec.refuses(l):
			r.HasPending = true
		}
	}
	return r
}
