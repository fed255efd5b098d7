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

// window keeps the last 100 attempts that said something about a proxy.
type window struct {
	mu        sync.Mutex
	latency   [windowSize]float32 // s, of successes; NaN for failures
	next, n   int
	total     int64 // attempts so far, those before the window among them
	successes int
	sum       float64 // of their latencies
}

// add takes one attempt. Latency counts for successes only: the time a failure
// took says how it failed, not how fast the proxy is. It returns which of
// the proxy's attempts this was, from 1.
func (w *window) add(to *stats, v core.Verdict, latency time.Duration) (nth int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total++
	i := w.next
	if w.n == windowSize {
		if old := float64(w.latency[i]); !math.IsNaN(old) {
			w.successes--
			w.sum -= old
		}
	} else {
		w.n++
	}
	w.next = (i + 1) % windowSize
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
	} else {
		w.latency[i] = float32(math.NaN())
		store(&to.failures, load(&to.failures)+1)
	}
	mean := 0.0
	if w.successes > 0 {
		mean = max(w.sum, 0) / float64(w.successes)
	}
	store(&to.successRate, float64(w.successes)/float64(w.n))
	store(&to.samples, float64(w.n))
	store(&to.mean, mean)
	return w.total
}

func store(a *atomic.Uint64, f float64) { a.Store(math.Float64bits(f)) }
func load(a *atomic.Uint64) float64     { return math.Float64frombits(a.Load()) }
