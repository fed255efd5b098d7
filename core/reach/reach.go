// Package reach makes reachability checks, in addition to the traffic. A check opens a connection to a proxy,
// with the greeting of its protocol, and closes the connection. It sends no request.
//
//   - A new proxy is checked immediately. While its checks fail it is chosen last, and each failed check counts as a
//     failure for its circuit breaker, so that clients waste no attempts on a list of dead proxies.
//   - If a breaker has opened because its proxy could not be reached, the proxy is checked again while the breaker
//     is open. The wait between two checks is a tenth of the time since the breaker opened (checkWait), and
//     longer if thousands of proxies are dead (minWait). A check that passes makes the breaker half-open, and the
//     next request is its probe. A check that fails keeps the breaker open.
package reach

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// The times of checks.
const (
	tick           = 100 * time.Millisecond
	firstWait      = 250 * time.Millisecond // wait after the first failed check
	maxWait        = 30 * time.Second       // maximum time between two checks
	localErrorWait = time.Second            // wait after a check that failed for lack of a descriptor or port
	maxRate        = 4000                   // checks a second of proxies with open breakers
)

// DefaultParallel is the default maximum number of simultaneous checks.
const DefaultParallel = 256

// Config has the dependencies of a Checker.
type Config struct {
	Pool *upstream.Pool
	// Reach opens a connection to the proxy and closes it. It returns nil if the proxy can be reached.
	Reach    func(context.Context, *upstream.Upstream) *verdict.Error
	Now      func() time.Time
	Parallel int // maximum number of simultaneous checks, at least 1
}

// Checker checks the proxies of one pool.
type Checker struct {
	cfg Config

	enabled atomic.Bool

	mu         sync.Mutex         // guards the fields below
	snapshot   *upstream.Snapshot // the snapshot of the last call of queueNewProxies; nil before
	newProxies []newProxy         // proxies whose first check has not begun, in the order of their checks
	// failingSinceByProxy holds, for each proxy, the first time that its breaker opened after the proxy had last served
	// a request. The time stays when the breaker becomes half-open or opens again.
	failingSinceByProxy map[*upstream.Upstream]time.Duration
	queue               queue
	running             int

	firstPending int           // proxies whose first check has not ended
	firstEnded   chan struct{} // closed when firstPending is 0
	ended        chan struct{} // receives a value when a check ends while Parallel checks are running
}

// New returns a checker that is off.
func New(cfg Config) *Checker {
	return &Checker{
		cfg: cfg, failingSinceByProxy: map[*upstream.Upstream]time.Duration{},
		firstEnded: make(chan struct{}), ended: make(chan struct{}, 1),
	}
}

// SetEnabled turns the checks on or off. Checks in progress are completed.
func (c *Checker) SetEnabled(on bool) { c.enabled.Store(on) }

// check is a planned check of a proxy. It takes only 32 bytes, because there may be a check for most proxies of a long
// list. The times in check, newProxy and Checker count from the pool's epoch (Pool.Elapsed).
type check struct {
	u            *upstream.Upstream
	at           time.Duration
	failingSince time.Duration // time of the proxy's first check, or time at which its breaker opened
	failedChecks int32         // number of checks in a row that have failed
	isFirst      bool          // no check of the proxy has ended yet
}

// newProxy is a proxy whose first check is planned. A long list has many of them, so a newProxy takes less memory than
// a check.
type newProxy struct {
	u  *upstream.Upstream
	at time.Duration
}

