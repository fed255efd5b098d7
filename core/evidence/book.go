package evidence

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Book holds the failures of one proxy. The zero value is ready to use. It is safe for
// concurrent use.
type Book struct {
	// OnWithdrawn is called when TakeWithdrawn has failures to return. It must not call the ledger.
	OnWithdrawn func()
	// CountElsewhere counts the proxy's recent attempts, and the failures among them. It leaves out the failures at the
	// target with the given hash. It must not call the ledger. It may be nil.
	CountElsewhere func(target uint64) (failures, attempts int)

	successes atomic.Uint64
	records   atomic.Pointer[record] // list of at most maxRecords, the newest first
	withdrawn atomic.Int32           // see TakeWithdrawn

	mu          sync.Mutex // guards the fields below
	breakerGen  uint64     // generation of the breaker
	lastFailure Attempt    // the latest failure, with a nil Book

	episode         uint16        // number of the episode; a record with another number is out of date
	episodeStart    time.Duration // end of the episode's first failure
	successesBefore uint64        // the proxy's successes when the episode began
	failures        uint32
	ownFailures     uint32
	ownCauses       causes
	evictedEvidence float64 // evidence of records that were removed (see evictRecord), in nats
	inOutage        bool    // the latest failure was part of an outage

	sequentialFailures int           // number of failures whose attempt began after sequentialEnd
	sequentialEnd      time.Duration // end of the latest of these failures

	pendingNoise pendingNoise
	streak       streak // the proxy's failures since its last success, each with weight 1

	// The proxy's failures in the current streak of the pool. The weight of a failure is evidence in nats
	// (outageWeight).
	poolStreak        streak
	poolStreakNumber  uint64        // Ledger.endedStreaks when poolStreak began
	unknownFailureEnd time.Duration // when the latest failure with the weight unknownFailure ended
}

// maxRecords is the maximum number of records of a book, one per target. They take 1 KB per proxy.
const maxRecords = 16

// pendingNoise counts the failures since the proxy's last success. With the next success they become noise of the pool.
type pendingNoise struct {
	confirmed, own float64 // numbers of confirmed failures and of own failures
	successes      uint64  // Book.successes at the last addition to the noise
}

// streak sums up failures without a success between them. Each failure has a weight.
type streak struct {
	failures      int
	weight        float64      // of all failures
	first, second targetWeight // the first two targets
}

// targetWeight is the weight of a streak's failures at one target.
type targetWeight struct {
	target uint64 // hash
	weight float64
}

func (s *streak) add(a *Attempt, weight float64) {
	s.failures++
	s.weight += weight
	switch {
	case a.OwnFailure:
	case s.first.weight == 0 || a.Target.Hash == s.first.target:
		s.first.target = a.Target.Hash
		s.first.weight += weight
	case s.second.weight == 0 || a.Target.Hash == s.second.target:
		s.second.target = a.Target.Hash
		s.second.weight += weight
	}
}

// weightAt returns the weight of the streak's failures at a target; 0 if it is not one of the streak's first two
// targets.
func (s *streak) weightAt(target uint64) float64 {
	switch target {
	case s.first.target:
		return s.first.weight
	case s.second.target:
		return s.second.weight
	}
	return 0
}

// weightBesidesWorst returns the weight of the failures at all targets except one: the target whose failures have the
// largest weight.
func (s *streak) weightBesidesWorst() float64 { return s.weight - max(s.first.weight, s.second.weight) }

// updateEpisode ends the current episode if it is over. If there is then no episode, it begins one with the given
// failure.
func (b *Book) updateEpisode(l *Ledger, a *Attempt) {
	if a.BreakerGen > b.breakerGen || a.Ended-b.lastFailure.Ended > a.Window {
		b.resetEpisode(a.BreakerGen)
	}
	if b.failures > 0 && b.evidence(l, a).potential <= 0 {
		b.endEpisode()
	}
	b.lastFailure = *a
	b.lastFailure.Book = nil
	if b.failures == 0 {
		b.episodeStart, b.successesBefore = a.Ended, b.successes.Load()
	}
}

