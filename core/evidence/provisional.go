package evidence

import (
	"slices"
	"time"
)

// maxProvisional is the largest number of proxies with provisional failures at one target.
const maxProvisional = 8

// provisionalFailures has the failures of one proxy at a target that can still be removed from the proxy's statistics.
// They are removed if the other proxies fail at the target, too (Finding.TargetFails). They are final after a minute,
// or when an attempt at the target succeeds.
type provisionalFailures struct {
	book     *Book
	proxy    uint64 // hash
	failures int32
	latest   time.Duration // end of the latest provisional failure
}

// provisionalTime is the time after which a failure is final.
const provisionalTime = time.Minute

// updateProvisional updates the provisional failures of the target after the failure a with the conclusion f.
func (t *target) updateProvisional(a *Attempt, f Finding) {
	t.mu.Lock()
	var withdrawn []provisionalFailures
	switch {
	case f.TargetFails:
		withdrawn, t.provisional = t.provisional, nil
	case f.Banned: // the failures of this proxy are final
		t.provisional = slices.DeleteFunc(t.provisional, func(p provisionalFailures) bool { return p.book == a.Book })
	case !f.BlamesTarget() && !a.NotInStats: // the proxy may be the cause
		t.addProvisional(a)
	default:
		withdrawn = t.withdrawCompared(a)
	}
	t.hasProvisional.Store(len(t.provisional) > 0)
	t.mu.Unlock()
	for _, p := range withdrawn {
		if a.Ended-p.latest > provisionalTime {
			continue
		}
		p.book.withdrawn.Add(p.failures)
		if p.book.OnWithdrawn != nil {
			p.book.OnWithdrawn()
		}
	}
}

// withdrawCompared checks, for each proxy with provisional failures at the target, whether the other proxies fail
// there, too. If they do, it removes and returns the proxy's provisional failures. It leaves out the proxy of the
// attempt a. The caller holds the target's mutex mu.
func (t *target) withdrawCompared(a *Attempt) (withdrawn []provisionalFailures) {
	t.provisional = slices.DeleteFunc(t.provisional, func(p provisionalFailures) bool {
		if p.book == a.Book || !t.finding(&Attempt{Proxy: p.proxy, Ended: a.Ended}).TargetFails {
			return false
		}
		withdrawn = append(withdrawn, p)
		return true
	})
	return withdrawn
}

// addProvisional adds a provisional failure. The caller holds mu.
func (t *target) addProvisional(a *Attempt) {
	for i := range t.provisional {
		if p := &t.provisional[i]; p.book == a.Book {
			if a.Ended-p.latest > provisionalTime {
				p.failures = 0
			}
			p.failures++
			p.latest = a.Ended
			return
		}
	}
	if len(t.provisional) < maxProvisional {
		t.provisional = append(t.provisional, provisionalFailures{a.Book, a.Proxy, 1, a.Ended})
	}
}

// finalizeProvisional makes the provisional failures final.
func (t *target) finalizeProvisional() {
	if t.hasProvisional.Load() {
		t.mu.Lock()
		t.provisional = nil
		t.hasProvisional.Store(false)
		t.mu.Unlock()
	}
}

// TakeWithdrawn returns the number of failures that the caller has to remove from the proxy's statistics. It returns
// each failure once.
func (b *Book) TakeWithdrawn() int {
	if b.withdrawn.Load() == 0 {
		return 0
	}
	return int(b.withdrawn.Swap(0))
}

// ReturnWithdrawn gives back n failures to TakeWithdrawn, because they are not in the statistics yet.
func (b *Book) ReturnWithdrawn(n int) { b.withdrawn.Add(int32(n)) }
