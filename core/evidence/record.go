package evidence

import (
	"math"
	"sync/atomic"
)

// record holds the attempts of one proxy at one target. It takes 64 bytes.
//
// A failure is pending at first. Pending failures are kept in two batches: the first batch waits for a success of
// another proxy in an attempt that began after the whole batch had ended. The second batch collects the failures
// after batchEnd. With two batches, the record need not store the time of each failure.
type record struct {
	target    *target
	next      atomic.Pointer[record]
	successes atomic.Uint32 // of the proxy at the target
	failures  uint32
	streak    atomic.Uint32 // failures since the last success

	before tallies // tallies at the beginning of the episode

	confirmed          uint16 // failures of the episode that count as evidence
	batch              uint8  // pending failures of the first batch
	nextBatch          uint8  // pending failures of the second batch
	batchEnd           uint32 // end of the first batch, µs
	othersFailedBefore uint16 // number of failures of the other proxies until batchEnd, the low 16 bits

	episode uint16 // number of the book's episode that the record belongs to
	bans    uint8  // number of episodes in a row that ended although this target had confirmed failures
	refused refusals
	causes  causes
}

// tallies count the attempts of the proxy and of the other proxies at a target.
type tallies struct{ successes, failures, otherSuccesses, otherFailures uint32 }

// refusals is the number of confirmed failures since the target last served the proxy, at most maxRefusals. The bit
// refusalsReported is set if a ban was reported (Finding.Banned, Reconsidered.Banned) after the latest of these
// failures had been confirmed.
type refusals uint8

const (
	refusalsReported refusals = 1 << 7
	maxRefusals               = refusalsReported - 1
)

func (r refusals) count() float64 { return float64(r &^ refusalsReported) }
func (r refusals) reported() bool { return r&refusalsReported != 0 }
func (r refusals) add(n uint8) refusals {
	return min(r&^refusalsReported+min(refusals(n), maxRefusals), maxRefusals)
}

// maxBans limits record.bans.
const maxBans = math.MaxUint8

// beginEpisode resets the record for a new episode.
func (r *record) beginEpisode(episode uint16) {
	r.episode, r.confirmed, r.batch, r.nextBatch, r.causes = episode, 0, 0, 0, causes{}
	r.before.successes, r.before.failures = r.successes.Load(), r.failures
	r.before.otherSuccesses, r.before.otherFailures = r.others()
}

// addSuccess counts a success. The failures since the previous success become transient failures.
func (r *record) addSuccess() {
	r.successes.Add(1)
	if r.streak.Load() > 0 {
		r.target.transients.Add(r.streak.Swap(0))
	}
}

// addFailure counts a pending failure.
func (r *record) addFailure(a *Attempt) {
	if r.nextBatch < math.MaxUint8 {
		r.nextBatch++
	}
	r.failures++
	if r.batch == 0 {
		r.closeBatch(a)
	}
	if r.streak.Add(1) == 1 {
		r.bans, r.refused = 0, 0 // the target has served the proxy since its last failure
	}
	r.causes.add(a.Cause)
}

// resolve confirms or discards the first batch of pending failures if the other proxies' attempts suffice
// for a decision. It returns the number of confirmed failures. The parameter latest is the latest failure of the proxy.
func (r *record) resolve(latest *Attempt) (confirmed uint8) {
	switch {
	case r.batch == 0:
	case r.target.servedOtherSince(latest.Proxy, r.batchEnd):
		confirmed = r.batch
		r.confirmed += min(uint16(r.batch), math.MaxUint16-r.confirmed)
		r.refused = r.refused.add(r.batch)
		r.batch = 0
		r.closeBatch(latest)
	case r.othersFailed() >= discardAfter:
		r.batch, r.nextBatch = 0, 0
	}
	return confirmed
}

// closeBatch moves all pending failures to the first batch.
func (r *record) closeBatch(latest *Attempt) {
	_, failures := r.others()
	r.batch, r.nextBatch, r.batchEnd, r.othersFailedBefore = r.nextBatch, 0, micros(latest.At), uint16(failures)
}

// pending returns the number of pending failures.
func (r *record) pending() int { return int(r.batch) + int(r.nextBatch) }

// expected returns the evidence that the pending failures will probably add, in nats. The parameter failure is the
// evidence of one confirmed failure. At most 4 pending failures count, because 4 failures reach Needed at a noise of
// 1 %. If two attempts of other proxies at the target have failed since batchEnd, the result is 0. At an unknown target
// the result is low, because failures there are seldom confirmed.
func (r *record) expected(failure float64) float64 {
	if r.othersFailed() >= 2 {
		return 0
	}
	if r.target.unknown() {
		failure = min(failure, unknownFailure)
	}
	return float64(min(r.pending(), 4)) * failure
}

// others returns the numbers of successes and failures of the other proxies at the target.
func (r *record) others() (successes, failures uint32) {
	return r.target.successes() - r.successes.Load(), r.target.failures.Load() - r.failures
}

// othersFailed returns the number of failures of the other proxies since batchEnd, modulo 2^16.
func (r *record) othersFailed() uint16 {
	_, failures := r.others()
	return uint16(failures) - r.othersFailedBefore
}

// episodeSuccesses returns the proxy's successes at the target within the episode.
func (r *record) episodeSuccesses() uint32 { return r.successes.Load() - r.before.successes }

// targetEvidence is the evidence from one target.
type targetEvidence struct {
	value   float64 // evidence of successes and confirmed failures, in nats
	failure float64 // evidence of one failure, in nats
	noise   float64
}

// evidence returns the evidence from the target before Book.limitBan is applied.
func (r *record) evidence(poolNoise float64) targetEvidence {
	successes := r.episodeSuccesses()
	failures := r.failures - r.before.failures
	q := r.target.noise(poolNoise, successes, failures-min(failures, r.streak.Load()))
	failure, success := llr(q)
	return targetEvidence{float64(r.confirmed)*failure + float64(successes)*success, failure, q}
}

// refuses reports whether the target probably refuses the proxy. The result is true if the noise of the target is an
// unlikely cause of the failures that were confirmed since the target last served the proxy. If only one target serves
// the pool, the result is false: a proxy that this target bans is as useless as a dead proxy.
func (r *record) refuses(l *Ledger) bool {
	if r.refused.count() == 0 || !l.serving.severalTargets() {
		return false
	}
	noise, _ := l.poolNoise()
	return r.refused.count()*r.evidence(noise).failure >= banLimit
}

// causes counts failures with up to three different causes. It ignores a fourth and later cause.
type causes [3]struct{ cause, n uint8 }

func (c *causes) add(cause uint8) {
	for i := range c {
		if c[i].n == 0 || c[i].cause == cause {
			c[i].cause = cause
			if c[i].n < math.MaxUint8 {
				c[i].n++
			}
			return
		}
	}
}
