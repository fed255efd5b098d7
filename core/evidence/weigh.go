package evidence

import (
	"math"
	"time"
)

// sum is the evidence against a proxy, in nats.
type sum struct {
	total     float64 // evidence of successes, own failures and confirmed failures
	potential float64 // total plus the evidence to expect from the pending failures
}

// A proxy is worse than the other proxies if its evidence reaches Needed. If at least half of the pool's breakers are
// not closed, the episode must also have lasted for minEpisode.
func (b *Book) worse(l *Ledger, a *Attempt) bool {
	return b.evidence(l, a).total >= Needed && (a.enoughPeers() || a.At-b.began >= minEpisode)
}

// evidence returns the evidence of the episode. The parameter a is the latest attempt.
func (b *Book) evidence(l *Ledger, a *Attempt) sum {
	noise, ownNoise := l.poolNoise()
	o := b.overview()
	uncompared := b.enoughUncompared(&o, a)
	several := l.serving.severalTargets()
	ownFailure, _ := llr(ownNoise)
	_, success := llr(noise)
	s := sum{total: float64(b.ownFailures)*ownFailure + float64(o.successesElsewhere)*success + b.evicted}
	s.potential = s.total
	for r := range b.current {
		e := r.evidence(noise)
		switch { // cases in which pending failures count without a comparison
		case uncompared && r.target.onlyUsedBy(a.Proxy), a.Peers == 0 && !r.target.unknown():
			e.value += float64(r.pending()) * e.failure
		case a.Peers == 0:
			e.value += float64(r.pending()) * min(unknownFailure, e.failure)
		}
		limited := e.value
		if several && r.episodeSuccesses() == 0 {
			limited = b.limitBan(r, e.value, &o)
		}
		s.total += limited
		s.potential += max(limited, min(e.value+r.expected(e.failure), Needed))
	}
	return s
}

// overview has the totals of the records of an episode.
type overview struct {
	served             bool   // the proxy has had a success
	successesElsewhere uint64 // successes at targets without a record
	confirmed          int    // confirmed failures and own failures
	confirmedTargets   int    // targets with confirmed failures
	uncompared         int    // pending failures at targets that no other proxy tries
}

// overview resolves the pending failures and sums up the records.
func (b *Book) overview() overview {
	successes := b.successes.Load() - b.successesBefore
	o := overview{served: successes > 0, successesElsewhere: successes, confirmed: int(b.ownFailures)}
	for r := range b.current {
		b.resolve(r, &b.latest)
		if r.confirmed > 0 {
			o.confirmedTargets++
			o.confirmed += int(r.confirmed)
		}
		o.successesElsewhere -= min(o.successesElsewhere, uint64(r.episodeSuccesses()))
		// Targets with a single failure are left out, because a client may try many dead targets once each. Suspect
		// targets are left out, because their requests get only one attempt.
		if n := r.pending(); n > 1 && !r.target.suspect.Load() && r.target.onlyUsedBy(b.latest.Proxy) {
			o.uncompared += n
		}
	}
	return o
}

// enoughUncompared reports whether pending failures count without a comparison. This requires enough pending
// failures at targets that no other proxy tries, and enough sequential failures.
func (b *Book) enoughUncompared(o *overview, a *Attempt) bool {
	needed := min(2*a.Threshold, maxUncompared)
	return o.uncompared >= needed && b.sequential >= needed
}

// limitBan limits the evidence from a target that has not served the proxy in the episode, and
// so may have banned it.
//
//   - If other targets have served the proxy since it began to fail at this target, the evidence is at most banLimit.
//   - If other targets ended the previous episode by serving the proxy, the evidence is at most a quarter of banLimit.
//     Each episode before it that ended in the same way, without a gap, divides the limit by 4 again.
//   - If the proxy has neither a success nor an own failure in the episode, and this is the only target with
//     confirmed failures, the first Needed nats above banLimit do not count. The breaker then opens at about twice
//     the evidence. The same holds if the latest success in the episode was before the first failure at this target,
//     because the proxy may have died since that success.
//
// The third case matters if one target gets nearly all requests. In measurements with a target that got 98 % of the
// requests, the breaker of a dead proxy opened after 8 attempts (5 to 9). With banLimit alone, the breaker opened
// after 46 attempts (5 to 282). In other measurements, a target that got 70 % of the requests banned the proxy. Without
// any limit, the proxy's breaker opened in 16 of 60 runs; with the limit, it opened in 7 of 60 runs.
//
// The limits end if several targets fail in the proxy's streak. The first and the third case require that the streak
// has at most one failure besides those at its worst target. The second case requires at most three such failures, or
// at most two confirmed and own failures besides those at this target.
func (b *Book) limitBan(r *record, value float64, o *overview) float64 {
	limit := banLimit * math.Pow(0.25, float64(r.bans))
	othersFail := o.confirmed-int(r.confirmed) >= 3 && b.streak.besidesWorst() >= 4
	several := b.streak.besidesWorst() >= 2 // a single failure at another target may be noise
	switch {
	case r.bans > 0 && !othersFail, b.servedSince(r) && !several:
		return min(value, limit)
	case o.served && !several, !o.served && o.confirmedTargets == 1 && b.ownFailures == 0:
		return min(value, max(limit, value-Needed))
	}
	return value
}

// servedSince reports whether the proxy has had a success since it began to fail at the target of r. Failures before
// the target last served the proxy do not count.
func (b *Book) servedSince(r *record) bool {
	return b.successes.Load() != b.unlearned.successes || float64(r.streak.Load()) > b.streak.at(r.target.hash)
}

// everythingFails reports whether the failures since the pool's last success show an outage of
// the whole pool:
//
//   - The proxy has failed at least failure_threshold times.
//   - The evidence of all its failures reaches Needed.
//   - The target with the most evidence may be dead. Therefore the evidence of the failures at all other targets must
//     be at least 0.6 x Needed. It must also be at least a fifth of the evidence of all failures.
//   - The streak has lasted for minOutage, or for minFirstOutage if the pool has never served.
func (b *Book) everythingFails(l *Ledger, a *Attempt) bool {
	s := &b.poolStreak
	besides := s.besidesWorst()
	if s.failures < a.Threshold || s.weight < Needed || besides < 0.6*Needed || 5*besides < s.weight {
		return false
	}
	shortest := minFirstOutage
	if l.hasServed.Load() {
		shortest = minOutage
	}
	return a.At-time.Duration(l.streakBegan.Load()) >= shortest
}

// outageWeight returns the weight of a failure as evidence for an outage of the whole pool, in nats. A failure at an
// unknown target has little weight if the pool has had a success before, or if the proxy reports that it cannot reach
// the target. Failures that overlap get this weight only once: such a failure has no weight if its attempt began before
// the last one with a weight had ended. The reason is that a burst of requests for names that do not exist ends with
// many retries that fail together. An own failure always has the full weight.
func (b *Book) outageWeight(l *Ledger, a *Attempt) float64 {
	noise, own := l.poolNoise()
	failure, _ := llr(min(noise+own-minNoise, P1)) // both noise and own include minNoise
	switch {
	case a.Own, !l.hasServed.Load() && !a.Reported, !l.findOrAdd(a.Target).unknown():
		return failure
	case a.began() < b.unknownsUntil:
		return 0
	}
	b.unknownsUntil = a.At
	return min(unknownFailure, failure)
}
