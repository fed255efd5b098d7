package executor

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// ErrClientLeft and ErrShutdown are the causes a caller cancels an exchange's
// context with. Any cause but ErrShutdown counts as the client having left.
var (
	ErrClientLeft = errors.New("the client hung up")
	ErrShutdown   = verdict.ErrShutdown
)

// Selector chooses a proxy and takes its permit. It never blocks.
type Selector interface {
	Select(q *selector.Query, scorer core.Scorer, now time.Time) (upstream.Lease, error)
	Untried(q *selector.Query, now time.Time) bool
	Blocked(q *selector.Query, now time.Time) error
	NextTest() (time.Time, bool)
}

// Recorder hears of every attempt and every request exactly once.
type Recorder interface {
	Attempt(*core.AttemptEvent)
	Request(*core.RequestEvent)
}

// Targets knows which targets fail whatever proxy is used. Moments are counted from
// the pool's epoch.
type Targets interface {
	// Suspect reports whether several proxies in a row failed at the target while
	// none was served by it.
	Suspect(target evidence.Target, now time.Duration) bool
	// ServedElsewhere reports whether the target has just served another proxy.
	ServedElsewhere(target evidence.Target, proxy uint64, now time.Duration) bool
	// TryAsUsual reports whether a request for a suspect target is tried as often as
	// any other: one a second.
	TryAsUsual(target evidence.Target, now time.Duration) bool
}

// Tuning is what a reload may change while requests run.
type Tuning struct {
	First          core.Scorer                        // ranks first attempts
	Retry          core.Scorer                        // ranks retries
	Backoff        func(strategy string) core.Backoff // nil for an unknown strategy
	Observe        func(*core.Observation)            // plugins that learn; nil for none
	Budget         *retry.Budget                      // nil for none
	AttemptTimeout time.Duration                      // hard limit of one attempt, to the answer's head
	Adaptive       bool                               // an attempt that can be repeated gets less, by what its proxy usually takes
	Epoch          time.Time                          // of Targets' moments
	Targets        Targets                            // which targets fail through every proxy; nil where breakers count literally
}

// Executor runs exchanges. It is safe for concurrent use.
type Executor struct {
	selector Selector
	recorder Recorder
	log      *slog.Logger
	now      func() time.Time
	rand     func() uint64
	tuning   atomic.Pointer[Tuning]
}

// New returns an executor; now and rand are its only clock and chance.
func New(s Selector, r Recorder, t Tuning, log *slog.Logger, now func() time.Time, rand func() uint64) *Executor {
	e := &Executor{selector: s, recorder: r, log: log, now: now, rand: rand}
	e.Tune(t)
	return e
}

// Tune replaces the tuning for exchanges that begin from now on.
func (e *Executor) Tune(t Tuning) { e.tuning.Store(&t) }

// Tuning returns the tuning in force.
func (e *Executor) Tuning() Tuning { return *e.tuning.Load() }

// Attempt is one try, as the executor asks for it.
type Attempt struct {
	Upstream      *upstream.Upstream
	Number        int       // 0 for the first
	Started       time.Time // when it was chosen
	Deadline      time.Time // never zero
	Total         time.Time // of the whole request; zero for none
	NewConnection bool      // no kept connection: this replays what one lost
}

// Call is one kind of work that is tried through proxies.
type Call[T any] interface {
	// Try makes one attempt and holds its answer, if one came, until Discard
	// or until Do returns it. It does not keep a.
	Try(ctx context.Context, a *Attempt) (T, verdict.Facts)
	// Discard gives up an answer that is not going to be relayed.
	Discard(T)
}

