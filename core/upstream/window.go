package upstream

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// windowSize is the number of attempts in a proxy's statistics.
const windowSize = 100

// ewmaAlpha is the weight of the latest latency in the moving average.
const ewmaAlpha = 0.1

// stats are the figures computed from a window, as the bits of float64 values. They are read
// without a lock.
type stats struct{ successRate, samples, mean, ewma, failures atomic.Uint64 }

func (s *stats) init() { store(&s.successRate, 0.5) }

// stamp is a time in tenths of a second after the pool's epoch. It wraps around after 13 years.
type stamp uint32

func stampOf(at time.Duration) stamp { return stamp(max(at, 0) / (100 * time.Millisecond)) }

// window holds the last 100 attempts of a proxy that were not excluded (core.Excluded). Attempts older than the maximum
// age (Pool.SetMemory) are removed.
type window struct {
	mu        sync.Mutex
	*attempts // nil before the first attempt, because many proxies of a large pool have none; guarded by mu

	lastSuccess atomic.Int64  // end of the last success, ns after the epoch; initially Upstream.added
	tail        atomic.Uint64 // see Tail; float64 bits, s; 0 without a success
	oldest      atomic.Uint32 // stamp of the oldest attempt; undefined if the window is empty
	trial       trial
}

type attempts struct {
	latency [windowSize]float32 // of a success: in s; of a failure: the value of failureAt
	ended   [windowSize]stamp

	next, n   int
	latencies int // number of the oldest attempts that count for the mean latency only; all of them are successes
	successes int
	sum       float64 // of the latencies of the successes, s

	lastFailure     time.Duration // end of the last failure, after the epoch
	sinceFailure    int           // successes since the last failure, at most windowSize
	streak          int           // failures since the last success
	learnt          int           // failures on other gateways since then (Upstream.Learn); stats includes them
	tailBeforeRaise float64       // tail as it would be without RaiseTail, s
}

// ensureAttempts creates the attempts if there are none. The caller holds mu.
func (w *window) ensureAttempts() {
	if w.attempts == nil {
		w.attempts = &attempts{}
	}
}

// targetTag is 21 bits of the hash of a target. Two targets have the same tag with a probability of one in two million.
type targetTag uint32

// anyTarget stands for all targets. No target has this tag.
const anyTarget targetTag = 0

// tagBits are the bits of a NaN (a float32 that is not a number) that hold a targetTag. The lowest of these bits is
// always set, so that no target has the tag anyTarget.
const tagBits = 1<<22 - 1

func tagOf(target uint64) targetTag { return targetTag(target&tagBits | 1) }

// failureAt returns the value that stands for a failure in window.latency: a NaN with the target's tag in tagBits.
func failureAt(t targetTag) float32 {
	return math.Float32frombits(math.Float32bits(float32(math.NaN()))&^tagBits | uint32(t))
}

// failedTarget returns the tag of the target at which an attempt failed, and whether the attempt failed.
func failedTarget(latency float32) (at targetTag, failed bool) {
	bits := math.Float32bits(latency)
	return targetTag(bits & tagBits), latency != latency
}

// attemptResult is the result of an attempt.
type attemptResult struct {
	latency time.Duration
	at      time.Duration // end (Pool.Elapsed)
	target  targetTag
}

// tailDecay is the speed at which the field tail decreases. A success with a latency below the field moves the field
// towards this latency, by this share of the difference. A success with a higher latency sets the field to this
// latency. The field is therefore between the 99th percentile and the largest of the last few hundred latencies.
const tailDecay = 0.01

// speedFactor is the smallest ratio of two mean latencies of a proxy that shows a change of its speed.
const speedFactor = 1.5

// usualSpeed is the number of latencies that beginAnew keeps if the speed has not changed. The mean of so many
// latencies differs little from the usual mean.
const usualSpeed = 16

// nextTail returns the new value of the field tail after a success with the given latency.
func nextTail(tail, latency float64) float64 {
	if latency < tail {
		return tail - tailDecay*(tail-latency)
	}
	return latency
}

