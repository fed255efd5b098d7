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
	// Stop ends the attempt in flight, so that its Send returns. It may be called in another goroutine. A later call of
	// Send returns without sending, until Discard has been called.
	Stop()
	// Adopt converts the response of a hedge to a response of this Sender. The hedge's response may be the zero value.
	Adopt(hedge HedgeSender[T], response T) T
}

// HedgeSender makes one hedge. The method Send returns when its ctx is cancelled. The method Discard does not wait if
// Stop has been called.
type HedgeSender[T any] interface {
	Sender[T]
	Stop()
}

// hedgeReason is the value of AttemptEvent.RetryReason for a hedge.
const hedgeReason = "hedge"

// hedgeNumber is the attempt number of a hedge. It is always 1, because only first attempts are hedged.
const hedgeNumber = 1

// errHedgeLost is the cause with which the context of a hedge is cancelled.
var errHedgeLost = errors.New("the first attempt has served the request")

// canHedge reports whether the exchange's last attempt may be hedged.
func (ex *Exchange) canHedge() bool {
	q := ex.request
	return !q.Policy.Hedge.Off() && ex.tuning.Hedging != nil && ex.result.Attempts == hedgeNumber &&
		q.Policy.MaxAttempts > hedgeNumber && q.Policy.HedgeBudget > 0 && q.Safe && q.Replayable && q.Session == nil &&
		!ex.query.Direct && ex.proxy.HasPeers()
}

// race is a first attempt and its hedge. The exchange's goroutine makes the first attempt. A timer starts
// another goroutine, which makes the hedge. If the timer has not fired, the race is reused for the next
// request.
type race[T any] struct {
	ex          *Exchange
	timer       *time.Timer // calls runHedge when it fires
	firstSender Hedger[T]
	ctx         context.Context
	kind        retry.HedgeKind
	waitStart   time.Time // start of the wait for the first attempt's response
	active      bool      // the timer was started, and the race is not decided yet
	timerFired  bool      // the timer has fired, so the race cannot be reused

	awaitsFirstByte bool // the race is for the first byte in an open tunnel; the byte has not arrived yet

	mu          sync.Mutex // guards the fields below
	phase       racePhase
	hedgeDone   chan struct{}           // closed at the end of the hedge's goroutine; nil without such a goroutine
	cancel      context.CancelCauseFunc // cancels the hedge
	hedgeSender HedgeSender[T]

	// The hedge's goroutine owns the following fields until it has called finishHedge; afterwards the exchange owns
	// them.
	attemptState
	response     T
	notAttempted bool // the hedge lost before it had a connection to its proxy, so it does not count as an attempt
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
	endTunnelRace(targetSentByte bool)
}

// beginRace begins a race for the first attempt, which the caller is about to send. It returns nil if the attempt has
// no hedge.
func beginRace[T any](ctx context.Context, ex *Exchange, s Sender[T]) *race[T] {
	if !ex.canHedge() {
		return nil
	}
	kind := retry.HedgeResponse
	if ex.request.WantsTunnel {
		kind = retry.HedgeTunnel
	}
	hedgeDelay, ok := ex.tuning.Hedging.Begin(ex.request.Policy, kind)
	if !ok {
		return nil
	}
	first, ok := s.(Hedger[T])
	if !ok {
		return nil
	}
	ex.attempt.MayStop = hedgeDelay > 0
	return armRace(ctx, ex, first, kind, ex.event.Started, hedgeDelay)
}

// armRace begins a race. The hedge begins after hedgeDelay; if hedgeDelay is 0, there is no hedge.
func armRace[T any](
	ctx context.Context, ex *Exchange, first Hedger[T], kind retry.HedgeKind, waitStart time.Time,
	hedgeDelay time.Duration,
) *race[T] {
	r, ok := ex.race.(*race[T])
	if !ok || r.timerFired {
		if ok {
			r.join()
		}
		r = &race[T]{ex: ex}
		ex.race = r
	}
	r.ctx, r.firstSender, r.kind, r.waitStart, r.active = ctx, first, kind, waitStart, hedgeDelay > 0
	switch {
	case hedgeDelay == 0:
	case r.timer == nil:
		r.timer = time.AfterFunc(hedgeDelay, r.runHedge)
	default:
		r.timer.Reset(hedgeDelay)
	}
	return r
}

// runHedge makes the hedge, in a goroutine of its own.
func (r *race[T]) runHedge() {
	r.mu.Lock()
	if r.phase != raceArmed {
		r.mu.Unlock()
		return
	}
	r.hedgeDone = make(chan struct{})
	defer close(r.hedgeDone)
	q, proxy := r.ex.hedgeQuery(), r.ex.proxy
	r.mu.Unlock()
	if lease, ok := r.ex.chooseHedgeProxy(r.ctx, &q, proxy); ok && r.startHedge(lease) {
		defer r.cancel(nil)
		r.finishHedge(sendAttempt(r.ctx, r.ex, &r.attemptState, r.hedgeSender))
	}
}