// resetEpisode ends the episode without a conclusion, because the breaker has changed its state or the latest failure
// is too old.
func (b *Book) resetEpisode(gen uint64) {
	b.breakerGen = gen
	b.clearEpisode()
	b.pendingNoise = pendingNoise{successes: b.successes.Load()}
	b.poolStreak, b.unknownFailureEnd = streak{}, 0
}

// Reset removes all failures, because the breaker has been reset. The parameter gen is the breaker's new
// generation.
func (b *Book) Reset(gen uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resetEpisode(max(gen, b.breakerGen))
	b.records.Store(nil)
	b.streak = streak{}
}

// endEpisode ends an episode in which the successes outweigh the failures. So attempts through the proxy succeed at
// other targets, and each target with confirmed failures may have banned the proxy.
func (b *Book) endEpisode() {
	for r := range b.currentRecords {
		if r.confirmed > 0 && r.bannedEpisodes < maxBannedEpisodes {
			r.bannedEpisodes++
		}
	}
	b.clearEpisode()
}

func (b *Book) clearEpisode() {
	b.episode++
	if b.episode == 0 { // when the numbers wrap around, the episodes of old records would be valid again
		b.records.Store(nil)
		b.episode = 1
	}
	b.failures, b.ownFailures, b.evictedEvidence, b.ownCauses = 0, 0, 0, causes{}
	b.sequentialFailures, b.sequentialEnd, b.inOutage = 0, 0, false
}

// currentRecords yields the records of the episode.
func (b *Book) currentRecords(yield func(*record) bool) {
	for r := b.records.Load(); r != nil; r = r.next.Load() {
		if r.episode == b.episode && !yield(r) {
			return
		}
	}
}

// updateStreaks ends the streak of the proxy after a success of the proxy, and the streak of the pool after a success
// of the pool. The failures of the proxy's streak become noise, unless they opened the breaker.
func (b *Book) updateStreaks(l *Ledger, a *Attempt) {
	switch {
	case a.BreakerGen > b.breakerGen:
		b.pendingNoise.confirmed, b.pendingNoise.own = 0, 0
	case a.Ended-b.lastFailure.Ended < maxMicros:
		for r := range b.currentRecords {
			b.resolvePending(r, &b.lastFailure)
		}
	}
	if n := b.successes.Load(); n != b.pendingNoise.successes {
		l.addNoise(b.pendingNoise.confirmed, b.pendingNoise.own, float64(n-b.pendingNoise.successes))
		b.pendingNoise = pendingNoise{successes: n}
		b.streak = streak{}
	}
	if n := l.endedStreaks.Load(); n != b.poolStreakNumber {
		b.poolStreak, b.poolStreakNumber, b.unknownFailureEnd = streak{}, n, 0
	}
}

func (b *Book) addToStreaks(l *Ledger, a *Attempt) {
	b.failures++
	if a.beginTime() >= b.sequentialEnd {
		b.sequentialFailures++
		b.sequentialEnd = a.Ended
	}
	b.streak.add(a, 1)
	// An attempt that began before the pool's streak is left out, because it may have begun before the pool's last
	// success.
	if !a.ServedByOther && int64(a.beginTime()) >= l.streakBegan.Load() {
		b.poolStreak.add(a, b.outageWeight(l, a))
	}
}

