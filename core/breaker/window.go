package breaker

import (
	"time"
)

// window holds the failures of the last window_duration: failures[head:], the oldest first.
type window struct {
	failures []time.Duration
	head     int
}

// maxFailures is the maximum number of failures in a window, unless failure_threshold is higher. If the evidence is not
// enough, the breaker stays closed, and without this maximum its window would grow without limit.
const maxFailures = 1000

// addFailure adds a failure to the window. The caller holds mu.
func (b *Breaker) addFailure(now time.Duration) {
	h, threshold := b.ensureHistory(), b.cfg.Load().FailureThreshold
	b.dropOldFailures(now)
	if h.window == nil {
		h.window = &window{failures: make([]time.Duration, 0, min(threshold, maxFirstCapacity))}
	}
	w := h.window
	if b.failureCount() >= max(threshold, maxFailures) {
		w.head++ // without its oldest failure, the window still reaches the threshold
	}
	if w.head > cap(w.failures)/2 && len(w.failures) == cap(w.failures) {
		w.failures = append(w.failures[:0], w.failures[w.head:]...)
		w.head = 0
	}
	w.failures = append(w.failures, now)
}

// maxFirstCapacity is the maximum capacity of a new window. Most breakers open at failure_threshold failures.
const maxFirstCapacity = 8

// dropOldFailures removes the failures that are older than window_duration. The caller holds mu.
func (b *Breaker) dropOldFailures(now time.Duration) {
	if b.history == nil || b.window == nil {
		return
	}
	w, limit := b.window, b.cfg.Load().WindowDuration
	for w.head < len(w.failures) && now-w.failures[w.head] > limit {
		w.head++
	}
	if w.head == len(w.failures) {
		b.window = nil
	}
}

// failureCount returns the number of failures in the window. Only dropOldFailures removes old ones. The caller holds
// mu.
func (b *Breaker) failureCount() int {
	if b.history == nil || b.window == nil {
		return 0
	}
	return len(b.window.failures) - b.window.head
}

// forgetFailures empties the window. The caller holds mu.
func (b *Breaker) forgetFailures() {
	if b.history != nil {
		b.window = nil
	}
}