// Do tries c until an answer is final or nothing more may be tried. With true
// it returns an answer to relay: the last one, good or (x.Final says) not.
// With false there is none, and x.Refusal tells why. Either way the caller
// ends the exchange with Finish.
//
// A cancelled ctx stops at once; the Call must see to it that the attempt in
// flight ends then.
func Do[T any](ctx context.Context, e *Executor, x *Exchange, c Call[T]) (T, bool) {
	var none T
	t := e.tuning.Load()
	e.begin(x, t)
	for {
		if !e.choose(x, t) {
			return none, false
		}
		a := &x.attempt
		*a = Attempt{Upstream: x.Proxy, Number: x.Attempts - 1, Started: x.event.Started, Deadline: e.attemptDeadline(x, t), Total: x.Deadline}
		answer, facts := c.Try(ctx, a)
		o := e.judge(ctx, x, &facts, t)
		if o.Retry == core.Replay {
			e.record(x, &o)
			x.event.Started = e.now()
			a.NewConnection, a.Started, a.Deadline = true, x.event.Started, e.attemptDeadline(x, t)
			answer, facts = c.Try(ctx, a)
			facts.Replayed = true
			o = e.judge(ctx, x, &facts, t)
		}
		if o.Retry == core.NoRetry && o.Result == core.ResultSuccess {
			x.chargeDeferred()
			x.event.Outcome, x.pending, x.Final = o, true, core.FinalSuccess
			x.held.Answered()
			return answer, true
		}
		e.settle(x, &o, t)
		wait, relay, again := e.next(ctx, x, &o, t)
		if !again {
			if !relay {
				c.Discard(answer)
			}
			return answer, relay
		}
		c.Discard(answer)
		if !e.wait(ctx, x, wait) {
			return none, false
		}
	}
}

func (e *Executor) begin(x *Exchange, t *Tuning) {
	if x.Started.IsZero() {
		x.Started = e.now()
	}
	if x.Ready.IsZero() {
		x.Ready = x.Started
	}
	if x.Policy.Timeout != nil {
		x.Deadline = x.Ready.Add(seconds(min(*x.Policy.Timeout, aYear)))
	}
	if t.Budget != nil {
		t.Budget.Deposit(x.Ready)
	}
	q := &x.query
	q.Idempotent, q.Connect = x.Idempotent || x.Policy.RetryNonIdempotent, x.Connect
	q.HostHash = core.Hash53(x.Host)
	q.Retryable = x.Policy.MaxAttempts > 1 && x.Replayable
	q.RegionHash, q.Region = 0, selector.RegionScored
	if x.Region != "" {
		q.RegionHash, q.Region = core.Hash53(x.Region), selector.RegionPreferred
		if x.Strict {
			q.Region = selector.RegionStrict
		}
	}
}

// choose selects a proxy for the next attempt and begins it.
func (e *Executor) choose(x *Exchange, t *Tuning) bool {
	scorer, now := t.First, x.Ready
	if x.Attempts > 0 {
		scorer, now = t.Retry, e.now()
		if x.Region == "" {
			x.query.RegionHash = x.Proxy.RegionHash() // where the proxy was that failed
		}
	}
	x.query.Attempt = x.Attempts
	lease, err := e.selector.Select(&x.query, scorer, now)
	if err != nil {
		e.refuse(x, err)
		return false
	}
	if x.Attempts > 0 { // now that it is made: one record for each retry that is counted
		o := &x.event.Outcome
		e.say(x, slog.LevelInfo, "retry", o.Err, slog.Duration("delay", x.delay), slog.String("reason", o.Reason), slog.Int("status", o.Status),
			slog.String("next_proxy_id", lease.Proxy.ID()))
	}
	x.Proxy, x.held = lease.Proxy, lease
	x.held.Target = x.Target
	x.event = core.AttemptEvent{Request: x.ID, ProxyID: lease.Proxy.ID(), Attempt: x.Attempts, Delay: x.delay, RetryReason: x.because, Started: now}
	x.Attempts++
	if x.Progress != nil {
		x.Progress.Attempt(x.Attempts-1, lease.Proxy.ID())
	}
	return true
}

// blocked ends an exchange in mid-request when every breaker is open, and reports
// whether it did: to wait first would only put the refusal off.
func (e *Executor) blocked(x *Exchange) bool {
	err := e.selector.Blocked(&x.query, e.now())
	if err != nil {
		e.refuse(x, err)
	}
	return err != nil
}

// An attempt that can be repeated is given up after tailFactor times what its proxy
// usually takes, but not before leastAttempt.
const (
	tailFactor   = 3
	leastAttempt = 250 * time.Millisecond
)

// attemptDeadline is when the attempt is given up. x.cut reports whether that is before
// t.AttemptTimeout, by what the proxy usually takes: while attempts are left, the
// request may be repeated, and there is another proxy. A retry budget may refuse the
// repetition, so with one there is no such limit.
func (e *Executor) attemptDeadline(x *Exchange, t *Tuning) time.Time {
	limit := t.AttemptTimeout
	x.cut = false
	if t.Adaptive && t.Budget == nil && x.Attempts < x.Policy.MaxAttempts && x.Replayable &&
		(x.Idempotent || x.Policy.RetryNonIdempotent) && x.Proxy.HasPeers() {
		if tail := x.Proxy.Tail(); tail > 0 && max(tailFactor*tail, leastAttempt) < limit {
			limit, x.cut = max(tailFactor*tail, leastAttempt), true
		}
	}
	d := x.event.Started.Add(limit)
	if !x.Deadline.IsZero() && x.Deadline.Before(d) {
		return x.Deadline
	}
	return d
}