// addAtTarget records a failure, and returns the conclusion from the other proxies' attempts at the target. It also
// returns the record of the target, or nil if the failure is an own failure.
func (b *Book) addAtTarget(l *Ledger, a *Attempt) (Finding, *record) {
	if a.OwnFailure {
		b.ownFailures++
		b.pendingNoise.own++
		b.ownCauses.add(a.Cause)
		return l.finding(a, l.find(a.Target)), nil
	}
	t := l.findOrAdd(a.Target)
	f := l.finding(a, t)
	r := b.findOrAddRecord(l, t)
	if r.episode != b.episode {
		r.beginEpisode(b.episode)
	}
	b.resolvePending(r, a)
	r.addFailure(a)
	l.addFailure(t, a)
	f.Banned = b.isBanned(l, r, false)
	f.Uncompared = a.ClosedPeers > 0 && r.pending() > 1 && t.onlyUsedBy(a.Proxy)
	t.updateProvisional(a, f)
	return f, r
}

// isBanned reports whether the target of r has probably banned the proxy (Finding.Banned). The parameter succeededSince
// states whether the proxy has had a success since its latest failure. Without such a success, the proxy may be dead.
// isBanned then returns true only if the proxy has had at most aliveFailures failures since its last success, all of
// them at this target.
func (b *Book) isBanned(l *Ledger, r *record, succeededSince bool) bool {
	if !r.refuses(l) || !b.seldomFailsElsewhere(r) {
		return false
	}
	if succeededSince {
		return r.streak.Load() > 0 // 0 if the last attempt at this target succeeded
	}
	return b.streak.weightBesidesWorst() == 0 && b.streak.failures <= aliveFailures &&
		int(r.streak.Load()) > b.streak.failures // an attempt at another target has succeeded in between
}

// seldomFailsElsewhere reports whether the share of failures at other targets is too low to explain the proxy's
// failures in a row at the target of r.
func (b *Book) seldomFailsElsewhere(r *record) bool {
	if b.CountElsewhere == nil {
		return true
	}
	failures, attempts := b.CountElsewhere(r.target.hash)
	share := (float64(failures) + elsewhereFailures) / (float64(attempts) + elsewhereAttempts)
	return -r.refused.count()*math.Log(share) >= banLimit
}

// resolvePending confirms or discards pending failures of a record. The caller passes the proxy's latest failure.
func (b *Book) resolvePending(r *record, latest *Attempt) {
	b.pendingNoise.confirmed += float64(r.resolvePending(latest))
}

// FailuresInARow returns the number of failures since the last success, and the end of the last one. Failures that the
// target may have caused are included.
func (b *Book) FailuresInARow() (n int, last time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.successes.Load() != b.pendingNoise.successes {
		return 0, 0
	}
	return b.streak.failures, b.lastFailure.Ended
}

// Successes returns the number of successes so far.
func (b *Book) Successes() uint64 { return b.successes.Load() }

// AddSuccesses adds n successes at targets at which nothing has failed.
func (b *Book) AddSuccesses(n uint64) { b.successes.Add(n) }

// findOrAddRecord finds or adds the record of a target.
func (b *Book) findOrAddRecord(l *Ledger, t *target) *record {
	n := 0
	for r := b.records.Load(); r != nil; r = r.next.Load() {
		if r.target == t {
			return r
		}
		n++
	}
	if n >= maxRecords {
		b.evictRecord(l)
	}
	r := &record{target: t, episode: b.episode - 1}
	r.next.Store(b.records.Load())
	b.records.Store(r)
	return r
}

// evictRecord removes the oldest record that is out of date, or the oldest record if none is out of date.
func (b *Book) evictRecord(l *Ledger) {
	var oldest, link *atomic.Pointer[record]
	outdated := false
	for link = &b.records; link.Load() != nil; link = &link.Load().next {
		if r := link.Load(); r.episode != b.episode || !outdated {
			oldest, outdated = link, outdated || r.episode != b.episode
		}
	}
	r := oldest.Load()
	if r.episode == b.episode {
		noise, _ := l.poolNoise()
		b.resolvePending(r, &b.lastFailure)
		b.evictedEvidence += r.evidence(noise).total
		b.successesBefore += uint64(r.episodeSuccesses())
	}
	oldest.Store(r.next.Load())
}
