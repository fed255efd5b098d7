package evidence

import (
	"slices"
	"time"
)

// A proxy can fail at a target before the failures of other proxies show that the target is the cause. Such a failure
// counts in the proxy's statistics, but is provisional for a minute: it is withdrawn if the target fails for the
// other proxies too (Finding.TargetFails), and becomes final at the target's next success.

// maxProvisional is the largest number of proxies with provisional failures at one target. The failures of any
// further proxy at the target are never provisional.
const maxProvisional = 8

// provisional holds the provisional failures of one proxy at a target.
type provisional struct {
	book     *Book
	proxy    uint64 // hash
	failures int32
	latest   time.Duration // end of the latest provisional failure
}

// provisionalTime is the time after which a failure is final.
const provisionalTime = time.Minute

// updateProvisional updates the provisional failures of the target after another failure there. The finding f decides:
//   - If the target fails (f.TargetFails), all provisional failures are withdrawn.
//   - If the target refuses the proxy (f.Banned), this proxy's provisional failures become final.
//   - If the proxy may be the cause, and the new failure counts in the statistics, the new failure is added.
//   - Otherwise the failures that withdrawCompared returns are withdrawn.
func (t *target) updateProvisional(a *Attempt, f Finding) {
	t.mu.Lock()
	var withdrawn []provisional
	switch {
	case f.TargetFails:
		withdrawn, t.provisional = t.provisional, nil
	case f.Banned:
		t.provisional = slices.DeleteFunc(t.provisional, func(p provisional) bool { return p.book == a.Book })
	case !f.NotByProxy() && !a.Uncounted:
		t.addProvisional(a)
	default:
		withdrawn = t.withdrawCompared(a)
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

// withdrawCompared compares each proxy except that of the given attempt with all other proxies at the target. If their
// latest attempts have all failed (Finding.TargetFails), it removes the provisional failures of the compared proxy. It
// returns all removed failures. The caller holds mu.
func (t *target) withdrawCompared(a *Attempt) (withdrawn []provisional) {
	t.provisional = slices.DeleteFunc(t.provisional, func(p provisional) bool {
		if p.book == a.Book || !t.finding(&Attempt{Proxy: p.proxy, At: a.At}).TargetFails {
			return false
		}
		withdrawn = append(withdrawn, p)
		return true
	})
	return withdrawn
}

// addProvisional adds a provisional failure, which can still be withdrawn. The caller holds mu.
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
		t.provisional = append(t.provisional, provisional{a.Book, a.Proxy, 1, a.At})
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

// TakeWithdrawn returns the number of withdrawn failures, and sets this number to 0. The caller removes that many
// failures from the statistics of the proxy.
func (b *Book) TakeWithdrawn() int {
	if b.withdrawn.Load() == 0 {
		return 0
	}
	return int(b.withdrawn.Swap(0))
}

// ReturnWithdrawn adds n to the result of the next call of TakeWithdrawn. The parameter n is the number of failures
// that the caller could not remove, because they are not in the statistics yet.
func (b *Book) ReturnWithdrawn(n int) { b.withdrawn.Add(int32(n)) }
