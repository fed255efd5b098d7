package evidence

import (
	"math"
	"time"
)

// evidenceSum is the evidence against a proxy, in nats.
type evidenceSum struct {
	total     float64 // evidence of successes, own failures and confirmed failures
	potential float64 // total plus the evidence to expect from the pending failures
}

// reachesNeeded reports whether the evidence reaches NeededEvidence. If at least half of the breakers are not closed,
// the episode must also have lasted for minEpisode.
func (b *Book) reachesNeeded(l *Ledger, a *Attempt) bool {
	return b.evidence(l, a).total >= NeededEvidence && (a.mostBreakersClosed() || a.Ended-b.episodeStart >= minEpisode)
}

// evidence returns the evidence of the episode. The parameter a is the latest attempt.
func (b *Book) evidence(l *Ledger, a *Attempt) evidenceSum {
	noise, ownNoise := l.poolNoise()
	o := b.overview()
	uncompared := b.enoughUncompared(&o, a)
	several := l.servedTargets.hasSeveral()
	ownFailure, _ := logLikelihoods(ownNoise)
	_, success := logLikelihoods(noise)
	s := evidenceSum{total: float64(b.ownFailures)*ownFailure + float64(o.successesElsewhere)*success}
	s.total += b.evictedEvidence
	s.potential = s.total
	for r := range b.currentRecords {
		e := r.evidence(noise)
		switch { // cases in which pending failures count without a comparison
		case l.cfg.ComparedOnly:
		case uncompared && r.target.onlyUsedBy(a.Proxy), a.ClosedPeers == 0 && !r.target.isUnknown():
			e.total += float64(r.pending()) * e.perFailure
		case a.ClosedPeers == 0:
			e.total += float64(r.pending()) * min(unknownFailure, e.perFailure)
		}
		limited := e.total
		if several && r.episodeSuccesses() == 0 {
			limited = b.limitBanEvidence(r, e.total, &o)
		}
		s.total += limited
		s.potential += max(limited, min(e.total+r.expectedEvidence(e.perFailure), NeededEvidence))
	}
	return s
}

// overview sums up the records of an episode.
type overview struct {
	served             bool   // the proxy has had a success
	successesElsewhere uint64 // successes at targets without a record
	confirmed          int    // confirmed failures and own failures
	confirmedTargets   int    // targets with confirmed failures
	uncompared         int    // pending failures at targets without attempts of other proxies
}

// overview resolves the pending failures, and sums up the records.
func (b *Book) overview() overview {
	successes := b.successes.Load() - b.successesBefore
	o := overview{served: successes > 0, successesElsewhere: successes, confirmed: int(b.ownFailures)}
	for r := range b.currentRecords {
		b.resolvePending(r, &b.lastFailure)
		if r.confirmed > 0 {
			o.confirmedTargets++
			o.confirmed += int(r.confirmed)
		}
		o.successesElsewhere -= min(o.successesElsewhere, uint64(r.episodeSuccesses()))
		// A single failure at a target does not count, because a client may try many dead targets once each. Failures
		// at a suspect target do not count either: most of them are single attempts of different requests.
		if n := r.pending(); n > 1 && !r.target.suspect.Load() && r.target.onlyUsedBy(b.lastFailure.Proxy) {
			o.uncompared += n
		}
	}
	return o
}

// enoughUncompared reports whether the proxy has so many pending failures at targets without attempts of other proxies
// that these failures count without a comparison.
func (b *Book) enoughUncompared(o *overview, a *Attempt) bool {
	needed := min(2*a.Threshold, maxUncompared)
	return o.uncompared >= needed && b.sequentialFailures >= needed
}

// limitBanEvidence limits the evidence from a target at which the proxy has had no success in the episode. Such a
// target may have banned the proxy. The limit ends if the proxy fails at several targets (docs/decisions/ban-limit.md).
func (b *Book) limitBanEvidence(r *record, evidence float64, o *overview) float64 {
	limit := banLimit * math.Pow(0.25, float64(r.bannedEpisodes))
	severalTargetsFail := b.streak.weightBesidesWorst() >= 2 // a single failure at another target may be noise
	manyTargetsFail := b.streak.weightBesidesWorst() >= 4 && o.confirmed-int(r.confirmed) >= 3
	switch {
	case r.bannedEpisodes > 0 && !manyTargetsFail, b.hasSuccessSinceFailuresAt(r) && !severalTargetsFail:
		return min(evidence, limit)
	case o.served && !severalTargetsFail, !o.served && o.confirmedTargets == 1 && b.ownFailures == 0:
		return min(evidence, max(limit, evidence-NeededEvidence)) // the proxy may be dead
	}
	return evidence
}

// hasSuccessSinceFailuresAt reports whether the proxy has had a success since it began to fail at the target of r.
func (b *Book) hasSuccessSinceFailuresAt(r *record) bool {
	return b.successes.Load() != b.pendingNoise.successes || float64(r.streak.Load()) > b.streak.weightAt(r.target.hash)
}

// isOutage reports whether the failures since the pool's last success show an outage of the whole pool.
func (b *Book) isOutage(l *Ledger, a *Attempt) bool {
	s := &b.poolStreak
	if s.failures < a.Threshold || s.weight < NeededEvidence {
		return false
	}
	if besides := s.weightBesidesWorst(); besides < 0.6*NeededEvidence || 5*besides < s.weight {
		return false // one target may be dead
	}
	shortest := minFirstOutage
	if l.hasServed.Load() {
		shortest = minOutage
	}
	return a.Ended-time.Duration(l.streakBegan.Load()) >= shortest
}

// outageWeight returns the weight of a failure as evidence for an outage of the whole pool, in nats. A failure at an
// unknown target has a small weight. If several such failures overlap in time, only the first one has a weight, because
// retries for names that do not exist fail together.
func (b *Book) outageWeight(l *Ledger, a *Attempt) float64 {
	noise, own := l.poolNoise()
	failure, _ := logLikelihoods(min(noise+own-minNoise, BadProxyFailureRate)) // both noise and own include minNoise
	switch {
	case a.OwnFailure, !l.hasServed.Load() && !a.ReportedByProxy, !l.findOrAdd(a.Target).isUnknown():
		return failure
	case a.beginTime() < b.unknownFailureEnd:
		return 0
	}
	b.unknownFailureEnd = a.Ended
	return min(unknownFailure, failure)
}
