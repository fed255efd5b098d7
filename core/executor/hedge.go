package executor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Hedger is a Sender whose request can be sent a second time while a Send is in flight.
type Hedger[T any] interface {
	Sender[T]
	// Hedge returns a Sender of the same request for one attempt, at the same time as a Send of
	// this one. It returns nil if the request cannot be sent twice at the same time. Its Send ends when
	// ctx is cancelled.
	Hedge() Hedger[T]
	// Stop ends the Send in flight from another goroutine, and every later one until Discard, which
	// does not wait then.
	Stop()
	// Adopt makes a response of a Sender from Hedge, which may be none, a response of this one.
	Adopt(hedge Hedger[T], response T) T
}

// hedgeReason is the RetryReason of a hedge.
const hedgeReason = "hedge"

// hedgeNumber is the number of a hedge: only first attempts are hedged.
const hedgeNumber = 1

// errHedgeLost is why the context of a hedge is cancelled.
var errHedgeLost = errors.New("the first attempt has been served")

// hedgeDelay returns the delay of the hedge of the attempt that begins; 0 if it is not known yet. ok is false
// if the attempt is not hedged.
func (x *Exchange) hedgeDelay() (after time.Duration, ok bool) {
	q, h := x.request, x.tuning.Hedging
	if q.Policy.Hedge.Off() || h == nil || x.result.Attempts != hedgeNumber || q.Policy.MaxAttempts <= hedgeNumber ||
		!q.Safe || !q.Replayable || !x.proxy.HasPeers() {
		return 0, false
	}
	return h.Begin(q.Policy, x.hedgeKind())
}

func (x *Exchange) hedgeKind() retry.HedgeKind {
	if x.request.Tunnel {
		return retry.HedgeTunnel
	}
	return retry.HedgeResponse
}

// race is a first attempt and its hedge. The exchange's goroutine makes the first attempt, and
// a goroutine of its own, which the timer starts, makes the hedge. A race without a hedge is reused.
type race[T any] struct {
	x       *Exchange
	timer   *time.Timer // calls run
	first   Hedger[T]
	ctx     context.Context
	running bool // the timer has been started, and decide has not been called
	fired   bool // the timer has fired, so that the race is not reused

	mu     sync.Mutex // of the following
	phase  racePhase
	ended  chan struct{}           // closed when the hedge's goroutine has ended; nil without one
	cancel context.CancelCauseFunc // ends the hedge
	hedge  Hedger[T]

	// The hedge's goroutine uses the next fields until end has been called, then the exchange's does.
	flight
	response T
}

type racePhase uint8

const (
	raceArmed   racePhase = iota // the hedge has not begun
	raceRunning                  // both attempts are in flight
	raceAwaited                  // the first attempt has failed, and the hedge is in flight
	raceWon                      // the hedge has served the request
	raceFailed                   // the hedge has failed before the first attempt has ended
	raceOver                     // the hedge is of no use any more
)

// contest is a race of any type.
type contest interface {
	abandon()
	join()
}

// hedged begins the race of the attempt that begins. It returns nil if it is not hedged.
func hedged[T any](ctx context.Context, x *Exchange, s Sender[T]) *race[T] {
	after, ok := x.hedgeDelay()
	if !ok {
		return nil
	}
	first, ok := s.(Hedger[T])
	if !ok {
		return nil
	}
	r, ok := x.race.(*race[T])
	if !ok || r.fired {
		r = &race[T]{x: x}
		x.race = r
	}
	r.ctx, r.first, r.running, x.attempt.Hedged = ctx, first, after > 0, after > 0
	switch {
	case after == 0:
	case r.timer == nil:
		r.timer = time.AfterFunc(after, r.run)
	default:
		r.timer.Reset(after)
	}
	return r
}

// run makes the hedge.
func (r *race[T]) run() {
	r.mu.Lock()
	if r.phase != raceArmed {
		r.mu.Unlock()
		return
	}
	r.ended = make(chan struct{})
	defer close(r.ended)
	q, proxy := r.x.hedgeQuery(), r.x.proxy
	r.mu.Unlock()
	if lease, ok := r.x.chooseHedge(r.ctx, &q, proxy); ok && r.start(lease) {
		defer r.cancel(nil)
		r.end(send(r.ctx, r.x, &r.flight, r.hedge))
	}
}

// hedgeQuery returns the query of the hedge's proxy.
func (x *Exchange) hedgeQuery() selector.Query {
	q := x.query
	q.Tried = append([]selector.Tried{{Proxy: x.proxy}}, x.query.Tried...)
	q.Attempt = hedgeNumber
	if x.request.Region == "" {
		q.RegionHash = x.proxy.RegionHash()
	}
	return q
}

// chooseHedge chooses a proxy that the request has not used. It may be called while the exchange goes on: it
// reads what does not change until the exchange's end.
func (x *Exchange) chooseHedge(ctx context.Context, q *selector.Query, first *upstream.Upstream) (lease upstream.Lease,
	ok bool) {
	now, targets := x.executor.now(), x.tuning.Targets
	switch {
	case !x.executor.places.Empty(): // other requests wait for a proxy
		return lease, false
	case ctx.Err() != nil, !x.deadline.IsZero() && !now.Before(x.deadline), !x.executor.selector.Untried(q, now):
		return lease, false
	case targets != nil && targets.Suspect(x.request.Target):
		return lease, false
	}
	lease, err := x.executor.selector.Select(q, x.tuning.RetryScorer, now)
	if err == nil && lease.Proxy == first { // the others have been taken meanwhile
		lease.Release()
	}
	return lease, err == nil && lease.Proxy != nil
}

