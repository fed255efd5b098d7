package upstream

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// An exploration is an attempt through a proxy that has had no attempt for some time. Without explorations, a proxy
// that a scorer avoids would be avoided for ever. If the exploration is better than the attempts in the proxy's window,
// a trial begins: explorations every second, until a failure, or until enough successes replace the window.
// docs/decisions/explorations.md has the rules.

// The times of explorations.
const (
	explorationWait    = 30 * time.Second // time without a selection until an exploration
	maxExplorationWait = 10 * time.Minute // the same, if breaker.blame is "literal" and the proxy keeps failing
	trialInterval      = time.Second      // time between the explorations of a trial
)

// trialSuccesses is the number of successes in a row that end a trial.
const trialSuccesses = 4

// sweepProxies is the number of proxies that one sweep visits. Ten sweeps a second visit 100,000 proxies within 10 s.
const sweepProxies = 1000

// maxDueExplorations is the maximum length of the list that Pool.DueExplorations returns.
const maxDueExplorations = 64

// trial holds the number of successes that are still required to end a trial; 0 if there is no trial. The number is
// negative while an exploration is in flight.
type trial struct{ remaining atomic.Int32 }

// begin sets the count for a new trial, unless the proxy is in a trial already.
func (t *trial) begin() { t.remaining.CompareAndSwap(0, trialSuccesses) }

func (t *trial) beginExploration() {
	if !t.remaining.CompareAndSwap(0, -trialSuccesses) {
		if left := t.remaining.Load(); left > 0 {
			t.remaining.CompareAndSwap(left, -left)
		}
	}
}

// isOn reports whether there is a trial.
func (t *trial) isOn() bool { return t.remaining.Load() != 0 }

func (t *trial) endExcluded() {
	if left := t.remaining.Load(); left < 0 {
		t.remaining.CompareAndSwap(left, -left)
	}
}

// countAttempt counts an attempt during a trial. The caller passes whether the window is worse than the attempt
// (window.worseThan), and holds the window's mu. The result is true if the attempt was the last success that the trial
// required.
func (t *trial) countAttempt(v core.Verdict, worse bool) (passed bool) {
	left := t.remaining.Load()
	switch left = max(left, -left) - 1; {
	case left < 0:
		return false
	case v != core.Success || !worse:
		left = 0 // the proxy still fails, or the window is as good as the attempt
	default:
		passed = left == 0
	}
	t.remaining.Store(left)
	return passed
}

// ExplorationDue reports whether an exploration of the proxy is due at the given time, and since when it is due. Both
// times are durations since the pool's epoch (Pool.Elapsed).
func (u *Upstream) ExplorationDue(at time.Duration) (dueSince time.Duration, due bool) {
	if !u.ClosedAndNotFull() || u.IsUnreached() {
		return 0, false
	}
	last := max(time.Duration(u.lastAcquire.Load()), u.added)
	if u.flags.has(hasLearnt) { // another gateway has just tried it
		last = max(last, time.Duration(u.ensureAttemptFields().learntAt.Load()))
	}
	wait := explorationWait
	if u.pool.literal.Load() {
		wait = min(max((last-time.Duration(u.window.lastSuccess.Load()))/10, explorationWait), maxExplorationWait)
	}
	if u.window.trial.remaining.Load() > 0 {
		wait = trialInterval
	}
	return last + wait, at > last+wait
}

// OnTrial reports whether the proxy is in a trial.
func (u *Upstream) OnTrial() bool { return u.window.trial.isOn() }

// CountExploration makes the attempt that Acquire has just begun count as an exploration.
func (u *Upstream) CountExploration() { u.window.trial.beginExploration() }

// dueExploration is a proxy whose exploration is due, and the time at which it became due.
type dueExploration struct {
	u     *Upstream
	since time.Duration
}

// DueExplorations returns the proxies whose exploration was due at the last Sweep, in the order in which the
// explorations became due. The caller must check with ExplorationDue whether the exploration is still due.
func (p *Pool) DueExplorations() []*Upstream {
	if list := p.dueExplorations.Load(); list != nil {
		return *list
	}
	return nil
}

// sweepWindows removes old attempts and withdrawn failures from the windows of the next sweepProxies proxies, and
// finds those proxies whose exploration is due.
func (p *Pool) sweepWindows() {
	p.sweepMu.Lock()
	defer p.sweepMu.Unlock()
	all, at, memory := p.Snapshot().All, p.Elapsed(p.now()), time.Duration(p.memory.Load())
	found := p.dueBuffer[:0]
	check := func(u *Upstream) {
		if since, due := u.ExplorationDue(at); due {
			found = append(found, dueExploration{u, since})
		}
	}
	for range min(len(all), sweepProxies) {
		if p.sweepIndex >= len(all) {
			p.sweepIndex = 0
			store(&p.tail, p.sweepMaxTail)
			p.sweepMaxTail = 0
		}
		u := all[p.sweepIndex]
		p.sweepIndex++
		u.removeWithdrawn()
		u.takeWithdrawn() // the other withdrawn failures are no longer in the window
		u.window.dropExpired(&u.stats, at, memory)
		u.forgetLearnt(at)
		p.sweepMaxTail = max(p.sweepMaxTail, u.window.responseTail())
		check(u)
	}
	if len(all) > sweepProxies {
		for _, u := range p.DueExplorations() {
			check(u)
		}
	}
	p.dueBuffer = found
	if len(found) == 0 {
		p.dueExplorations.Store(nil)
		return
	}
	slices.SortStableFunc(found, func(a, b dueExploration) int { return cmp.Compare(a.since, b.since) })
	found = slices.CompactFunc(found, func(a, b dueExploration) bool { return a.u == b.u })
	list := make([]*Upstream, min(len(found), maxDueExplorations))
	for i := range list {
		list[i] = found[i].u
	}
	clear(p.dueBuffer)
	p.dueExplorations.Store(&list)
}
