package evidence

import (
	"math"
	"sync/atomic"
)

// record holds the attempts of one proxy at one target. A failure is pending until a success of another proxy at the
// target confirms it. A record has no times of the pending failures, so that it takes only 64 bytes. Instead, the
// failures are in two batches: a success that begins after firstBatchEnd confirms the first batch, and the second batch
// collects the failures since then.
type record struct {
	target    *target
	next      atomic.Pointer[record]
	successes atomic.Uint32
	failures  uint32
	streak    atomic.Uint32 // failures since the last success

	atEpisodeStart tallies

	confirmed               uint16 // failures of the episode that count as evidence
	firstBatch              uint8  // pending failures of the first batch
	secondBatch             uint8  // pending failures of the second batch
	firstBatchEnd           uint32 // end of the first batch, µs
	otherFailuresAtBatchEnd uint16 // number of failures of the other proxies until firstBatchEnd, modulo 2^16

	episode        uint16 // number of the book's episode that the record belongs to
	bannedEpisodes uint8  // number of episodes in a row that ended although this target had confirmed failures
	refused        refusals
	causes         causes
}

// tallies count the attempts of the proxy and of the other proxies at a target.
type tallies struct{ successes, failures, otherSuccesses, otherFailures uint32 }

// refusals is the number of confirmed failures since the last success of the proxy at the target, at most maxRefusals.
// The bit refusalsReported is set if a ban was reported (Finding.Banned, ReconsiderResult.Banned) since the last
// confirmed failure.
type refusals uint8

const (
	refusalsReported refusals = 1 << 7
	maxRefusals               = refusalsReported - 1
)

func (r refusals) count() float64   { return float64(r &^ refusalsReported) }
func (r refusals) isReported() bool { return r&refusalsReported != 0 }
func (r refusals) add(n uint8) refusals {
	return min(r&^refusalsReported+min(refusals(n), maxRefusals), maxRefusals)
}

// maxBannedEpisodes limits record.bannedEpisodes.
const maxBannedEpisodes = math.MaxUint8

func (r *record) beginEpisode(episode uint16) {
	r.episode, r.confirmed, r.firstBatch, r.secondBatch, r.causes = episode, 0, 0, 0, causes{}
	r.atEpisodeStart.successes, r.atEpisodeStart.failures = r.successes.Load(), r.failures
	r.atEpisodeStart.otherSuccesses, r.atEpisodeStart.otherFailures = r.countOthers()
}

// addSuccess counts a success. The failures since the previous success become transient failures.
func (r *record) addSuccess() {
	r.successes.Add(1)
	if r.streak.Load() > 0 {
		r.target.transients.Add(r.streak.Swap(0))
	}
}

func (r *record) addFailure(a *Attempt) {
	if r.secondBatch < math.MaxUint8 {
		r.secondBatch++
	}
	r.failures++
	if r.firstBatch == 0 {
		r.closeBatch(a)
	}
	if r.streak.Add(1) == 1 {
		r.bannedEpisodes, r.refused = 0, 0 // the proxy has succeeded at the target since its last failure there
	}
	r.causes.add(a.Cause)
}

// resolvePending confirms the first batch of pending failures if another proxy has succeeded at the target since
// firstBatchEnd. If the other proxies have had no success since then, but enough failures, it discards all pending
// failures. It returns the number of confirmed failures. The parameter latest is the proxy's latest failure.
func (r *record) resolvePending(latest *Attempt) (confirmed uint8) {
	switch {
	case r.firstBatch == 0:
	case r.target.hasSuccessThroughOtherSince(latest.Proxy, r.firstBatchEnd):
		confirmed = r.firstBatch
		r.confirmed += min(uint16(r.firstBatch), math.MaxUint16-r.confirmed)
		r.refused = r.refused.add(r.firstBatch)
		r.firstBatch = 0
		r.closeBatch(latest)
	case r.otherFailuresSinceBatch() >= discardAfter:
		r.firstBatch, r.secondBatch = 0, 0
	}
	return confirmed
}

// closeBatch moves all pending failures to the first batch.
func (r *record) closeBatch(latest *Attempt) {
	_, failures := r.countOthers()
	r.firstBatch, r.secondBatch = r.secondBatch, 0
	r.firstBatchEnd, r.otherFailuresAtBatchEnd = micros(latest.Ended), uint16(failures)
}

func (r *record) pending() int { return int(r.firstBatch) + int(r.secondBatch) }

// expectedEvidence returns the evidence that the pending failures will probably add, if each confirmed failure adds
// perFailure nats.
func (r *record) expectedEvidence(perFailure float64) float64 {
	const enoughFailures = 4 // failures that reach NeededEvidence at a noise of 1 %
	if r.otherFailuresSinceBatch() >= 2 {
		return 0 // the target may be dead
	}
	if r.target.isUnknown() {
		perFailure = min(perFailure, unknownFailure) // failures there are seldom confirmed
	}
	return float64(min(r.pending(), enoughFailures)) * perFailure
}

// countOthers counts the attempts of the other proxies at the target.
func (r *record) countOthers() (successes, failures uint32) {
	return r.target.successes() - r.successes.Load(), r.target.failures.Load() - r.failures
}

// otherFailuresSinceBatch returns the number of failures of the other proxies since firstBatchEnd, modulo 2^16.
func (r *record) otherFailuresSinceBatch() uint16 {
	_, failures := r.countOthers()
	return uint16(failures) - r.otherFailuresAtBatchEnd
}

// episodeSuccesses returns the proxy's successes at the target within the episode.
func (r *record) episodeSuccesses() uint32 { return r.successes.Load() - r.atEpisodeStart.successes }

// targetEvidence is the evidence from one target.
type targetEvidence struct {
	total      float64 // evidence of successes and confirmed failures, in nats
	perFailure float64 // evidence of one failure, in nats
	noise      float64
}

// evidence returns the evidence from the attempts at the record's target. Book.limitBanEvidence has not been applied.
func (r *record) evidence(poolNoise float64) targetEvidence {
	successes := r.episodeSuccesses()
	failures := r.failures - r.atEpisodeStart.failures
	q := r.target.noise(poolNoise, successes, failures-min(failures, r.streak.Load()))
	failure, success := logLikelihoods(q)
	return targetEvidence{float64(r.confirmed)*failure + float64(successes)*success, failure, q}
}

// refuses reports whether the target probably refuses the proxy: attempts succeed at other targets, and the target's
// noise hardly explains the confirmed failures since the proxy's last success there.
func (r *record) refuses(l *Ledger) bool {
	if r.refused.count() == 0 || !l.servedTargets.hasSeveral() {
		return false
	}
	noise, _ := l.poolNoise()
	return r.refused.count()*r.evidence(noise).perFailure >= banLimit
}

// causes counts failures by cause, for the first three causes. No count exceeds maxCauseCount.
type causes [3]struct{ cause, n uint8 }

const maxCauseCount = math.MaxUint8

func (c *causes) add(cause uint8) {
	for i := range c {
		if c[i].n == 0 || c[i].cause == cause {
			c[i].cause = cause
			if c[i].n < maxCauseCount {
				c[i].n++
			}
			return
		}
	}
}
