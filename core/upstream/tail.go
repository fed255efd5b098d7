package upstream

import "time"

// Tail returns the time within which nearly all responses through the proxy begin. The result is between the 99th
// percentile and the largest of the last few hundred latencies. For a proxy without a success, the result is the
// largest Tail in the pool, or 0 if no proxy of the pool has a success.
func (u *Upstream) Tail() time.Duration {
	tail := load(&u.window.tail)
	if tail == 0 {
		tail = load(&u.pool.tail)
	}
	return time.Duration(tail * 1e9)
}

// TailFactor times the Tail of a proxy is the adaptive timeout: the time within which the response to an attempt must
// begin, unless a minimum is longer.
const TailFactor = 3

// RaiseTail records that an attempt was cut short after d without a response. It raises Tail to d, so that a proxy that
// has become slower gets more time. The new Tail is at most TailFactor times the Tail that results from responses
// alone, or the given minimum if this is longer. Without this limit, each attempt that is cut short would triple Tail.
// If one attempt in fifty hung at a proxy, every client of this proxy would soon wait for the whole attempt timeout.
func (u *Upstream) RaiseTail(d, minTail time.Duration) {
	w := &u.window
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ensureAttempts()
	proven := w.tailBeforeRaise
	if proven == 0 {
		proven = load(&u.pool.tail)
	}
	if s := min(d.Seconds(), max(TailFactor*proven, minTail.Seconds())); s > load(&w.tail) {
		store(&w.tail, s)
	}
}

// responseTail returns Tail, or 0 if Tail results from no response. A proxy that never responds must not raise the Tail
// of the pool, because RaiseTail limits the Tail of such a proxy by the Tail of the pool.
func (w *window) responseTail() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts == nil || w.tailBeforeRaise == 0 {
		return 0
	}
	return load(&w.tail)
}

// AllowLatency raises Tail to d, because a target has responded through another proxy after the time d. Attempts at
// targets that are as slow are then not cut short.
func (u *Upstream) AllowLatency(d time.Duration) {
	w := &u.window
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ensureAttempts()
	s := d.Seconds()
	w.tailBeforeRaise = max(w.tailBeforeRaise, s)
	store(&w.tail, max(load(&w.tail), s))
}

// CutProbes returns the number of probes of the proxy's breaker that were cut short before the proxy had served a
// request (CountCutProbe).
func (u *Upstream) CutProbes() int {
	if x := u.attemptFields.Load(); x != nil {
		return int(x.cutProbes.Load())
	}
	return 0
}

// CountCutProbe counts a probe that was cut short.
func (u *Upstream) CountCutProbe() { u.ensureAttemptFields().cutProbes.Add(1) }

// HasPeers reports whether the pool has proxies other than u.
func (u *Upstream) HasPeers() bool { return len(u.pool.Snapshot().All) > 1 }