// judge adds what the executor knows of an attempt to its facts, and has the outcome
// of them.
func (e *Executor) judge(ctx context.Context, x *Exchange, f *verdict.Facts, t *Tuning) core.Outcome {
	now := e.now()
	x.event.Ended = now
	f.Now, f.Latency = now, now.Sub(x.event.Started)
	f.Tunnel, f.Replayable = x.Connect, x.Replayable
	f.Idempotent, f.OptedIn = x.Idempotent, x.Policy.RetryNonIdempotent
	f.Direct, f.Proven = x.Proxy.Direct(), x.Proxy.HasServed()
	f.StatusRetried, f.StatusCounted = x.Policy.Retries(f.Status), x.Global.Retries(f.Status)
	f.CutShort = x.cut && !now.Before(x.attempt.Deadline)
	f.TotalTimeout, f.TighterTimeout = !x.Deadline.IsZero() && !now.Before(x.Deadline), x.OwnTimeout()
	if ctx.Err() != nil {
		f.Stopped = context.Cause(ctx)
	}
	if f.InnerOutcome != "" && t.Targets != nil {
		f.TargetServed = t.Targets.ServedElsewhere(x.Target, x.Proxy.Hash(), now.Sub(t.Epoch))
	}
	return verdict.Judge(f)
}

// settle gives the permit back with its verdict and records the attempt.
func (e *Executor) settle(x *Exchange, o *core.Outcome, t *Tuning) {
	x.query.Tried = append(x.query.Tried, selector.Tried{Proxy: x.Proxy, Barred: o.Retry == core.RetryElsewhere})
	x.found = evidence.Finding{}
	if o.Cause == verdict.CutShort {
		x.Proxy.Stretch(o.Latency)
	}
	if o.Charge == core.ChargeProxyIfServed && (t.Targets != nil || o.Cause == verdict.CutShort) {
		x.deferred = append(x.deferred, deferred{x.held.Part(), *o})
	} else {
		x.found = x.held.Settle(o)
		x.held.Release()
	}
	e.record(x, o)
	if t.Observe != nil && o.Verdict != core.Excluded {
		e.observe(x, o, t)
	}
}

func (e *Executor) record(x *Exchange, o *core.Outcome) {
	x.event.Outcome = *o
	e.recorder.Attempt(&x.event)
	if x.Progress != nil {
		x.Progress.Finished(&x.event)
	}
	if x.Collect {
		x.Events = append(x.Events, x.event)
	}
}

func (e *Executor) observe(x *Exchange, o *core.Outcome, t *Tuning) {
	ob := core.Observation{
		Now: unix(x.event.Ended), IDHash: x.Proxy.IDHash(), HostHash: x.query.HostHash,
		Attempt: float64(x.event.Attempt), Latency: o.Latency.Seconds(), Status: float64(o.Status), Delay: x.delay.Seconds(),
	}
	if o.Verdict == core.Success {
		ob.Success = 1
	}
	t.Observe(&ob)
}

// next decides what follows a failed attempt: another after wait (again), the
// answer at hand (relay), or x.Refusal.
func (e *Executor) next(ctx context.Context, x *Exchange, o *core.Outcome, t *Tuning) (wait time.Duration, relay, again bool) {
	relay = o.Relay
	switch {
	case o.Retry == core.NoRetry && o.Result == core.ResultCancelled:
		x.Final, relay = core.FinalCancelled, false
	case o.Retry == core.NoRetry && o.Result == core.ResultTimeout:
		x.Final = core.FinalTimeout
	case o.Cause == verdict.InnerGaveUp && o.Retry == core.NoRetry: // so that the next level believes it as well
		x.Final = core.FinalExhausted
	case o.Retry == core.NoRetry:
		x.Final = core.FinalNotRetryable
	case x.Attempts >= x.Policy.MaxAttempts:
		x.Final, x.limit = core.FinalExhausted, true
	case o.Repeat != core.RepeatAllowed:
		x.Final = core.FinalNotRetryable
	case e.suspect(x, o, t):
		x.Final, x.suspect = core.FinalExhausted, true
	case e.blocked(x):
		return 0, false, false
	default:
		wait = e.backoff(x, o, t)
		switch {
		case !x.Deadline.IsZero() && wait >= x.Deadline.Sub(e.now()):
			x.Final = core.FinalTimeout
		case t.Budget != nil && !t.Budget.TryWithdraw(x.event.Ended):
			x.Final, x.budget = core.FinalExhausted, true
		default:
			x.Waited += wait
			x.delay, x.because = wait, o.Reason
			return wait, false, true
		}
	}
	if !relay {
		x.refused(x.failedKind(o))
	}
	if x.Final == core.FinalCancelled && ctx.Err() != nil {
		x.cancelled(context.Cause(ctx))
	}
	if x.Final != core.FinalCancelled {
		e.failed(x, o)
	}
	return 0, relay, false
}

