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
	// OnWithdrawn is called when the ledger has withdrawn failures (see TakeWithdrawn). It must not
	// call the ledger.
	OnWithdrawn func()
	// Elsewhere counts the proxy's recent failures and recent attempts. It leaves out the failures at the target with
	// the given hash. It must not call the ledger. It may be nil.
	Elsewhere func(target uint64) (failures, attempts int)

	successes atomic.Uint64          // of the proxy
	records   atomic.Pointer[record] // list of at most maxRecords, the newest first
	withdrawn atomic.Int32           // see TakeWithdrawn

	mu     sync.Mutex
	gen    uint64  // generation of the breaker
	latest Attempt // the latest failure, with a nil Book

	// The episode.
	episode         uint16        // number of the episode; a record with another number is out of date
	began           time.Duration // time at which the first failure ended
	successesBefore uint64        // the proxy's successes when the episode began
	failures        uint32
	ownFailures     uint32
	ownCauses       causes
	evicted         float64 // evidence of records that were removed (see evict), in nats
	outage          bool    // the latest failure was part of an outage

	// The number of sequential failures of the episode. The attempt of each of these failures began after the previous
	// one had failed.
	sequential    int
	sequentialEnd time.Duration

	unlearned unlearned
	streak    streak // the proxy's failures since its last success, each with weight 1

	// The proxy's failures in the pool's current streak. Their weights are in nats (outageWeight).
	poolStreak    streak
	poolStreakNo  uint64        // Ledger.streaks when poolStreak began
	unknownsUntil time.Duration // when the latest failure with the weight unknownFailure ended
}

// maxRecords is the maximum number of records of a book, one per target. They take 1 KB per proxy.
const maxRecords = 16

// unlearned counts the failures since the proxy's last success. If the proxy has another success, these
// failures were transient, and are added to the noise of the pool.
type unlearned struct {
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
	case a.Own:
	case s.first.weight == 0 || a.Target.Hash == s.first.target:
		s.first.target = a.Target.Hash
		s.first.weight += weight
	case s.second.weight == 0 || a.Target.Hash == s.second.target:
		s.second.target = a.Target.Hash
		s.second.weight += weight
	}
}

// at returns the weight of the streak's failures at the target. It is 0 if the target is not one of the streak's
// first two targets.
func (s *streak) at(target uint64) float64 {
	switch target {
	case s.first.target:
		return s.first.weight
	case s.second.target:
		return s.second.weight
	}
	return 0
}

// besidesWorst returns the weight of the streak without its failures at the target with the largest weight.
func (s *streak) besidesWorst() float64 { return s.weight - max(s.first.weight, s.second.weight) }

// updateEpisode ends the current episode if it is over. If no episode is left, it begins one with the given failure.
func (b *Book) updateEpisode(l *Ledger, a *Attempt) {
	if a.Gen > b.gen || a.At-b.latest.At > a.Window {
		b.startOver(a.Gen)
	}
	if b.failures > 0 && b.evidence(l, a).potential <= 0 {
		b.endEpisode()
	}
	b.latest = *a
	b.latest.Book = nil
	if b.failures == 0 {
		b.began, b.successesBefore = a.At, b.successes.Load()
	}
}

// startOver removes the episode, because the breaker has changed its state or the latest
// failure is too old.
func (b *Book) startOver(gen uint64) {
	b.gen = gen
	b.clearEpisode()
	b.unlearned = unlearned{successes: b.successes.Load()}
	b.poolStreak, b.unknownsUntil = streak{}, 0
}

// Forget removes all failures and all records, because the breaker has been reset. The parameter gen is the breaker's
// new generation, a number that increases with each change of the breaker's state.
func (b *Book) Forget(gen uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.startOver(max(gen, b.gen))
	b.records.Store(nil)
	b.streak = streak{}
}

// endEpisode ends an episode in which the successes outweigh the failures. It counts a possible ban for
// each target with confirmed failures, because other targets have served the proxy.
func (b *Book) endEpisode() {
	for r := range b.current {
		if r.confirmed > 0 && r.bans < maxBans {
			r.bans++
		}
	}
	b.clearEpisode()
}

func (b *Book) clearEpisode() {
	b.episode++
	if b.episode == 0 { // the numbers wrap around, so old records would look current
		b.records.Store(nil)
		b.episode = 1
	}
	b.failures, b.ownFailures, b.evicted, b.ownCauses = 0, 0, 0, causes{}
	b.sequential, b.sequentialEnd, b.outage = 0, 0, false
}

// current iterates over the records of the episode.
func (b *Book) current(yield func(*record) bool) {
	for r := b.records.Load(); r != nil; r = r.next.Load() {
		if r.episode == b.episode && !yield(r) {
			return
		}
	}
}

