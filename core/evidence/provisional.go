package evidence

// A proxy can fail at a target before anything shows that the target is the cause. That failure would count
// in the statistics of the proxy, although later failures of other proxies at the target do not. Such a
// failure is therefore provisional: it is withdrawn when the target fails for the other proxies too, and
// becomes final with the target's next success.

// maxProvisional is the largest number of proxies with provisional failures at one target. The failures of
// further proxies are final at once.
const maxProvisional = 8

// provisional holds the provisional failures of one proxy at a target.
type provisional struct {
	book     *Book
	failures int32
}

// updateProvisional adds a failure to the provisional ones. If the finding is that the proxies are not the
// cause, it withdraws them all.
func (t *target) updateProvisional(b *Book, f Finding) {
	t.mu.Lock()
	var withdrawn []provisional
	if f.NotByProxy() {
		withdrawn, t.provisional = t.provisional, nil
	} else {
		t.addProvisional(b)
	}
	t.hasProvisional.Store(len(t.provisional) > 0)
	t.mu.Unlock()
	for _, p := range withdrawn {
		p.book.withdrawn.Add(p.failures)
		if p.book.OnWithdrawn != nil {
			p.book.OnWithdrawn()
		}
	}
}

// addProvisional adds a provisional failure. The caller holds mu.
func (t *target) addProvisional(b *Book) {
	for i := range t.provisional {
		if p := &t.provisional[i]; p.book == b {
			p.failures++
			return
		}
	}
	if len(t.provisional) < maxProvisional {
		t.provisional = append(t.provisional, provisional{b, 1})
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

// ReturnWithdrawn adds n to the result of the next TakeWithdrawn. The caller could not withdraw n failures,
// because they are not in the statistics yet.
func (b *Book) ReturnWithdrawn(n int) { b.withdrawn.Add(int32(n)) }
