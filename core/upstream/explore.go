package upstream

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// A scorer that has seen a proxy fail chooses it no more, and so never learns
// that it is well again. Therefore a proxy with a closed breaker that no choice
// has reached for 30 s is chosen once, whatever its score: an exploration. If that
// succeeds although the proxy's window has failures in it (or says that the
// proxy is more than twice as slow), the proxy is on trial: while no choice
// reaches it, it is explored once a second. After four successes the window
// begins anew with them, so that every scorer sees what the proxy is now. The
// first failure ends a trial, and nothing is forgotten. A breaker that closes
// puts its proxy on trial as well. A proxy that keeps failing is explored after
// a tenth of the time it has been failing: at least 30 s, at most 10 minutes.

// The times of explorations.
const (
	idleAfter   = 30 * time.Second // without a choice
	idleLongest = 10 * time.Minute // for a proxy that keeps failing
	trialEvery  = time.Second      // of a proxy on trial
)

// trialSuccesses in a row end a trial.
const trialSuccesses = 4

// sweepRows bounds the proxies that one sweep looks at: time takes effect on a
// pool of 100,000 within 10 s.
const sweepRows = 1000

// maxIdle bounds the proxies that are known to wait for an exploration.
const maxIdle = 64

// trial is how many successes are still to come until what was before them is
// forgotten: 0 if there is no trial, negative while an exploration runs.
type trial struct{ left atomic.Int32 }

// begin puts the proxy on trial, if it is not.
func (t *trial) begin() { t.left.CompareAndSwap(0, trialSuccesses) }

// asked tells that an exploration has begun.
func (t *trial) asked() {
	left := t.left.Load()
	if left == 0 {
		left = trialSuccesses
	}
	t.left.Store(min(left, -left))
}

// heard takes the verdict of an attempt during a trial, and whether the window
// doubts it. It reports whether the trial has ended well. Requires the window's mu.
func (t *trial) heard(v core.Verdict, doubts bool) (passed bool) {
	left := t.left.Load()
	switch left = max(left, -left) - 1; {
	case left < 0:
		return false
	case v != core.Success || !doubts:
		left = 0 // it fails still, or there is nothing to forget
	default:
		passed = left == 0
	}
	t.left.Store(left)
	return passed
}

// Unexplored reports whether the proxy is to be explored at a moment
// (Pool.Elapsed), and since when.
func (u *Upstream) Unexplored(at time.Duration) (since time.Duration, yes bool) {
	if !u.Free() || u.Unreached() {
		return 0, false
	}
	last := max(time.Duration(u.lastUse.Load()), u.added)
	wait := min(max((last-time.Duration(u.window.lastSuccess.Load()))/10, idleAfter), idleLongest)
	if u.window.trial.left.Load() > 0 {
		wait = trialEvery
	}
	return last + wait, at > last+wait
}

// OnTrial reports whether the proxy is being found to be well again.
func (u *Upstream) OnTrial() bool { return u.window.trial.left.Load() != 0 }

// Explore is Acquire for an exploration.
func (u *Upstream) Explore(now time.Time) (Lease, bool) {
	lease, ok := u.Acquire(now)
	if ok {
		u.window.trial.asked()
	}
	return lease, ok
}

// waiting is a proxy that is to be explored, and since when.
type waiting struct {
	u     *Upstream
	since time.Duration
}

// Idle returns proxies that are to be explored, the one that has waited longest
// first. They are found by Sweep; Unexplored says whether they still are.
func (p *Pool) Idle() []*Upstream {
	if list := p.idle.Load(); list != nil {
		return *list
	}
	return nil
}

// sweepWindows lets time take effect on the windows of some proxies, the next in
// turn, and finds those among them that are to be explored.
func (p *Pool) sweepWindows() {
	p.sweepMu.Lock()
	defer p.sweepMu.Unlock()
	all, at, memory := p.Snapshot().All, p.Elapsed(p.now()), time.Duration(p.memory.Load())
	found := p.waiting[:0]
	look := func(u *Upstream) {
		if since, yes := u.Unexplored(at); yes {
			found = append(found, waiting{u, since})
		}
	}
	for range min(len(all), sweepRows) {
		if p.swept >= len(all) {
			p.swept = 0
			store(&p.tail, p.sweptTail)
			p.sweptTail = 0
		}
		u := all[p.swept]
		p.swept++
		u.window.age(&u.stats, at, memory)
		p.sweptTail = max(p.sweptTail, load(&u.window.tail))
		look(u)
	}
	if len(all) > sweepRows {
		for _, u := range p.Idle() {
			look(u)
		}
	}
	p.waiting = found
	if len(found) == 0 {
		p.idle.Store(nil)
		return
	}
	slices.SortStableFunc(found, func(a, b waiting) int { return cmp.Compare(a.since, b.since) })
	found = slices.CompactFunc(found, func(a, b waiting) bool { return a.u == b.u })
	list := make([]*Upstream, min(len(found), maxIdle))
	for i := range list {
		list[i] = found[i].u
	}
	clear(p.waiting)
	p.idle.Store(&list)
}