// queryAfterAttempt returns the query for another attempt: the query of the request, with the proxy of the current
// attempt among the tried proxies.
func (ex *Exchange) queryAfterAttempt() selector.Query {
	q := ex.query
	q.Tried = append([]selector.TriedProxy{{Proxy: ex.proxy}}, ex.query.Tried...)
	return q
}

func (ex *Exchange) hedgeQuery() selector.Query {
	q := ex.queryAfterAttempt()
	q.Attempt = hedgeNumber
	if ex.region == "" {
		q.RegionHash = ex.proxy.RegionHash()
	}
	return q
}

// chooseHedgeProxy chooses a proxy that the request has not used. It runs concurrently with the exchange's
// goroutine. For this reason it reads only fields that do not change until the exchange ends.
func (ex *Exchange) chooseHedgeProxy(ctx context.Context, q *selector.Query, first *upstream.Upstream) (
	lease upstream.Lease, ok bool) {
	now, targets := ex.executor.now(), ex.tuning.Targets
	switch {
	case !ex.executor.places.Empty(): // other requests wait for a place in flight
		return lease, false
	case ctx.Err() != nil, !ex.deadline.IsZero() && !now.Before(ex.deadline):
		return lease, false
	case targets != nil && targets.IsSuspect(ex.request.Target):
		return lease, false
	}
	lease, err := ex.executor.selector.Select(q, ex.tuning.RetryScorer, now)
	if err == nil && lease.Proxy == first { // no other proxy is admissible
		lease.Release()
	}
	return lease, err == nil && lease.Proxy != nil
}

// startHedge begins the hedge. If the first attempt has ended, if the request cannot be sent twice at the same time, or
// if the hedge budget is spent, startHedge releases the lease and returns false.
func (r *race[T]) startHedge(lease upstream.Lease) bool {
	ex := r.ex
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == raceArmed {
		r.hedgeSender = r.firstSender.Hedge()
	}
	if r.hedgeSender == nil || !ex.withdrawHedge() {
		lease.Release()
		return false
	}
	r.phase = raceRunning
	r.lease = lease
	r.attemptState.begin(ex, hedgeNumber, ex.executor.now())
	r.event.Hedge, r.event.RetryReason = true, hedgeReason
	r.ctx, r.cancel = context.WithCancelCause(r.ctx)
	ex.log(slog.LevelInfo, "hedge", nil, slog.String("next_proxy_id", lease.Proxy.ID()))
	if p := ex.request.Progress; p != nil {
		p.BeginAttempt(hedgeNumber, lease.Proxy.ID())
	}
	return true
}

// withdrawHedge takes one hedge from the hedge budget and one retry from the retry budget. It returns
// false if one of them is spent.
func (ex *Exchange) withdrawHedge() bool {
	budget, hedging := ex.tuning.Budget, ex.tuning.Hedging
	if !hedging.TryTakeHedge() {
		return false
	}
	if budget == nil || ex.executor.retries.Empty() && budget.TryWithdraw(ex.executor.now()) {
		return true
	}
	hedging.ReturnHedge()
	return false
}

// finishHedge is called when the hedge has ended. The parameter o points to the hedge's outcome in r.event.
func (r *race[T]) finishHedge(response T, o *core.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.response = response
	switch {
	case r.phase == raceOver:
		r.settleLostHedge()
	case o.Result == core.ResultSuccess:
		if r.phase == raceRunning {
			r.firstSender.Stop()
		}
		r.phase = raceWon
	case r.phase == raceRunning:
		r.phase = raceFailed
		r.discardHedge()
		r.lease = r.lease.DetachPermit()
	}
}

// settleLostHedge settles and records the hedge as lost. A hedge that had no connection to its proxy yet does not
// count as an attempt.
func (r *race[T]) settleLostHedge() {
	o := verdict.LoseRace(r.event.Outcome)
	r.notAttempted = verdict.IsConnectFailure(r.event.Outcome.Cause)
	r.discardHedge()
	r.lease.Settle(&o)
	r.lease.Release()
	if !r.notAttempted {
		r.ex.recordAttempt(&r.attemptState, &o)
	}
}

func (r *race[T]) discardHedge() {
	r.hedgeSender.Stop()
	r.hedgeSender.Discard(r.response)
}

