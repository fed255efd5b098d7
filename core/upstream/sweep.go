package upstream

import (
	"maps"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// recordTransition updates the set of proxies whose breaker is not closed. If the breaker of a proxy has closed, it
// also prepares the proxy for new traffic.
func (p *Pool) recordTransition(u *Upstream, t core.Transition) {
	defer p.changes.Add(1)
	if t.To == core.Open {
		u.flags.set(openedByCluster, t.Reason == breaker.ReasonCluster)
	}
	if t.To == core.Closed {
		u.window.trial.begin()
		u.slowStart.limit.Store(p.startLimit())
	}
	p.watchMu.Lock()
	defer p.watchMu.Unlock()
	p.nextTestTime.Store(0)
	switch {
	case p.Snapshot().Get(t.ProxyID) != u: // the proxy was removed while an attempt was in flight
	case t.To == core.Closed:
		p.forgetOpen(u)
	default:
		if _, found := p.notClosed[u]; !found {
			p.notClosed[u] = struct{}{}
			p.openList = nil
		}
	}
}

// NextTestTime returns the earliest time at which a breaker that is not closed may admit a probe. It
// returns false if all breakers are closed.
func (p *Pool) NextTestTime() (time.Time, bool) {
	now := p.now()
	if in := time.Duration(p.nextTestTime.Load()) - p.Elapsed(now); in > 0 {
		return now.Add(in), true
	}
	earliest, found := time.Time{}, false
	notClosed := p.NotClosed()
	for _, u := range notClosed {
		if u.State() == core.HalfOpen { // the probe may be in flight
			earliest, found = now, true
			break
		}
		v := u.breaker.Snapshot()
		if v.State == core.Open && (!found || v.NextTest.Before(earliest)) {
			earliest, found = v.NextTest, true
		}
	}
	if found && p.closedShare(notClosed) == noneClosed && now.Add(earlyMax).Before(earliest) {
		earliest = now.Add(earlyMax)
	}
	if found {
		p.nextTestTime.Store(int64(p.Elapsed(earliest)))
	}
	return earliest, found
}

// SetNextCheck sets the time at which the next reachability check begins (Pool.Elapsed). The parameter planned is
// false if no check is planned.
func (p *Pool) SetNextCheck(at time.Duration, planned bool) {
	next := time.Duration(0)
	if planned {
		next = max(at, 1)
	}
	p.nextCheck.Store(int64(next))
}

// NextCheck returns the time at which the next reachability check begins. It returns false if none
// is planned.
func (p *Pool) NextCheck() (time.Time, bool) {
	next := time.Duration(p.nextCheck.Load())
	if next == 0 {
		return time.Time{}, false
	}
	now := p.now()
	return now.Add(next - p.Elapsed(now)), true
}

// OverdueProbes returns the proxies whose breaker is overdue (Breaker.ProbeOverdue), as of the last Sweep.
func (p *Pool) OverdueProbes() []*Upstream {
	if list := p.overdueProbes.Load(); list != nil {
		return *list
	}
	return nil
}

// forgetOpen removes a proxy from notClosed. The caller holds watchMu.
func (p *Pool) forgetOpen(u *Upstream) {
	delete(p.notClosed, u)
	p.openList = nil
}

// NotClosed returns the proxies whose breaker is open or half-open. The caller must not change the list.
func (p *Pool) NotClosed() []*Upstream {
	p.watchMu.Lock()
	defer p.watchMu.Unlock()
	if p.openList == nil && len(p.notClosed) > 0 {
		p.openList = slices.AppendSeq(make([]*Upstream, 0, len(p.notClosed)), maps.Keys(p.notClosed))
	}
	return p.openList
}

// countOthers returns the number of proxies other than u with a closed breaker.
func (p *Pool) countOthers(u *Upstream) int {
	p.watchMu.Lock()
	defer p.watchMu.Unlock()
	open := len(p.notClosed)
	if _, itself := p.notClosed[u]; itself {
		open--
	}
	return max(len(p.Snapshot().All)-1-open, 0)
}

// breakersPerSweep is the maximum number of breakers that a sweep reads on average. If more breakers are not closed, as
// in a long list of dead proxies, a sweep reads all of them or none.
const breakersPerSweep = 10_000

// sweepNotClosed begins early probes and finds the breakers that are overdue.
func (p *Pool) sweepNotClosed() {
	notClosed := p.NotClosed()
	p.skippedSweeps++
	if p.skippedSweeps*breakersPerSweep < len(notClosed) {
		return
	}
	p.skippedSweeps = 0
	p.sweepEarly(notClosed)
	var overdue []*Upstream
	for _, u := range notClosed {
		if u.breaker.ProbeOverdue() {
			overdue = append(overdue, u)
		}
	}
	p.overdueProbes.Store(&overdue)
}

// Sweep makes the changes that depend on time: it makes due breakers half-open, opens breakers whose evidence has
// become enough without a new attempt, removes old attempts from the statistics, and removes drained proxies. The
// caller calls it ten times a second.
func (p *Pool) Sweep() {
	p.sweepWindows()
	p.reconsiderPending()
	p.sweepNotClosed()
	if p.regionsChanged.Load() {
		p.mu.Lock()
		p.updateRegionGroups()
		p.mu.Unlock()
	}
	if p.pendingRemovals.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drainingProxies = slices.DeleteFunc(p.drainingProxies, func(u *Upstream) bool {
		if u.InFlight() > 0 {
			return false
		}
		p.pendingRemovals.Add(-1)
		if p.onRemove != nil {
			p.onRemove(u)
		}
		return true
	})
	drained := func(u *Upstream) bool { return u.Draining() && u.InFlight() == 0 }
	if slices.ContainsFunc(p.Snapshot().All, drained) {
		p.removeMatching(drained)
	}
}
