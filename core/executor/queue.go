package executor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// placeNeeds describes which proxies a request can use. Two requests with equal values can use the same proxies.
type placeNeeds struct {
	region   float64       // the region if the request is limited to it; otherwise 0
	regions  *core.Regions // the regions that the request is limited to; nil for all
	tag      float64       // the tag if the request is limited to it; otherwise 0
	host     float64       // the target's host if proxies are banned for it, or have limits for it; otherwise 0
	need     ability.Need
	exchange *Exchange // the exchange if it has a session, or has tried proxies that it must not retry; otherwise nil
}

// placeWaiter waits for a place in flight.
type placeWaiter struct {
	queue.Waiter[placeNeeds]
	scorer   core.Scorer
	lease    upstream.Lease     // the lease that takePlace has acquired
	leasedAt time.Time          // when takePlace acquired the lease
	err      error              // the error if takePlace failed
	limitErr *core.LimitedError // the last error of takePlace if it was a LimitedError; otherwise nil
}

// busyError returns the reason why the request has no place.
func (w *placeWaiter) busyError() error {
	if w.limitErr != nil {
		return w.limitErr
	}
	return core.ErrAllBusy
}

// acquireLease chooses a proxy and sets ex.lease. If all proxies are busy, the request waits in the queue. acquireLease
// returns the time at which it has acquired the lease. If there is no proxy, it sets the refusal and returns false.
func (ex *Exchange) acquireLease(
	ctx context.Context, scorer core.Scorer, now time.Time,
) (startTime time.Time, ok bool) {
	places, queueEnabled := ex.executor.places, ex.tuning.Queue.Enabled()
	if !queueEnabled || places.Empty() {
		var err error
		if ex.lease, err = ex.executor.selector.Select(&ex.query, scorer, now); err == nil {
			return now, true
		}
		if !core.IsBusy(err) || !queueEnabled || ex.exceedsMaxWait(err) {
			ex.refuseNoProxy(err)
			return now, false
		}
	}
	w, q := &ex.placeWait, &ex.query
	w.Kind = placeNeeds{need: q.Need, regions: q.Regions}
	if ex.dependsOnHost() {
		w.Kind.host = q.HostHash
	}
	if q.RegionMode == selector.RegionStrict {
		w.Kind.region = q.RegionHash
	}
	if !q.TagPreferred {
		w.Kind.tag = q.Tag
	}
	for i := range q.Tried {
		if q.Tried[i].Barred {
			w.Kind.exchange = ex
		}
	}
	if q.Session != nil {
		w.Kind.exchange = ex
	}
	if w.TryTake == nil {
		w.TryTake = ex.takePlace
	}
	w.scorer, w.lease, w.err, w.limitErr = scorer, upstream.Lease{}, nil, nil
	err := waitInQueue(ctx, ex, places, &w.Waiter)
	if err == nil {
		err = w.err
	}
	switch {
	case ctx.Err() != nil:
		w.lease.Release()
		ex.refuseCancelled(context.Cause(ctx))
	case errors.Is(err, queue.ErrExpired):
		ex.refuseNoProxy(fmt.Errorf("%w, and no place has become free in the time that the request may wait",
			w.busyError()))
	case errors.Is(err, queue.ErrFull):
		ex.refuseNoProxy(fmt.Errorf("%w, and the queue of the requests that wait is full", w.busyError()))
	case err != nil:
		ex.refuseNoProxy(err)
	default:
		ex.lease = w.lease
		return w.leasedAt, true
	}
	return now, false
}

// takePlace chooses a proxy for a request in the queue and takes its lease.
func (ex *Exchange) takePlace() queue.Result {
	w := &ex.placeWait
	w.leasedAt = ex.executor.now()
	w.lease, w.err = ex.executor.selector.Select(&ex.query, w.scorer, w.leasedAt)
	if w.err == nil {
		return queue.Taken
	}
	if !core.IsBusy(w.err) || ex.exceedsMaxWait(w.err) {
		return queue.Failed
	}
	if w.limitErr, _ = w.err.(*core.LimitedError); w.limitErr != nil && w.limitErr.TimeLeft > 0 {
		ex.executor.limitTimer.serveAt(w.leasedAt.Add(w.limitErr.TimeLeft), w.leasedAt)
	}
	w.err = nil
	return queue.Nothing
}

// exceedsMaxWait reports whether err means that each proxy is at a limit for longer than the request may wait.
func (ex *Exchange) exceedsMaxWait(err error) bool {
	limited, ok := err.(*core.LimitedError)
	return ok && !limited.WaitsForAttempt && limited.TimeLeft > ex.tuning.Queue.MaxWait
}

