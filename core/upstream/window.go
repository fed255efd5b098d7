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

// window holds a proxy's last 100 attempts that were not excluded and are not older than the pool's
// memory.
type window struct {
	mu        sync.Mutex
	latency   [windowSize]float32 // s, of successes; NaN for failures
	ended     [windowSize]stamp
	next, n   int
	successes int
	sum       float64 // of the latencies of the successes, s

	oldest      atomic.Uint32 // stamp of the oldest attempt; undefined if the window is empty
	lastSuccess atomic.Int64  // end of the last success, ns after the epoch; at first, when the proxy was added
	lastFailure time.Duration // end of the last failure, after the epoch; guarded by mu

	sinceFailure int           // successes since the last failure, at most windowSize
	tail         atomic.Uint64 // see Tail; float64 bits, s; 0 without a success
	stretched    bool          // Stretch has raised tail since the last success; guarded by mu
	trial        trial
}

// tailDecay is the speed at which tail decreases. Each success moves tail towards its latency by this
// share of the distance. A larger latency raises tail at once. As a result, tail is between the 99th
// percentile and the largest of the last few hundred latencies.
const tailDecay = 0.01

// add adds an attempt that ended at the time at (Pool.Elapsed). Unless memory is 0, it removes the attempts
// that are older than memory. It uses only the latencies of successes, because the latency of a failure
// depends on the kind of failure, not on the speed of the proxy. literal is set if breaker.blame is "literal".
func (w *window) add(to *stats, v core.Verdict, latency, at, memory time.Duration, literal bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n == windowSize {
		w.drop()
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
		if ewma := load(&to.ewma); ewma > 0 {
			s = ewma + ewmaAlpha*(s-ewma)
		}
		store(&to.ewma, s)
		store(&to.failures, 0)
		w.stretched = false
		w.sinceFailure = min(w.sinceFailure+1, windowSize)
		if tail, l := load(&w.tail), latency.Seconds(); l < tail {
			store(&w.tail, tail-tailDecay*(tail-l))
		} else {
			store(&w.tail, l)
		}
		w.lastSuccess.Store(int64(at))
	} else {
		w.lastFailure, w.sinceFailure = at, 0
		w.latency[i] = float32(math.NaN())
		store(&to.failures, load(&to.failures)+1)
	}
	w.dropOlder(at, memory)
	if w.trial.add(v, w.worseThan(latency)) {
		keep := trialSuccesses
		if w.successes < w.n { // the window has failures
			keep = max(keep, w.sinceFailure)
		}
		for w.n > keep {
			w.drop()
		}
		store(&to.ewma, w.mean())
	} else if !literal && v == core.Success && w.successes < w.n && at-w.lastFailure >= idleAfter {
		w.trial.begin()
	}
	w.publish(to)
}

// drop removes the oldest attempt. The caller holds mu. The window must not be empty.
func (w *window) drop() {
	if old := float64(w.latency[w.first()]); !math.IsNaN(old) {
		w.successes--
		w.sum -= old
	}
	w.n--
}

// first returns the index of the oldest attempt. The caller holds mu.
func (w *window) first() int { return (w.next - w.n + windowSize) % windowSize }

// dropOlder removes the attempts that ended before at - memory, where at is the current time. The
// caller holds mu.
func (w *window) dropOlder(at, memory time.Duration) {
	if memory <= 0 {
		return
	}
	for limit := stampOf(at - memory); w.n > 0 && w.ended[w.first()] < limit; {
		w.drop()
	}
}

// age removes the attempts that are now too old.
func (w *window) age(to *stats, at, memory time.Duration) {
	if memory <= 0 || load(&to.samples) == 0 || stamp(w.oldest.Load()) >= stampOf(at-memory) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropOlder(at, memory)
	w.publish(to)
}

// removeFailures removes the latest n failures, or all if there are fewer. It returns the number of removed
// failures.
func (w *window) removeFailures(to *stats, n int) (removed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	place := w.next // of the attempts that stay, from the latest to the oldest
	series, ended := 0, false
	for k := range w.n {
		i := (w.next - 1 - k + windowSize) % windowSize
		failed := math.IsNaN(float64(w.latency[i]))
		if failed && removed < n {
			removed++
			continue
		}
		if ended = ended || !failed; !ended {
			series++
		}
		place = (place - 1 + windowSize) % windowSize
		w.latency[place], w.ended[place] = w.latency[i], w.ended[i]
	}
	w.n -= removed
	store(&to.failures, min(load(&to.failures), float64(series)))
	w.publish(to)
	return removed
}

// mean returns the mean latency in seconds; 0 without a success. The caller holds mu.
func (w *window) mean() float64 {
	if w.successes == 0 {
		return 0
	}
	return max(w.sum, 0) / float64(w.successes)
}

// worseThan reports whether the window is worse than a success with the given latency. It is if it has
// failures, or if its mean latency is more than twice the given one. The caller holds mu.
func (w *window) worseThan(latency time.Duration) bool {
	return w.successes < w.n || w.mean() > 2*latency.Seconds()
}

// publish computes the statistics of the window. The caller holds mu.
func (w *window) publish(to *stats) {
	rate := 0.5
	if w.n < windowSize { // failures of the current series may have been removed
		store(&to.failures, min(load(&to.failures), float64(w.n)))
	}
	if w.successes == 0 {
		store(&to.ewma, 0)
	}
	if w.n == 0 {
		store(&w.tail, 0)
	}
	if w.n > 0 {
		rate = float64(w.successes) / float64(w.n)
	}
	store(&to.successRate, rate)
	store(&to.samples, float64(w.n))
	store(&to.mean, w.mean())
	w.oldest.Store(uint32(w.ended[w.first()]))
}

func store(a *atomic.Uint64, f float64) { a.Store(math.Float64bits(f)) }
func load(a *atomic.Uint64) float64     { return math.Float64frombits(a.Load()) }