// updateStreaks ends the proxy's streak if the proxy has had a success since the streak's last failure. The failures
// of this streak were transient. They are added to the noise, unless they opened the proxy's breaker. If the pool has
// had a success, updateStreaks also ends the pool's streak.
func (b *Book) updateStreaks(l *Ledger, a *Attempt) {
	switch {
	case a.Gen > b.gen:
		b.unlearned.confirmed, b.unlearned.own = 0, 0
	case a.At-b.latest.At < maxMicros:
		for r := range b.current {
			b.resolve(r, &b.latest)
		}
	}
	if n := b.successes.Load(); n != b.unlearned.successes {
		l.addNoise(b.unlearned.confirmed, b.unlearned.own, float64(n-b.unlearned.successes))
		b.unlearned = unlearned{successes: n}
		b.streak = streak{}
	}
	if n := l.streaks.Load(); n != b.poolStreakNo {
		b.poolStreak, b.poolStreakNo, b.unknownsUntil = streak{}, n, 0
	}
}

// add counts a failure.
func (b *Book) add(l *Ledger, a *Attempt) {
	b.failures++
	if a.began() >= b.sequentialEnd {
		b.sequential++
		b.sequentialEnd = a.At
	}
	b.streak.add(a, 1)
	// An attempt that began before the pool's streak is not added, because it may have begun before the pool's
	// last success.
	if !a.ServedByOther && int64(a.began()) >= l.streakBegan.Load() {
		b.poolStreak.add(a, b.outageWeight(l, a))
	}
}

// addAtTarget records a failure, either as an own failure or at its target. It returns the conclusion from the other
// proxies' attempts at the target, and the proxy's record of the target. For an own failure, the record is nil.
func (b *Book) addAtTarget(l *Ledger, a *Attempt) (Finding, *record) {
	if a.Own {
		b.ownFailures++
		b.unlearned.own++
		b.ownCauses.add(a.Cause)
		return l.finding(a, l.find(a.Target)), nil
	}
	t := l.findOrAdd(a.Target)
	f := l.finding(a, t)
	r := b.record(l, t)
	if r.episode != b.episode {
		r.beginEpisode(b.episode)
	}
	b.resolve(r, a)
	r.addFailure(a)
	l.addFailure(t, a)
	f.Banned = b.banned(l, r, false)
	f.Uncompared = a.Peers > 0 && r.pending() > 1 && t.onlyUsedBy(a.Proxy)
	t.updateProvisional(a, f)
	return f, r
}

// banned reports whether the target of r probably refuses the proxy (Finding.Banned). Another target must
// have served the proxy since the proxy began to fail at this target. Since its last success, the proxy must have
// failed at most aliveFailures times, and only at this target. The parameter served is set if the proxy has had a
// success since its latest failure.
func (b *Book) banned(l *Ledger, r *record, served bool) bool {
	if !r.refuses(l) || !b.seldomFailsElsewhere(r) {
		return false
	}
	if served {
		return r.streak.Load() > 0 // otherwise the target itself has served the proxy
	}
	return b.streak.besidesWorst() == 0 && b.streak.failures <= aliveFailures &&
		int(r.streak.Load()) > b.streak.failures // otherwise the proxy may be dead
}

// seldomFailsElsewhere compares the proxy's failures at the target of r with the share of its attempts that fail at
// other targets. It reports whether so many failures in a row would be unlikely with this share.
func (b *Book) seldomFailsElsewhere(r *record) bool {
	if b.Elsewhere == nil {
		return true
	}
	failures, attempts := b.Elsewhere(r.target.hash)
	share := (float64(failures) + elsewhereFailures) / (float64(attempts) + elsewhereAttempts)
	return -r.refused.count()*math.Log(share) >= banLimit
}

// resolve confirms or discards pending failures of a record. The parameter latest is the latest failure of
// the proxy.
func (b *Book) resolve(r *record, latest *Attempt) {
	b.unlearned.confirmed += float64(r.resolve(latest))
}

// record returns the book's record of a target. If there is none, it adds one.
func (b *Book) record(l *Ledger, t *target) *record {
	n := 0
	for r := b.records.Load(); r != nil; r = r.next.Load() {
		if r.target == t {
			return r
		}
		n++
	}
	if n >= maxRecords {
		b.evict(l)
	}
	r := &record{target: t, episode: b.episode - 1}
	r.next.Store(b.records.Load())
	b.records.Store(r)
	return r
}

// evict removes the oldest record that is out of date, or the oldest record if none is out of date.
func (b *Book) evict(l *Ledger) {
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
		b.resolve(r, &b.latest)
		b.evicted += r.evidence(noise).value
		b.successesBefore += uint64(r.episodeSuccesses())
	}
	oldest.Store(r.next.Load())
}
