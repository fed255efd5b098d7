package evidence

import "time"

// Reconsidered is the result of Reconsider.
type Reconsidered struct {
	Worse   bool   // see Finding.Worse
	Pending bool   // later successes may still confirm failures of the proxy, or show that a target refuses it
	Gen     uint64 // generation of the breaker at the admission of the episode's attempts
	// Banned are the targets that probably refuse the proxy (Finding.Banned). It is empty if Worse is set. A target is
	// listed again only after another confirmed failure there.
	Banned []Target
}

// Reconsider evaluates the evidence against a proxy without a new attempt through it, because attempts through other
// proxies may have confirmed its failures. It returns the zero value if the proxy has not failed within the breaker's
// window. The parameter peers is the current number of other proxies whose breaker is closed.
func (l *Ledger) Reconsider(b *Book, now time.Duration, peers int) Reconsidered {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.latest
	if b.failures == 0 || now-a.Ended > a.Window {
		return Reconsidered{}
	}
	a.ClosedPeers = peers
	r := Reconsidered{Worse: b.worse(l, &a), Gen: b.gen}
	served := b.successes.Load() != b.pendingNoise.successes
	for rec := range b.currentRecords {
		switch {
		case rec.refused.reported(): // a new report needs another confirmed failure
			r.Pending = r.Pending || rec.pending() > 0
		case !r.Worse && b.banned(l, rec, served):
			rec.refused |= refusalsReported
			t := rec.target
			t.updateProvisional(&Attempt{Book: b}, Finding{Banned: true})
			r.Banned = append(r.Banned, Target{t.hash, t.name})
		case rec.pending() > 0, rec.refuses(l):
			r.Pending = true
		}
	}
	return r
}