// AwaitFirst waits until the first check of every proxy has ended, the time limit has passed or ctx ends. If the checks
// are off, it returns immediately. Run must be running.
func (c *Checker) AwaitFirst(ctx context.Context, limit time.Duration) {
	if !c.enabled.Load() {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.firstEnded:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// signalFirstEnded closes firstEnded if every first check has ended. The caller holds mu.
func (c *Checker) signalFirstEnded() {
	if c.firstPending > 0 {
		return
	}
	select {
	case <-c.firstEnded:
	default:
		close(c.firstEnded)
	}
}

// Run checks proxies until ctx ends, and returns when the checks in progress have ended.
func (c *Checker) Run(ctx context.Context) {
	var checks sync.WaitGroup
	defer checks.Wait()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	due := c.takeDue()
	for {
		for _, k := range due {
			checks.Go(func() { c.runCheck(ctx, k) })
		}
		select {
		case <-ticker.C:
			due = c.takeDue()
		case <-c.ended: // the ticker would be too slow for a long list with few parallel checks
			due = c.takeDueInQueue()
		case <-ctx.Done():
			return
		}
	}
}

// takeDue queues a check for each proxy that needs one. Then it removes the checks that are due from the queue, and
// returns them.
func (c *Checker) takeDue() (list []*check) {
	if !c.enabled.Load() {
		c.cfg.Pool.SetNextCheck(0, false)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.queueNewProxies(now)
	for _, u := range c.cfg.Pool.NotClosed() {
		if !u.CheckPlanned() && u.FailedToReach() && u.Breaker().State() == core.Open {
			since := c.failingSince(u, now)
			c.queueCheck(check{u: u, at: now + checkWait(now-since), failingSince: since})
		}
	}
	return c.takeUpToParallel(now)
}

// takeDueInQueue is like takeDue, but does not search for proxies that need a check.
func (c *Checker) takeDueInQueue() []*check {
	if !c.enabled.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.takeUpToParallel(c.now())
}

// now returns the current time (Pool.Elapsed).
func (c *Checker) now() time.Duration { return c.cfg.Pool.Elapsed(c.cfg.Now()) }

// takeUpToParallel removes the checks that are due from the queue, up to the number that Config.Parallel permits, and
// returns them. The caller holds mu.
func (c *Checker) takeUpToParallel(now time.Duration) (list []*check) {
	for c.running < c.cfg.Parallel {
		k := c.popDue(now)
		if k == nil {
			break
		}
		list = append(list, k)
		c.running++
	}
	at, planned := c.nextCheckTime(now)
	c.cfg.Pool.SetNextCheck(at, planned)
	return list
}

// popDue removes the earliest check from newProxies and queue, and returns it. It returns nil if no check is due. The
// caller holds mu.
func (c *Checker) popDue(now time.Duration) *check {
	for len(c.newProxies) > 0 && (len(c.queue) == 0 || c.queue[0].at >= c.newProxies[0].at) {
		u, at := c.newProxies[0].u, c.newProxies[0].at
		if c.newProxies = c.newProxies[1:]; len(c.newProxies) == 0 {
			c.newProxies = nil
		}
		if u.SetCheckPlanned(true) { // the breaker has opened since, and another check is planned
			c.firstPending--
			c.signalFirstEnded()
			continue
		}
		return &check{u: u, at: at, failingSince: at, isFirst: true}
	}
	if len(c.queue) == 0 || c.queue[0].at > now {
		return nil
	}
	next := heap.Pop(&c.queue).(check)
	return &next
}

// nextCheckTime returns the time of the next check; false if there is none. If all checks are in progress, it returns
// the time of the next tick, because a check that has ended may be queued again by then. The caller holds mu.
func (c *Checker) nextCheckTime(now time.Duration) (at time.Duration, planned bool) {
	switch {
	case len(c.newProxies) > 0:
		return c.newProxies[0].at, true
	case len(c.queue) > 0:
		return c.queue[0].at, true
	case c.running > 0:
		return now + tick, true
	}
	return 0, false
}

// failingSince returns the first time that the breaker of u opened after the last success of a request through u. A
// passed check does not count as a success. Therefore a proxy that passes its checks but refuses requests is checked
// (checkWait) and probed less and less often. The caller holds mu.
func (c *Checker) failingSince(u *upstream.Upstream, now time.Duration) time.Duration {
	since, ok := c.failingSinceByProxy[u]
	if !ok || u.ServedSince(since) {
		since = now
		c.failingSinceByProxy[u] = since
	}
	return since
}

// checkWait returns the wait until the next check of a proxy that has been failing for the given time.
func checkWait(failing time.Duration) time.Duration { return min(max(failing/10, firstWait), maxWait) }

// minWait returns the minimum wait between two checks of a proxy. It limits the planned checks to maxRate a second.
// With 100,000 dead proxies it is 25 s. It differs by up to a quarter from proxy to proxy, so that checks that begin at
// the same time spread out later.
func (c *Checker) minWait(u *upstream.Upstream) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := min(time.Duration(len(c.queue))*time.Second/maxRate, maxWait)
	return wait*7/8 + time.Duration(u.Hash()%1024)*(wait/4)/1024
}

// queueNewProxies queues a first check of each proxy that has joined the pool. It leaves out direct:// and proxies that
// have served. The caller holds mu.
func (c *Checker) queueNewProxies(now time.Duration) {
	snap := c.cfg.Pool.Snapshot()
	if snap == c.snapshot {
		return
	}
	c.snapshot = snap
	for u := range c.failingSinceByProxy {
		if snap.Get(u.ID()) != u {
			delete(c.failingSinceByProxy, u)
		}
	}
	for _, u := range snap.All {
		if !u.SetKnown() && !u.Direct() && !u.HasServed() {
			c.newProxies = append(c.newProxies, newProxy{u, now})
			c.firstPending++
		}
	}
	c.signalFirstEnded()
}

// queueCheck queues a check of a proxy that has none in the queue or in progress. The caller holds mu.
func (c *Checker) queueCheck(k check) {
	k.u.SetCheckPlanned(true)
	heap.Push(&c.queue, k)
}

// runCheck makes one check, and queues the next one if applyResult asks for it.
func (c *Checker) runCheck(ctx context.Context, k *check) {
	checkAgain := false
	if c.inPool(k.u) {
		verr := c.cfg.Reach(ctx, k.u)
		checkAgain = ctx.Err() == nil && c.inPool(k.u) && c.applyResult(k, verr)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running--; c.running == c.cfg.Parallel-1 {
		select {
		case c.ended <- struct{}{}:
		default:
		}
	}
	if k.isFirst {
		k.isFirst = false
		c.firstPending--
		c.signalFirstEnded()
	}
	if checkAgain {
		heap.Push(&c.queue, *k)
	} else {
		k.u.SetCheckPlanned(false)
	}
}

// inPool reports whether u has not been removed from the pool.
func (c *Checker) inPool(u *upstream.Upstream) bool { return c.cfg.Pool.Snapshot().Get(u.ID()) == u }

// applyResult applies the result of a check; verr is nil if the check has passed. If another check is needed,
// applyResult sets k.at to its time and returns true.
func (c *Checker) applyResult(k *check, verr *verdict.Error) (checkAgain bool) {
	now := c.now()
	took := now - k.at // includes the wait for Config.Parallel, which is long if many proxies are dead
	switch {
	case verr == nil:
		k.u.SetReached(true)
		k.u.Breaker().MakeHalfOpen(breaker.ReasonReachable)
		return false
	case verr.Cause == verdict.LocalLimit:
		k.at = now + localErrorWait
		return true
	}
	k.failedChecks++
	wait := checkWait(now - k.failingSince)
	k.at = now + wait
	k.u.SetReached(false)
	b := k.u.Breaker()
	if b.State() == core.Closed && k.u.HasServed() {
		return false // no further check: the traffic shows whether the proxy works
	}
	isFirstOpening := b.State() != core.Open
	k.u.CountUnreached(verr.Cause, int(k.failedChecks)) // does nothing at an open breaker
	if b.State() == core.Open {
		minWait := c.minWait(k.u)
		wait = max(wait, minWait)
		k.at = now + wait
		// Postpone keeps the breaker open until the next check has ended. The check may be late if thousands of proxies
		// are dead. If breaker.blame is "literal", a breaker that has just opened stays open for timeout_duration
		// instead.
		if !isFirstOpening || !k.u.Literal() {
			b.Postpone(wait + minWait + took + 5*tick)
		}
	}
	return true
}

// queue is a heap of checks, ordered by time. It has no pointers to checks, because a long list has many of them.
type queue []check

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(check)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = check{}
	*q = old[:len(old)-1]
	return last
}
