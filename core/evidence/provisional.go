package evidence

import "time"

// A proxy can fail at a target before anything shows that the target is the cause. That failure would count in
// the statistics of the proxy, although later failures of other proxies at the target do not. Such a failure is
// therefore provisional for a minute: it is withdrawn when the target fails for the other proxies too
// (Finding.TargetFails), and becomes final at the target's next success.

// maxProvisional is the largest number of proxies with provisional failures at one target. The failures of
// further proxies are final at once.
const maxProvisional = 8

// provisional holds the provisional failures of one proxy at a target.
type provisional struct {
	book     *Book
	failures int32
	latest   time.Duration // end of the latest provisional failure
}

// provisionalTime is the time after which a failure is final.
const provisionalTime = time.Minute

// updateProvisional updates the provisional failures after the failure a, according to the finding f: it
// withdraws all of them, adds a, or does nothing if a does not count in the statistics.
func (t *target) updateProvisional(a *Attempt, f Finding) {
	t.mu.Lock()
	var withdrawn []provisional
	switch {
	case f.TargetFails:
		withdrawn, t.provisional = t.provisional, nil
	case !f.NotByProxy() && !a.Uncounted:
		t.addProvisional(a)
	}
	t.hasProvisional.Store(len(t.provisional) > 0)
	t.mu.Unlock()
	for _, p := range withdrawn {
		if a.At-p.latest > provisionalTime {
			continue
		}
		p.book.withdrawn.Add(p.failures)
		if p.book.OnWithdrawn != nil {
			p.book.OnWithdrawn()
		}
	}
}

// addProvisional adds a provisional failure. The caller holds mu.
func (t *target) addProvisional(a *Attempt) {
	for i := range t.provisional {
		if p := &t.provisional[i]; p.book == a.Book {
			if a.At-p.latest > provisionalTime {
				p.failures = 0
			}
			p.failures++
			p.latest = a.At
			return
		}
	}
	if len(t.provisional) < maxProvisional {
		t.provisional = append(t.provisional, provisional{a.Book, 1, a.At})
	}
}

// dropProvisional makes the provisional failures final.
func (t *target) dropProvisional() {
	if t.hasProvisional.Load() {
		t.mu.Lock()
		t.provisional = nil
		t.hasProvisional.Store(false)
		t.mu.Unlock()
	}
}

// TakeWithdrawn returns the number of withdrawn failures, and sets it to 0. They must no longer count in the
// statistics of the proxy.
func (b *Book) TakeWithdrawn() int {
	if b.withdrawn.Load() == 0 {
		return 0
	}
	return int(b.withdrawn.Swap(0))
}

// ReturnWithdrawn adds n to the result of the next TakeWithdrawn. n is the number of failures that the
// caller could not remove, because they are not in the statistics yet.
func (b *Book) ReturnWithdrawn(n int) { b.withdrawn.Add(int32(n)) }
