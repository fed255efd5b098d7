package workload

import (
	"slices"
	"time"
)

// OracleName is the name of the variant that Oracle simulates.
const OracleName = "oracle"

// Oracle returns the outcome of a gateway that reads the trace: it chooses the proxy with the smallest probability of
// failure at the beginning of the attempt and, if several are equal, the fastest. A request uses a proxy for the second
// time only after it has used all proxies. The oracle does not read the luck of an attempt, so attempts can fail. It
// makes at most the given number of attempts, or MaxAttempts if that is set, without backoff.
func (w *Workload) Oracle(attempts int) *Outcome {
	if w.MaxAttempts > 0 {
		attempts = w.MaxAttempts
	}
	o := &Outcome{Workload: w.Name, Variant: OracleName, Reconciled: true}
	for id, q := range w.Schedule() {
		at, served, n := q.At, false, 0
		var used []int
		for n < attempts && !served {
			i := w.bestProxy(q.Target, at, used)
			state := w.Pool[i].At(q.Target, at)
			if state.Bad() {
				o.BadAttempts++
			}
			if used = append(used, i); len(used) == len(w.Pool) {
				used = nil
			}
			at += w.Latency(id, n, state.Latency)
			served = w.Luck(id, n) >= state.Loss()
			n++
		}
		o.Served, o.Attempts = append(o.Served, served), append(o.Attempts, uint8(n))
		o.Latency = append(o.Latency, float64(at-q.At)/float64(time.Millisecond))
	}
	return o
}

// bestProxy returns the proxy with the smallest probability of failure for a target at a given time. It leaves out the
// proxies in the list used.
func (w *Workload) bestProxy(target int, at time.Duration, used []int) int {
	best := -1
	for i := range w.Pool {
		if slices.Contains(used, i) {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		a, b := w.Pool[i].At(target, at), w.Pool[best].At(target, at)
		if a.Loss() < b.Loss() || a.Loss() == b.Loss() && a.Latency < b.Latency {
			best = i
		}
	}
	return best
}