// suspect reports whether a failed request is not tried again because its target
// fails through every proxy. One request a second is, to find out when it recovers.
func (e *Executor) suspect(x *Exchange, o *core.Outcome, t *Tuning) bool {
	if t.Targets == nil || x.asUsual || o.Charge != core.ChargeProxyOrTarget {
		return false
	}
	now := x.event.Ended.Sub(t.Epoch)
	if !t.Targets.Suspect(x.Target, now) {
		return false
	}
	x.asUsual = t.Targets.TryAsUsual(x.Target, now)
	return !x.asUsual
}

// backoff asks the strategy's plugin and keeps its answer within the policy.
func (e *Executor) backoff(x *Exchange, o *core.Outcome, t *Tuning) time.Duration {
	p, now := x.Policy, e.now()
	switch {
	case o.Retry == core.RetryElsewhere:
		return 0
	case p.FailoverDelay != nil && e.selector.Untried(&x.query, now):
		return seconds(*p.FailoverDelay)
	case o.RetryAfter > 0:
	case (o.NoTargetResponse || x.found.JustServed) && e.selector.Untried(&x.query, now):
		return 0 // a wait is for a target that was heard, and that others are not served by
	}
	r := core.BackoffRequest{
		Retry: float64(x.Attempts), BaseDelay: p.BaseDelay, Multiplier: p.Multiplier, Cap: p.MaxBackoffDelay,
		Random: float64(e.rand()>>11) / (1 << 53), PreviousDelay: x.delay.Seconds(),
		RetryAfter: o.RetryAfter.Seconds(), LastStatus: float64(o.Status),
		Elapsed: now.Sub(x.Ready).Seconds(), Remaining: -1, MaxAttempts: float64(p.MaxAttempts),
		HostHash: x.query.HostHash, IDHash: x.Proxy.IDHash(), Now: unix(now),
	}
	if p.Jitter {
		r.Jitter = 1
	}
	if !x.Deadline.IsZero() {
		r.Remaining = x.Deadline.Sub(now).Seconds()
	}
	delay := p.BaseDelay
	if b := t.Backoff(p.BackoffStrategy); b != nil {
		if d, err := b.Delay(&r); err == nil && !math.IsNaN(d) {
			delay = d
		}
	}
	// In float seconds, then converted: 60*10^8 s would overflow a Duration.
	delay = min(max(delay, r.RetryAfter, 0), p.MaxBackoffDelay)
	return seconds(delay)
}

// wait sleeps for d, or returns false when the exchange was cancelled, or its
// time is up because this machine woke it late.
func (e *Executor) wait(ctx context.Context, x *Exchange, d time.Duration) bool {
	if d > 0 && ctx.Err() == nil {
		if x.Watch != nil {
			x.Watch()
		}
		if x.Progress != nil {
			x.Progress.Waiting(e.now().Add(d), x.Attempts)
		}
		if x.timer == nil {
			x.timer = time.NewTimer(d)
		} else {
			x.timer.Reset(d)
		}
		select {
		case <-x.timer.C:
		case <-ctx.Done():
			x.timer.Stop()
		}
	}
	if ctx.Err() != nil {
		x.cancelled(context.Cause(ctx))
		return false
	}
	if x.Deadline.IsZero() || e.now().Before(x.Deadline) {
		return true
	}
	o := &x.event.Outcome
	x.Final = core.FinalTimeout
	x.refused(x.failedKind(o))
	e.failed(x, o)
	return false
}

// aYear (s) is longer than any request takes. (A time.Duration holds 292 of them.)
const aYear = 365 * 24 * 60 * 60

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