// decideWinner is called when the first attempt has ended, with the attempt's Sender, response and outcome. It makes
// either the first attempt or the hedge the last attempt of the exchange, and returns the response of that attempt. If
// the hedge has lost and has ended, decideWinner settles it. If the hedge is still in flight, its goroutine settles it.
func (r *race[T]) decideWinner(s Sender[T], response T, o *core.Outcome) T {
	ex := r.ex
	if o.Result == core.ResultSuccess {
		r.addLatency(o.Latency)
	}
	if !r.stopTimer() {
		return response
	}
	defer r.mu.Unlock()
	switch {
	case r.phase == raceWon:
		if o.Result != core.ResultSuccess {
			r.addLatency(o.Latency)
		}
		*o = verdict.LoseRace(*o)
		ex.settleFailure(o)
		s.Discard(response)
		return r.adoptHedge()
	case r.phase == raceRunning && o.Result != core.ResultSuccess && o.Retry != core.NoRetry:
		r.phase = raceAwaited
		ex.settleFailure(o)
		s.Discard(response)
		r.waitForHedge()
		return r.adoptHedge()
	}
	r.endLostHedge()
	return response
}

// stopTimer stops the timer of the hedge. If the hedge has already begun, stopTimer locks mu and returns true; the
// caller must unlock mu.
func (r *race[T]) stopTimer() (hedgeBegun bool) {
	if !r.active {
		return false
	}
	r.active = false
	if r.timer.Stop() {
		return false
	}
	r.timerFired = true
	r.mu.Lock()
	if r.phase != raceArmed {
		return true
	}
	r.phase = raceOver
	r.mu.Unlock()
	return false
}

// endLostHedge ends a hedge that is not needed any more. If the hedge is in flight, endLostHedge waits for its end,
// because only then is it known whether the hedge counts as an attempt. The caller holds mu; endLostHedge releases it
// while it waits.
func (r *race[T]) endLostHedge() {
	ex := r.ex
	switch r.phase {
	case raceRunning:
		r.phase = raceOver
		r.cancel(errHedgeLost)
		r.mu.Unlock()
		<-r.hedgeDone
		r.mu.Lock()
	case raceWon:
		r.settleLostHedge()
	case raceFailed:
		first, failed := ex.attemptState, r.event.Outcome
		ex.attemptState = r.attemptState
		ex.settleFailure(&failed)
		ex.attemptState = first
	}
	r.phase = raceOver
	if !r.notAttempted {
		ex.result.Attempts, ex.lostHedge = hedgeNumber+1, true
	}
	if p := ex.request.Progress; p != nil {
		p.BeginAttempt(ex.event.Attempt, ex.event.ProxyID) // until now the tracker shows the hedge as the last attempt
		if ex.openEnding == tunnelEnding {
			p.BeginTunnel()
		}
	}
}

// endTunnelRace implements anyRace. It ends the hedge of an open tunnel. It is called when the target has sent a byte
// through the first tunnel (targetSentByte is true), or when the first tunnel has ended.
func (r *race[T]) endTunnelRace(targetSentByte bool) {
	if targetSentByte {
		r.addFirstByteLatency()
	}
	r.awaitsFirstByte = false
	if r.stopTimer() {
		r.endLostHedge()
		r.mu.Unlock()
	}
}

// waitForHedge waits until the hedge has ended. It is called when the first attempt has failed; the hedge then
// replaces a retry. The caller holds mu; waitForHedge releases it while it waits.
func (r *race[T]) waitForHedge() {
	if wait := r.ex.request.BeforeWait; wait != nil {
		wait()
	}
	r.mu.Unlock()
	<-r.hedgeDone
	r.mu.Lock()
}

// adoptHedge is called when the hedge has ended. It makes the hedge the exchange's last attempt. The caller holds mu.
func (r *race[T]) adoptHedge() T {
	ex := r.ex
	r.phase = raceOver
	ex.attemptState = r.attemptState
	ex.result.Attempts, ex.result.ProxyID = hedgeNumber+1, ex.event.ProxyID
	return r.firstSender.Adopt(r.hedgeSender, r.response)
}

// addLatency records a latency of a first attempt if the policy's hedge is "p95". Later hedges begin when the 95th
// percentile of these latencies has passed.
func (r *race[T]) addLatency(latency time.Duration) {
	if r.ex.request.Policy.Hedge.P95 {
		r.ex.tuning.Hedging.Add(r.kind, latency)
	}
}

// abandon implements anyRace. It ends the race without a winner.
func (r *race[T]) abandon() {
	if r.active {
		r.active, r.timerFired = false, true
		r.timer.Stop()
		r.mu.Lock()
		switch r.phase {
		case raceWon:
			r.discardHedge()
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
	if !r.timerFired {
		return
	}
	r.mu.Lock()
	ended := r.hedgeDone
	r.mu.Unlock()
	if ended != nil {
		<-ended
	}
}
