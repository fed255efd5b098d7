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

// window keeps the last 100 attempts that said something about a proxy, and
// what follows from them, readable without a lock.
type window struct {
	mu        sync.Mutex
	ok        [windowSize]bool
	latency   [windowSize]float64 // s; NaN where none was measured
	next, n   int
	successes int
	measured  int
	sum       float64

	successRate, samples, mean, ewma, failures atomic.Uint64 // float64 bits
}

func (w *window) init() { store(&w.successRate, 0.5) }

// add takes one attempt. Latency counts for successes only: the time a failure
// took says how it failed, not how fast the proxy is.
func (w *window) add(v core.Verdict, latency time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.next
	if w.n == windowSize {
		if w.ok[i] {
			w.successes--
		}
		if !math.IsNaN(w.latency[i]) {
			w.measured--
			w.sum -= w.latency[i]
		}
	} else {
		w.n++
	}
	w.next = (i + 1) % windowSize
	w.ok[i] = v == core.Success
	w.latency[i] = math.NaN()
	if w.ok[i] {
		s := latency.Seconds()
		w.successes++
		w.latency[i] = s
		w.measured++
		w.sum += s
		if w.measured == 1 {
			w.sum = s // a fresh start: nothing of rounding remains
		}
		if ewma := load(&w.ewma); ewma > 0 {
			s = ewma + ewmaAlpha*(s-ewma)
		}
		store(&w.ewma, s)
		store(&w.failures, 0)
	} else {
		store(&w.failures, load(&w.failures)+1)
	}
	mean := 0.0
	if w.measured > 0 {
		mean = max(w.sum, 0) / float64(w.measured)
	}
	store(&w.successRate, float64(w.successes)/float64(w.n))
	store(&w.samples, float64(w.n))
	store(&w.mean, mean)
}

func store(a *atomic.Uint64, f float64) { a.Store(math.Float64bits(f)) }
func load(a *atomic.Uint64) float64     { return math.Float64frombits(a.Load()) }
