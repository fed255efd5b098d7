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

// Hedger is an optional interface of a Sender. If a Sender implements it, the first attempt of a
// request can be hedged.
type Hedger[T any] interface {
	// Hedge returns the Sender of a hedge, or nil if the request cannot be sent twice at the same time.
	Hedge() HedgeSender[T]
	// Another goroutine calls Stop to end the attempt. The Sender's Send then returns. After that, each call of Send
	// returns without sending until Discard has been called.
	Stop()
	// Adopt returns the response of a hedge as a response of this Sender. The parameter response may be the zero value.
	Adopt(hedge HedgeSender[T], response T) T
}

// HedgeSender makes one hedge. Its Send returns when ctx is cancelled. After Stop, its Discard does not wait.
type HedgeSender[T any] interface {
	Sender[T]
	Stop()
}

// hedgeReason is the value of AttemptEvent.RetryReason for a hedge.
const hedgeReason = "hedge"

// hedgeNumber is the attempt number of a hedge. It is always 1, because only first attempts are hedged.
const hedgeNumber = 1

// errHedgeLost is the cause with which the context of a hedge is cancelled.
var errHedgeLost = errors.New("the first attempt has been served")

// hedgeable reports whether the exchange's last attempt may be hedged.
func (ex *Exchange) hedgeable() bool {
	q := ex.request
	return !q.Policy.Hedge.Off() && ex.tuning.Hedging != nil && ex.result.Attempts == hedgeNumber &&
		q.Policy.MaxAttempts > hedgeNumber && q.Policy.HedgeBudget > 0 && q.Safe && q.Replayable && q.Session == nil &&
		!ex.query.Direct && ex.proxy.HasPeers()
}

// race is a first attempt and its hedge. The exchange's goroutine makes the first attempt. A timer starts
// another goroutine, which makes the hedge. If the timer has not fired, the race is reused for the next
// request.
type race[T any] struct {
	x       *Exchange
	timer   *time.Timer // calls the method run when it fires
	first   Hedger[T]
	ctx     context.Context
	kind    retry.HedgeKind
	began   time.Time // start of the wait for the first attempt's response
	running bool      // the timer was started, and the race is not decided yet
	fired   bool      // the timer has fired, so the race cannot be reused

	firstByte bool // the race is for the first byte in an open tunnel; the byte has not arrived yet

	mu     sync.Mutex // guards the fields below
	phase  racePhase
	ended  chan struct{}           // closed at the end of the hedge's goroutine; nil without such a goroutine
	cancel context.CancelCauseFunc // cancels the hedge
	hedge  HedgeSender[T]

	// The hedge's goroutine owns the following fields until it has called the method end; afterwards the exchange owns
	// them.
	flight
	response  T
	uncounted bool // the hedge lost before it had a connection to its proxy, so it does not count as an attempt
}

type racePhase uint8

const (
	raceArmed   racePhase = iota // the hedge has not begun
	raceRunning                  // both attempts are in flight
	raceAwaited                  // the first attempt has failed, and the hedge is still in flight
	raceWon                      // the hedge has succeeded
	raceFailed                   // the hedge has failed, and the first attempt is still in flight
	raceOver                     // the race has been decided
)

// anyRace is a race[T] with any type T.
type anyRace interface {
	abandon()
	join()
	endHedge(served bool)
}

// hedged begins the race of the first attempt, which the caller is about to send. It returns nil if the
// attempt has no hedge.
func hedged[T any](ctx context.Context, x *Exchange, s Sender[T]) *race[T] {
	if !x.hedgeable() {
		return nil
	}
	kind := retry.HedgeResponse
	if x.request.Tunnel {
		kind = retry.HedgeTunnel
	}
	after, ok := x.tuning.Hedging.Begin(x.request.Policy, kind)
	if !ok {
		return nil
	}
	first, ok := s.(Hedger[T])
	if !ok {
		return nil
	}
	x.attempt.Hedged = after > 0
	return arm(ctx, x, first, kind, x.event.Started, after)
}

