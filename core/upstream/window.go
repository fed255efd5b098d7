package upstream

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// windowSize is how many attempts a proxy is judged by.
const windowSize = 100

// ewmaAlpha is the weight of the newest latency.
const ewmaAlpha = 0.1

// stats are what follows from a window, readable without a lock: float64 bits.
type stats struct{ successRate, samples, mean, ewma, failures atomic.Uint64 }

func (s *stats) init() { store(&s.successRate, 0.5) }

// stamp is a moment in tenths of a second after the pool's epoch. It holds 13 years.
type stamp uint32

func stampOf(at time.Duration) stamp { return stamp(max(at, 0) / (100 * time.Millisecond)) }

// window keeps the last 100 attempts that said something about a proxy, without
// those older than the pool's memory.
type window struct {
	mu        sync.Mutex
	latency   [windowSize]float32 // s, of successes; NaN for failures
	ended     [windowSize]stamp
	next, n   int
	successes int
	sum       float64 // of their latencies

	oldest      atomic.Uint32 // stamp of the oldest attempt in the window; meaningless if it is empty
	lastSuccess atomic.Int64  // ns after the epoch; of an attempt or, before any, when the proxy was added
	tail        atomic.Uint64 // float64 bits of s: what nearly all answers take at most; 0 without any
	stretched   bool          // tail was raised by an attempt that was given up since the last success; guarded by mu
	trial       trial
}

// tailDecay is the part of its distance to the latest latency by which tail comes down
// with each success. It goes up at once, so that it stays between the 99th percentile
// and the largest of the last few hundred latencies.
const tailDecay = 0.01

// add takes one attempt, which ended at a moment (Pool.Elapsed). Latency counts
// for successes only: the time a failure took says how it failed, not how fast the
// proxy is. Attempts older than memory are dropped; 0 keeps them.
func (w *window) add(to *stats, v core.Verdict, latency, at, memory time.Duration) {
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
			w.sum = float64(w.latency[i]) // a fresh start: nothing of rounding remains
		}
		if ewma := load(&to.ewma); ewma > 0 {
			s = ewma + ewmaAlpha*(s-ewma)
		}
		store(&to.ewma, s)
		store(&to.failures, 0)
		w.stretched = false
		if tail, l := load(&w.tail), latency.Seconds(); l < tail {
			store(&w.tail, tail-tailDecay*(tail-l))
		} else {
			store(&w.tail, l)
		}
		w.lastSuccess.Store(int64(at))
	} else {
		w.latency[i] = float32(math.NaN())
		store(&to.failures, load(&to.failures)+1)
	}
	w.dropOlder(at, memory)
	if w.trial.heard(v, w.doubts(latency)) {
		for w.n > trialSuccesses {
			w.drop()
		}
		store(&to.ewma, w.mean())
	}
	w.publish(to)
}

// drop forgets the oldest attempt of a window that has one. Requires mu.
func (w *window) drop() {
	if old := float64(w.latency[w.first()]); !math.IsNaN(old) {
		w.successes--
		w.sum -= old
	}
	w.n--
}

// first is the oldest attempt's place. Requires mu.
func (w *window) first() int { return (w.next - w.n + windowSize) % windowSize }

// dropOlder forgets the attempts that ended before at - memory. Requires mu.
func (w *window) dropOlder(at, memory time.Duration) {
	if memory <= 0 {
		return
	}
	for limit := stampOf(at - memory); w.n > 0 && w.ended[w.first()] < limit; {
		w.drop()
	}
}

// age lets time take effect on a window that may have got no attempt since.
func (w *window) age(to *stats, at, memory time.Duration) {
	if memory <= 0 || load(&to.samples) == 0 || stamp(w.oldest.Load()) >= stampOf(at-memory) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropOlder(at, memory)
	w.publish(to)
}

// mean (s) is 0 without a success. Requires mu.
func (w *window) mean() float64 {
	if w.successes == 0 {
		return 0
	}
	return max(w.sum, 0) / float64(w.successes)
}

// doubts reports whether a success of that latency speaks against what else the
// window says: there are failures in it, or it says that the proxy is more than
// twice as slow. Requires mu.
func (w *window) doubts(latency time.Duration) bool {
	return w.successes < w.n || w.mean() > 2*latency.Seconds()
}

// publish requires mu.
func (w *window) publish(to *stats) {
	rate := 0.5
	if w.n < windowSize { // older failures in a row may have been forgotten
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