// addAttempt records an attempt with the result r in the window. It removes the attempts that are older than memory,
// unless memory is 0. The latencies of failures are not used, because they depend on the kind of failure, not on the
// speed of the proxy. The parameter literal is set if breaker.blame is "literal".
func (w *window) addAttempt(to *stats, v core.Verdict, r attemptResult, memory time.Duration, literal bool) {
	latency, at := r.latency, r.at
	w.mu.Lock() // without defer, because every attempt calls this method
	w.ensureAttempts()
	if w.n == windowSize {
		w.dropOldest()
	}
	i := w.next
	w.n++
	w.next = (i + 1) % windowSize
	w.ended[i] = stampOf(at)
	if v == core.Success {
		s := latency.Seconds()
		w.latency[i] = float32(s)
		w.successes++
		w.sum += float64(w.latency[i])
		if w.successes == 1 {
			w.sum = float64(w.latency[i]) // removes the rounding errors of earlier sums
		}
		average := s
		if ewma := load(&to.ewma); ewma > 0 {
			average = ewma + ewmaAlpha*(s-ewma)
		}
		store(&to.ewma, average)
		w.streak, w.learnt = 0, 0
		w.sinceFailure = min(w.sinceFailure+1, windowSize)
		store(&w.tail, nextTail(load(&w.tail), s))
		w.tailBeforeRaise = nextTail(w.tailBeforeRaise, s)
		w.lastSuccess.Store(int64(at))
	} else {
		w.lastFailure, w.sinceFailure = at, 0
		w.latency[i] = failureAt(r.target)
		w.streak++
	}
	w.dropOlder(at, memory)
	if w.trial.isOn() && w.trial.countAttempt(v, w.worseThan(latency)) {
		w.beginAnew(literal)
		store(&to.ewma, w.meanLatency())
	} else if !literal && v == core.Success && w.successes < w.n && at-w.lastFailure >= explorationWait {
		w.trial.begin()
	}
	w.updateStats(to)
	w.mu.Unlock()
}

// beginAnew removes old attempts when the proxy has passed a trial. If the proxy's speed has not changed, some old
// latencies stay, because the mean of the four latencies of a trial may differ much from the usual mean. If
// breaker.blame is "literal", none stay. The caller holds mu.
func (w *window) beginAnew(literal bool) {
	counted := trialSuccesses
	if w.successes < w.n { // the window has failures
		counted = max(counted, w.sinceFailure)
	}
	keep := counted
	if !literal && w.sameSpeed(counted) {
		w.removeLatest(w.n-w.successes, anyTarget)
		keep = max(counted, usualSpeed)
	}
	for w.n > keep {
		w.dropOldest()
	}
	w.latencies = max(w.n-counted, 0)
}

// sameSpeed reports whether the mean of the latest n latencies differs little from the mean of all latencies. It
// returns false if one of the latest n attempts failed. The caller holds mu.
func (w *window) sameSpeed(n int) bool {
	n = min(n, w.n)
	latest := 0.0
	for k := range n {
		latest += float64(w.latency[(w.next-1-k+windowSize)%windowSize]) / float64(n)
	}
	usual := w.meanLatency()
	return usual < speedFactor*latest && latest < speedFactor*usual
}

// dropOldest removes the oldest attempt. The caller holds mu. The window must not be empty.
func (w *window) dropOldest() {
	if old := float64(w.latency[w.oldestIndex()]); !math.IsNaN(old) {
		w.successes--
		w.sum -= old
	}
	w.n--
	w.latencies = max(w.latencies-1, 0)
}

// oldestIndex returns the index of the oldest attempt. The caller holds mu.
func (w *window) oldestIndex() int { return (w.next - w.n + windowSize) % windowSize }

// dropOlder removes the attempts that are older than memory. The caller holds mu.
func (w *window) dropOlder(at, memory time.Duration) {
	if memory <= 0 {
		return
	}
	for limit := stampOf(at - memory); w.n > 0 && w.ended[w.oldestIndex()] < limit; {
		w.dropOldest()
	}
}

// dropExpired removes the attempts that are now too old.
func (w *window) dropExpired(to *stats, at, memory time.Duration) {
	if memory <= 0 || load(&to.samples) == 0 || stamp(w.oldest.Load()) >= stampOf(at-memory) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropOlder(at, memory)
	w.updateStats(to)
}

// countElsewhere returns the number of failures at other targets than the given one, and the number of all attempts
// except the failures at the given target. The successes at the given target are included, because the window does not
// store the target of a success.
func (w *window) countElsewhere(target uint64) (failures, attempts int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts == nil {
		return 0, 0
	}
	attempts = w.n - w.latencies
	for k := range w.n {
		switch at, failed := failedTarget(w.latency[(w.oldestIndex()+k)%windowSize]); {
		case !failed:
		case at == tagOf(target):
			attempts--
		default:
			failures++
		}
	}
	return failures, attempts
}