// arm begins a race. The parameter after is the time until the hedge begins; if it is 0, there is no hedge.
func arm[T any](
	ctx context.Context, x *Exchange, first Hedger[T], kind retry.HedgeKind, began time.Time, after time.Duration,
) *race[T] {
	r, ok := x.race.(*race[T])
	if !ok || r.fired {
		if ok {
			r.join()
		}
		r = &race[T]{x: x}
		x.race = r
	}
	r.ctx, r.first, r.kind, r.began, r.running = ctx, first, kind, began, after > 0
	switch {
	case after == 0:
	case r.timer == nil:
		r.timer = time.AfterFunc(after, r.run)
	default:
		r.timer.Reset(after)
	}
	return r
}

// run makes the hedge, in a goroutine of its own.
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

// hedgeQuery returns the query for the hedge's proxy.
func (ex *Exchange) hedgeQuery() selector.Query {
	q := ex.query
	q.Tried = append([]selector.Tried{{Proxy: ex.proxy}}, ex.query.Tried...)
	q.Attempt = hedgeNumber
	if ex.region == "" {
		q.RegionHash = ex.proxy.RegionHash()
	}
	return q
}

// chooseHedge chooses a proxy that the request has not used. It runs concurrently with the exchange's
// goroutine. For this reason it reads only fields that do not change until the exchange ends.
func (ex *Exchange) chooseHedge(ctx context.Context, q *selector.Query, first *upstream.Upstream) (lease upstream.Lease,
	ok bool) {
	now, targets := ex.executor.now(), ex.tuning.Targets
	switch {
	case !ex.executor.places.Empty(): // other requests wait for a place in flight
		return lease, false
	case ctx.Err() != nil, !ex.deadline.IsZero() && !now.Before(ex.deadline):
		return lease, false
	case targets != nil && targets.Suspect(ex.request.Target):
		return lease, false
	}
	lease, err := ex.executor.selector.Select(q, ex.tuning.RetryScorer, now)
	if err == nil && lease.Proxy == first { // no other proxy is admissible
		lease.Release()
	}
	return lease, err == nil && lease.Proxy != nil
}

// start begins the hedge. If the first attempt has ended, if the request cannot be sent twice at the same time, or if
// the hedge budget is spent, start releases the lease and returns false.
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
	r.lease = lease
	r.flight.begin(x, hedgeNumber, x.executor.now())
	r.event.Hedge, r.event.RetryReason = true, hedgeReason
	r.ctx, r.cancel = context.WithCancelCause(r.ctx)
	x.log(slog.LevelInfo, "hedge", nil, slog.String("next_proxy_id", lease.Proxy.ID()))
	if p := x.request.Progress; p != nil {
		p.Attempt(hedgeNumber, lease.Proxy.ID())
	}
	return true
}

// payHedge takes one hedge from the hedge budget and one retry from the retry budget. It returns
// false if one of them is spent.
func (ex *Exchange) payHedge() bool {
	budget, hedging := ex.tuning.Budget, ex.tuning.Hedging
	if !hedging.TryTake() {
		return false
	}
	if budget == nil || ex.executor.retries.Empty() && budget.TryWithdraw(ex.executor.now()) {
		return true
	}
	hedging.GiveBack()
	return false
}