// start begins the hedge. It gives lease back and returns false if the first attempt has ended, if the request
// cannot be sent twice at the same time, or if the budget is spent.
func (r *race[T]) start(lease upstream.Lease) bool {
	x := r.x
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == raceArmed {
		r.hedge = r.first.Hedge()
	}
	if r.hedge == nil || !x.payHedge() {
		lease.Release()
		return false
	}
	r.phase = raceRunning
	r.flight.begin(x, &lease, hedgeNumber, x.executor.now())
	r.event.Hedge, r.event.RetryReason = true, hedgeReason
	r.ctx, r.cancel = context.WithCancelCause(r.ctx)
	x.log(slog.LevelInfo, "hedge", nil, slog.String("next_proxy_id", lease.Proxy.ID()))
	if p := x.request.Progress; p != nil {
		p.Attempt(hedgeNumber, lease.Proxy.ID())
	}
	return true
}

// payHedge takes a hedge from the budgets.
func (x *Exchange) payHedge() bool {
	budget := x.tuning.Budget
	return x.tuning.Hedging.TryTake() &&
		(budget == nil || x.executor.retries.Empty() && budget.TryWithdraw(x.executor.now()))
}

// end ends the hedge, whose attempt has a response and the outcome o.
func (r *race[T]) end(response T, o core.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.response, r.event.Outcome = response, o
	switch {
	case r.phase == raceOver:
		r.lose()
	case o.Result == core.ResultSuccess:
		if r.phase == raceRunning {
			r.first.Stop()
		}
		r.phase = raceWon
	case r.phase == raceRunning:
		r.phase = raceFailed
		r.drop()
		r.lease = r.lease.Part()
	}
}

// lose settles and records the hedge as lost. A hedge that had no connection to its proxy yet is not counted.
func (r *race[T]) lose() {
	o := verdict.LoseRace(r.event.Outcome)
	reached := !verdict.Unreached(r.event.Outcome.Cause)
	r.drop()
	r.lease.Settle(&o)
	r.lease.Release()
	if reached {
		r.x.recordAttempt(&r.flight, &o)
	}
}

// drop closes the response of the hedge.
func (r *race[T]) drop() {
	r.hedge.Stop()
	r.hedge.Discard(r.response)
}

// decide is called when the first attempt has ended with o. It returns the response and the outcome of the
// attempt on which it depends what follows, and makes that the exchange's last one. The other attempt has been
// settled then, or it has been ended and settles itself.
func (r *race[T]) decide(response T, o core.Outcome) (T, core.Outcome) {
	x := r.x
	started := r.running
	r.running = false
	if !started || r.timer.Stop() {
		x.observeHedgeable(&o, false)
		return response, o
	}
	r.fired = true
	r.mu.Lock()
	defer r.mu.Unlock()
	phase := r.phase
	x.observeHedgeable(&o, phase == raceWon)
	switch phase {
	case raceArmed:
		r.phase = raceOver
		return response, o
	case raceWon:
		o = verdict.LoseRace(o)
		x.settle(&o)
		r.first.Discard(response)
		return r.take()
	case raceRunning:
		if o.Result != core.ResultSuccess && o.Retry != core.NoRetry {
			return r.await(response, o)
		}
		r.cancel(errHedgeLost)
	case raceFailed:
		first, failed := x.flight, r.event.Outcome
		x.flight = r.flight
		x.settle(&failed)
		x.flight = first
	}
	r.phase = raceOver
	x.result.Attempts, x.lostHedge = hedgeNumber+1, true
	if p := x.request.Progress; p != nil {
		p.Attempt(x.event.Attempt, x.event.ProxyID) // the tracker has the hedge as the last one
	}
	return response, o
}

// await waits for the hedge after the first attempt has failed with o: it takes the place of a retry. It
// requires mu, which it releases while it waits.
func (r *race[T]) await(response T, o core.Outcome) (T, core.Outcome) {
	x := r.x
	r.phase = raceAwaited
	x.settle(&o)
	r.first.Discard(response)
	if x.request.BeforeWait != nil {
		x.request.BeforeWait()
	}
	r.mu.Unlock()
	<-r.ended
	r.mu.Lock()
	return r.take()
}

// take makes the hedge, which has ended, the exchange's last attempt. It requires mu.
func (r *race[T]) take() (T, core.Outcome) {
	x := r.x
	r.phase = raceOver
	x.flight = r.flight
	x.result.Attempts, x.result.ProxyID = hedgeNumber+1, x.event.ProxyID
	return r.first.Adopt(r.hedge, r.response), x.event.Outcome
}

// observeHedgeable records the latency of a first attempt that could be hedged, and lost to its hedge or not.
func (x *Exchange) observeHedgeable(o *core.Outcome, lost bool) {
	if x.request.Policy.Hedge.P95 && (lost || o.Result == core.ResultSuccess) {
		x.tuning.Hedging.Add(x.hedgeKind(), o.Latency)
	}
}

// abandon ends a race that has not been decided.
func (r *race[T]) abandon() {
	if r.running {
		r.running, r.fired = false, true
		r.timer.Stop()
		r.mu.Lock()
		switch r.phase {
		case raceWon:
			r.drop()
			r.lease.Release()
		case raceFailed:
			r.lease.Release()
		}
		r.phase = raceOver
		if r.cancel != nil {
			r.cancel(errHedgeLost)
		}
		r.mu.Unlock()
	}
	r.join()
}

// join waits until the hedge, which has lost, has given back what it held.
func (r *race[T]) join() {
	if !r.fired {
		return
	}
	r.mu.Lock()
	ended := r.ended
	r.mu.Unlock()
	if ended != nil {
		<-ended
	}
}