// removeFailures removes the latest n failures at the target, or all of them if there are fewer than n. With
// anyTarget, it removes failures at all targets. It returns the number of removed failures.
func (w *window) removeFailures(to *stats, n int, target targetTag) (removed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts == nil {
		return 0
	}
	removed, failuresLeft := w.removeLatest(n, target)
	w.streak = min(w.streak, failuresLeft)
	w.updateStats(to)
	return removed
}

// removeLatest removes failures as removeFailures does. It returns the number of removed failures, and the number of
// remaining failures after the last success. The caller holds mu.
func (w *window) removeLatest(n int, target targetTag) (removed, failuresLeft int) {
	place := w.next // index for the attempts that stay, from the latest to the oldest
	ended := false
	for k := range w.n {
		i := (w.next - 1 - k + windowSize) % windowSize
		at, failed := failedTarget(w.latency[i])
		if failed && removed < n && (target == anyTarget || at == target) {
			removed++
			continue
		}
		if ended = ended || !failed; !ended {
			failuresLeft++
		}
		place = (place - 1 + windowSize) % windowSize
		w.latency[place], w.ended[place] = w.latency[i], w.ended[i]
	}
	w.n -= removed
	return removed, failuresLeft
}

// meanLatency returns the mean latency in seconds; 0 without a success. The caller holds mu.
func (w *window) meanLatency() float64 {
	if w.successes == 0 {
		return 0
	}
	return max(w.sum, 0) / float64(w.successes)
}

// worseThan reports whether the window is worse than a success with the given latency: it has failures, or
// its mean latency is more than twice as long. The caller holds mu.
func (w *window) worseThan(latency time.Duration) bool {
	return w.successes < w.n || w.meanLatency() > 2*latency.Seconds()
}

// rate returns the share of successes and the number of attempts, as if there had been further failures. The caller
// holds mu.
func (w *window) rate(failures int) (rate float64, attempts int) {
	attempts, successes := w.n-w.latencies+failures, w.successes-w.latencies
	if excess := attempts - windowSize; excess > 0 {
		attempts, successes = windowSize, max(successes-excess, 0)
	}
	if attempts == 0 {
		return 0.5, 0
	}
	return float64(successes) / float64(attempts), attempts
}

// ownRate returns the share of successes and the number of attempts, without the failures of other gateways.
func (w *window) ownRate() (rate float64, attempts int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts == nil {
		return 0.5, 0
	}
	return w.rate(0)
}

// ownStreak returns the number of failures since the last success, and the end of the last one.
func (w *window) ownStreak() (failures int, last time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts == nil {
		return 0, 0
	}
	return w.streak, w.lastFailure
}

// learn sets the number of failures on other gateways, of which the last ended at the given time. It returns false if
// an attempt has succeeded since: they do not count then.
func (w *window) learn(to *stats, failures int, last time.Duration) (ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if failures > 0 && last <= time.Duration(w.lastSuccess.Load()) {
		failures = 0
	}
	if w.attempts == nil && failures == 0 {
		return false
	}
	w.ensureAttempts()
	w.learnt = failures
	w.updateStats(to)
	return failures > 0
}

// updateStats computes the statistics of a window that has had at least one attempt. The caller holds mu.
func (w *window) updateStats(to *stats) {
	if w.n < windowSize { // failures of the current series may have been removed
		w.streak = min(w.streak, w.n)
	}
	store(&to.failures, float64(w.streak+w.learnt))
	if w.successes == 0 {
		store(&to.ewma, 0)
	}
	if w.n == 0 {
		store(&w.tail, 0)
		w.tailBeforeRaise = 0
	}
	rate, counted := w.rate(w.learnt)
	store(&to.successRate, rate)
	store(&to.samples, float64(counted))
	store(&to.mean, w.meanLatency())
	w.oldest.Store(uint32(w.ended[w.oldestIndex()]))
}

// store writes f to a, unless a has this value already. Most figures of a full window keep their values, and a write
// would slow down the selections that read the cache line of a.
func store(a *atomic.Uint64, f float64) {
	if bits := math.Float64bits(f); a.Load() != bits {
		a.Store(bits)
	}
}

func load(a *atomic.Uint64) float64 { return math.Float64frombits(a.Load()) }