// end is called when the hedge has ended. The parameter o points to the hedge's outcome in r.event.
func (r *race[T]) end(response T, o *core.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.response = response
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

// lose settles and records the hedge as lost. A hedge that had no connection to its proxy yet does not
// count as an attempt.
func (r *race[T]) lose() {
	o := verdict.LoseRace(r.event.Outcome)
	r.uncounted = verdict.IsConnectFailure(r.event.Outcome.Cause)
	r.drop()
	r.lease.Settle(&o)
	r.lease.Release()
	if !r.uncounted {
		r.x.recordAttempt(&r.flight, &o)
	}
}

// drop closes the response of the hedge.
func (r *race[T]) drop() {
	r.hedge.Stop()
	r.hedge.Discard(r.response)
}

// decide is called when the first attempt has ended. The parameter s is the Sender of the first attempt, response is
// its response, and o is its outcome. The method makes either the first attempt or the hedge the last attempt of the
// exchange, and returns the response of that attempt. A hedge that has lost is settled by its own goroutine if it is
// still in flight, and by decide if it has ended.
func (r *race[T]) decide(s Sender[T], response T, o *core.Outcome) T {
	x := r.x
	if o.Result == core.ResultSuccess {
		r.observe(o.Latency)
	}
	if !r.stop() {
		return response
	}
	defer r.mu.Unlock()
	switch {
	case r.phase == raceWon:
		if o.Result != core.ResultSuccess {
			r.observe(o.Latency)
		}
		*o = verdict.LoseRace(*o)
		x.settle(o)
		s.Discard(response)
		return r.take()
	case r.phase == raceRunning && o.Result != core.ResultSuccess && o.Retry != core.NoRetry:
		r.phase = raceAwaited
		x.settle(o)
		s.Discard(response)
		r.await()
		return r.take()
	}
	r.lost()
	return response
}

// stop stops the timer of the hedge. If the hedge has already begun, it locks mu and returns true; the caller must
// unlock mu.
func (r *race[T]) stop() (begun bool) {
	if !r.running {
		return false
	}
	r.running = false
	if r.timer.Stop() {
		return false
	}
	r.fired = true
	r.mu.Lock()
	if r.phase != raceArmed {
		return true
	}
	r.phase = raceOver
	r.mu.Unlock()
	return false
}

// lost is called when the hedge is not needed any more, and ends the hedge. The caller holds mu. If the hedge is in
// flight, the method waits for its end, because only then is it known whether the hedge counts as an attempt. During
// this wait, mu is not held.
func (r *race[T]) lost() {
	x := r.x
	switch r.phase {
	case raceRunning:
		r.phase = raceOver
		r.cancel(errHedgeLost)
		r.mu.Unlock()
		<-r.ended
		r.mu.Lock()
	case raceWon:
		r.lose()
	case raceFailed:
		first, failed := x.flight, r.event.Outcome
		x.flight = r.flight
		x.settle(&failed)
		x.flight = first
	}
	r.phase = raceOver
	if !r.uncounted {
		x.result.Attempts, x.lostHedge = hedgeNumber+1, true
	}
	if p := x.request.Progress; p != nil {
		p.Attempt(x.event.Attempt, x.event.ProxyID) // until now the tracker shows the hedge as the last attempt
		if x.open == openTunnel {
			p.Tunnel()
		}
	}
}

// endHedge implements anyRace. It ends the hedge of an open tunnel. The parameter served is true if the target has sent
// a byte through the first tunnel. It is false if the first tunnel has ended.
func (r *race[T]) endHedge(served bool) {
	if served {
		r.observeFirstByte()
	}
	r.firstByte = false
	if r.stop() {
		r.lost()
		r.mu.Unlock()
	}
}

// await waits until the hedge has ended. It is called when the first attempt has failed; the hedge then
// replaces a retry. The caller holds mu; await releases it while it waits.
func (r *race[T]) await() {
	if wait := r.x.request.BeforeWait; wait != nil {
		wait()
	}
	r.mu.Unlock()
	<-r.ended
	r.mu.Lock()
}

// take is called when the hedge has ended. It makes the hedge the exchange's last attempt. The caller holds mu.
func (r *race[T]) take() T {
	x := r.x
	r.phase = raceOver
	x.flight = r.flight
	x.result.Attempts, x.result.ProxyID = hedgeNumber+1, x.event.ProxyID
	return r.first.Adopt(r.hedge, r.response)
}

// observe records a latency of the first attempt if the policy's hedge is "p95".
func (r *race[T]) observe(latency time.Duration) {
	if r.x.request.Policy.Hedge.P95 {
		r.x.tuning.Hedging.Add(r.kind, latency)
	}
}

// abandon implements anyRace. It ends the race without a winner.
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

// join implements anyRace. It waits until a lost hedge has released its resources.
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