// dependsOnHost reports whether the proxies that the request may use depend on the host of its target.
func (ex *Exchange) dependsOnHost() bool {
	t, q := ex.tuning, &ex.query
	return t.HostBans != nil && len(t.HostBans.BansOf(uint64(q.HostHash))) > 0 ||
		t.HasHostLimits != nil &&
			t.HasHostLimits(q.Host)
}

// limitTimer serves the requests in the queue at the times at which the limits of proxies admit another attempt.
type limitTimer struct {
	serveQueue func()

	mu       sync.Mutex // guards the fields below
	timer    *time.Timer
	fireTime time.Time // when the timer fires; zero if the timer is not set
}

// serveAt makes the timer serve the requests in the queue at the given time, or earlier if the timer is set to an
// earlier time. A request that the timer serves too early calls serveAt again.
func (t *limitTimer) serveAt(at, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.timer == nil:
		t.timer = time.AfterFunc(at.Sub(now), t.fire)
	case t.fireTime.IsZero() || at.Before(t.fireTime):
		t.timer.Reset(at.Sub(now))
	default:
		return
	}
	t.fireTime = at
}

func (t *limitTimer) fire() {
	t.mu.Lock()
	t.fireTime = time.Time{}
	t.mu.Unlock()
	t.serveQueue()
}

// withdrawRetry takes a retry from the retry budget. If the budget is spent, the request waits in the queue. If the
// budget is still spent after this wait, or if ctx has ended, withdrawRetry returns false.
func (ex *Exchange) withdrawRetry(ctx context.Context) (waited time.Duration, ok bool) {
	budget, retries, queueEnabled := ex.tuning.Budget, ex.executor.retries, ex.tuning.Queue.Enabled()
	if budget == nil {
		return 0, true
	}
	if (!queueEnabled || retries.Empty()) && budget.TryWithdraw(ex.event.Ended) {
		return 0, true
	}
	if !queueEnabled {
		return 0, false
	}
	w := &ex.retryWait
	w.Kind = budget
	if w.TryTake == nil {
		w.TryTake = ex.takeRetry
	}
	waitStart := ex.executor.now()
	err := waitInQueue(ctx, ex, retries, w)
	return ex.executor.now().Sub(waitStart), err == nil && ctx.Err() == nil
}

// takeRetry takes a retry from the retry budget for a request in the queue.
func (ex *Exchange) takeRetry() queue.Result {
	if ex.retryWait.Kind.TryWithdraw(ex.executor.now()) {
		return queue.Taken
	}
	return queue.Nothing
}

// waitInQueue waits in q until a proxy admits another attempt in flight, or until the retry budget has a retry. If one
// of them is the case already, waitInQueue returns at once. The error is queue.ErrExpired, queue.ErrFull, or the cause
// of the cancellation of ctx.
func waitInQueue[K comparable](ctx context.Context, ex *Exchange, q *queue.Queue[K], w *queue.Waiter[K]) error {
	limits, request, waitStart := ex.tuning.Queue, ex.request, ex.executor.now()
	w.Priority = request.Priority.AtMost(core.AnyPriority)
	waits, err := q.Enter(w, limits.MaxWaiting)
	if !waits {
		return err
	}
	maxWait := limits.MaxWait
	if !ex.deadline.IsZero() {
		maxWait = min(maxWait, ex.deadline.Sub(waitStart))
	}
	if request.BeforeWait != nil {
		request.BeforeWait()
	}
	if request.Progress == nil {
		return q.Wait(ctx, w, maxWait)
	}
	request.Progress.BeginQueueWait(w.Priority, waitStart)
	err = q.Wait(ctx, w, maxWait)
	request.Progress.EndQueueWait(ex.executor.now())
	return err
}

// PlaceFreed is called when an attempt in flight has ended, so that its proxy admits another one (max_in_flight).
// PlaceFreed serves one request of the queue. If the queue is empty, this costs one atomic load.
func (e *Executor) PlaceFreed() { e.places.ServeOne() }

// ServeQueues lets each waiting request continue if a proxy admits another attempt in flight, or if the retry budget
// has a retry. It is called regularly, because limits and the retry budget admit more as time passes. It is also called
// after changes of the pool or of a breaker.
func (e *Executor) ServeQueues() {
	e.places.Serve()
	e.retries.Serve()
}

// Queues returns the counts of both queues. In the queue places, requests wait for a place in flight at a proxy. In the
// queue retries, they wait for a retry of the retry budget.
func (e *Executor) Queues() (places, retries map[core.Priority]queue.Counts) {
	return e.places.Counts(), e.retries.Counts()
}
