package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// place is the kind of a request that waits for a place in flight. Requests of the same kind can use the same
// proxies.
type place struct {
	region  float64       // the region if the request is limited to it; otherwise 0
	regions *core.Regions // the regions that the request is limited to; nil for all
	host    float64       // the target's host if proxies rest for it; otherwise 0
	need    ability.Need
	own     *Exchange // the exchange itself if it has a session, or must not use proxies it has tried; otherwise nil
}

// placeWaiter waits for a place in flight.
type placeWaiter struct {
	queue.Waiter[place]
	scorer core.Scorer
	lease  upstream.Lease // the lease that take has acquired
	at     time.Time      // when take acquired it
	err    error          // the error if take failed
}

// acquire chooses a proxy for an attempt and takes its lease. If every proxy whose breaker admits an attempt
// has reached max_in_flight, the request waits in the queue. begins is the beginning of the attempt: now, or
// the end of the wait. If acquire finds no proxy, it sets the refusal and returns false.
func (x *Exchange) acquire(
	ctx context.Context, scorer core.Scorer, now time.Time,
) (lease upstream.Lease, begins time.Time, ok bool) {
	places, waits := x.executor.places, x.tuning.Queue.Enabled()
	if !waits || places.Empty() {
		lease, err := x.executor.selector.Select(&x.query, scorer, now)
		if err == nil {
			return lease, now, true
		}
		if err != core.ErrAllBusy || !waits {
			x.refuse(err)
			return lease, now, false
		}
	}
	w, q := &x.forPlace, &x.query
	w.Kind = place{need: q.Need, regions: q.Regions}
	if rests := x.tuning.Rests; rests != nil && len(rests.Of(uint64(q.HostHash))) > 0 {
		w.Kind.host = q.HostHash
	}
	if q.Region == selector.RegionStrict {
		w.Kind.region = q.RegionHash
	}
	for i := range q.Tried {
		if q.Tried[i].Barred {
			w.Kind.own = x
		}
	}
	if q.Session != nil {
		w.Kind.own = x
	}
	if w.Take == nil {
		w.Take = x.takePlace
	}
	w.scorer, w.lease, w.err = scorer, upstream.Lease{}, nil
	err := await(ctx, x, places, &w.Waiter)
	if err == nil {
		err = w.err
	}
	switch {
	case ctx.Err() != nil:
		w.lease.Release()
		x.stopped(context.Cause(ctx))
	case errors.Is(err, queue.ErrExpired):
		x.refuse(fmt.Errorf("%w, and no place has become free in the time that the request may wait", core.ErrAllBusy))
	case errors.Is(err, queue.ErrFull):
		x.refuse(fmt.Errorf("%w, and the queue of the requests that wait is full", core.ErrAllBusy))
	case err != nil:
		x.refuse(err)
	default:
		return w.lease, w.at, true
	}
	return lease, now, false
}

// takePlace chooses a proxy for a request in the queue and takes its lease.
func (x *Exchange) takePlace() queue.Result {
	w := &x.forPlace
	w.at = x.executor.now()
	switch w.lease, w.err = x.executor.selector.Select(&x.query, w.scorer, w.at); w.err {
	case nil:
		return queue.Taken
	case core.ErrAllBusy:
		w.err = nil
		return queue.Nothing
	}
	return queue.Failed
}

// withdraw takes a retry from the retry budget. If the budget is spent, the request waits in the queue;
// waited is the time of this wait. withdraw returns false if the budget is still spent at the end, or if ctx
// has ended.
func (x *Exchange) withdraw(ctx context.Context) (waited time.Duration, ok bool) {
	budget, retries, waits := x.tuning.Budget, x.executor.retries, x.tuning.Queue.Enabled()
	if budget == nil {
		return 0, true
	}
	if (!waits || retries.Empty()) && budget.TryWithdraw(x.event.Ended) {
		return 0, true
	}
	if !waits {
		return 0, false
	}
	w := &x.forRetry
	w.Kind = budget
	if w.Take == nil {
		w.Take = x.takeRetry
	}
	began := x.executor.now()
	err := await(ctx, x, retries, w)
	return x.executor.now().Sub(began), err == nil && ctx.Err() == nil
}

// takeRetry takes a retry from the retry budget for a request in the queue.
func (x *Exchange) takeRetry() queue.Result {
	if x.forRetry.Kind.TryWithdraw(x.executor.now()) {
		return queue.Taken
	}
	return queue.Nothing
}

// await takes a place in flight or a retry for the request, whichever q is for. If there is none,
// the request waits in q. An error is the context's, queue.ErrExpired or queue.ErrFull.
func await[K comparable](ctx context.Context, x *Exchange, q *queue.Queue[K], w *queue.Waiter[K]) error {
	limits, request, began := x.tuning.Queue, x.request, x.executor.now()
	w.Priority = request.Priority.AtMost(core.AnyPriority)
	waits, err := q.Enter(w, limits.MaxWaiting)
	if !waits {
		return err
	}
	longest := limits.MaxWait
	if !x.deadline.IsZero() {
		longest = min(longest, x.deadline.Sub(began))
	}
	if request.BeforeWait != nil {
		request.BeforeWait()
	}
	if request.Progress == nil {
		return q.Wait(ctx, w, longest)
	}
	request.Progress.Queued(w.Priority, began)
	err = q.Wait(ctx, w, longest)
	request.Progress.Dequeued(x.executor.now())
	return err
}

// PlaceFreed is called when an attempt has released its place in flight. It gives the place to a request
// that waits. If no request waits, it costs one atomic load.
func (e *Executor) PlaceFreed() { e.places.ServeOne() }

// ServeQueues gives free places and retries to the requests that wait. The caller calls it regularly,
// because a place or a retry may become free without a call of PlaceFreed: with time, or by a change of
// the pool or of a breaker.
func (e *Executor) ServeQueues() {
	e.places.Serve()
	e.retries.Serve()
}

// Queues returns the totals of the two queues: places is the queue for a place in flight, and
// retries the queue for a retry of the budget.
func (e *Executor) Queues() (places, retries map[core.Priority]queue.Counts) {
	return e.places.Counts(), e.retries.Counts()
}
