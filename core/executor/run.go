package executor

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Attempt describes one attempt to a Sender.
type Attempt struct {
	Upstream *upstream.Upstream
	Number   int       // 0 for the first
	Started  time.Time // when the proxy was chosen
	Deadline time.Time // never zero
	// NewDeadline returns the present deadline, which may be earlier than Deadline: with an
	// adaptive timeout it depends on the pool's latencies. Nil if it cannot change.
	NewDeadline   func() time.Time
	Total         time.Time // of the whole request; zero for none
	NewConnection bool      // do not reuse an idle connection: the attempt is a replay
}

// Sender sends one request through the proxies that the executor chooses.
type Sender[T any] interface {
	// Send makes one attempt and holds its response, if one came, until Discard or
	// until Run returns it. It must not keep a. It must end when ctx is cancelled.
	Send(ctx context.Context, a *Attempt) (T, verdict.Facts)
	// Discard releases a response that is not relayed.
	Discard(T)
}

// Run runs the exchange of q. It makes attempts with s until a response is final or no retry may
// follow. The response to relay is the last one: a success, or a failure. Run ends at once when ctx
// is cancelled.
func Run[T any](ctx context.Context, e *Executor, x *Exchange, q *Request, s Sender[T]) Ending[T] {
	x.begin(e, q)
	return attempts(ctx, x, s)
}

// attempts makes attempts until a response is final or no retry may follow.
func attempts[T any](ctx context.Context, x *Exchange, s Sender[T]) Ending[T] {
	q := x.request
	for x.choose(ctx) {
		response, facts := s.Send(ctx, &x.attempt)
		o := x.judge(ctx, &facts)
		if o.Retry == core.Replay {
			x.recordAttempt(&o)
			x.beginReplay()
			response, facts = s.Send(ctx, &x.attempt)
			facts.Replayed = true
			o = x.judge(ctx, &facts)
		}
		if o.Retry == core.NoRetry && o.Result == core.ResultSuccess {
			x.served(&o)
			if q.Tunnel {
				return Ending[T]{Response: response, Tunnel: x.stand()}
			}
			return Ending[T]{Response: response, Relay: x.relaying(true)}
		}
		x.settle(&o)
		switch wait, then := x.next(ctx, &o); then {
		case thenRetry:
			s.Discard(response)
			if !x.wait(ctx, wait) {
				return refused[T](x)
			}
		case thenRelay:
			return Ending[T]{Response: response, Relay: x.relaying(false)}
		default:
			s.Discard(response)
			return refused[T](x)
		}
	}
	return refused[T](x)
}

func refused[T any](x *Exchange) Ending[T] {
	x.open = openRefusal
	return Ending[T]{Refusal: &x.refusal}
}

// begin prepares x for the request.
func (x *Exchange) begin(e *Executor, q *Request) {
	x.reset()
	x.executor, x.tuning, x.request = e, e.tuning.Load(), q
	if x.started = q.Started; x.started.IsZero() {
		x.started = e.now()
	}
	if x.ready = q.Ready; x.ready.IsZero() {
		x.ready = x.started
	}
	if q.Policy.Timeout != nil {
		x.deadline = x.ready.Add(seconds(min(*q.Policy.Timeout, aYear)))
	}
	if x.tuning.Budget != nil {
		x.tuning.Budget.Deposit(x.ready)
		e.retries.Serve()
	}
	query := &x.query
	query.Idempotent, query.Connect = q.Idempotent || q.Policy.RetryNonIdempotent, q.Tunnel
	query.HostHash, query.Need = core.Hash53(q.Host), ability.NeedOf(q.Tunnel || q.TLS, q.Target.Name)
	query.Retryable = q.Policy.MaxAttempts > 1 && q.Replayable
	query.RegionHash, query.Region = 0, selector.RegionScored
	if q.Region != "" {
		query.RegionHash, query.Region = core.Hash53(q.Region), selector.RegionPreferred
		if q.RegionStrict {
			query.Region = selector.RegionStrict
		}
	}
}

// choose selects a proxy for the next attempt and begins it. Without a proxy it sets
// the refusal and returns false.
func (x *Exchange) choose(ctx context.Context) bool {
	q, number := x.request, x.result.Attempts
	scorer, now := x.tuning.FirstScorer, x.ready
	if number > 0 {
		scorer, now = x.tuning.RetryScorer, x.executor.now()
		if q.Region == "" {
			x.query.RegionHash = x.proxy.RegionHash() // region of the proxy that failed
		}
	}
	x.query.Attempt = number
	lease, now, ok := x.acquire(ctx, scorer, now)
	if !ok {
		return false
	}
	id := lease.Proxy.ID()
	if number > 0 {
		x.logRetry(id) // only now it is certain that there is a retry
	}
	x.proxy, x.lease = lease.Proxy, lease
	x.lease.Target = q.Target
	e, a := &x.event, &x.attempt
	*e = core.AttemptEvent{} // field by field: a composite literal would be copied on the stack
	e.Request, e.ProxyID, e.Attempt, e.Started = q.ID, id, number, now
	e.Delay, e.RetryReason = x.retry.delay, x.retry.reason
	*a = Attempt{}
	a.Upstream, a.Number, a.Started, a.Total = lease.Proxy, number, now, x.deadline
	x.result.Attempts, x.result.ProxyID = number+1, id
	x.setDeadline()
	if q.Progress != nil {
		q.Progress.Attempt(number, id)
	}
	return true
}

// beginReplay prepares the last attempt to be made once more on a new connection.
func (x *Exchange) beginReplay() {
	x.event.Started = x.executor.now()
	x.attempt.NewConnection, x.attempt.Started = true, x.event.Started
	x.setDeadline()
}

// An adaptive timeout is tailFactor times the proxy's 99th percentile of latency, and
// at least leastAttempt.
const (
	tailFactor   = 3
	leastAttempt = 250 * time.Millisecond
)

// setDeadline sets the deadline of the attempt that begins. The adaptive timeout applies if a retry
// may follow and there is another proxy. It does not apply with a retry budget, which may refuse
// the retry.
func (x *Exchange) setDeadline() {
	q, t, a := x.request, x.tuning, &x.attempt
	x.cutShort, a.NewDeadline = false, nil
	a.Deadline = x.event.Started.Add(t.AttemptTimeout)
	if !x.deadline.IsZero() && x.deadline.Before(a.Deadline) {
		a.Deadline = x.deadline
	}
	if t.Adaptive && t.Budget == nil && x.result.Attempts < q.Policy.MaxAttempts && q.Replayable &&
		(q.Idempotent || q.Policy.RetryNonIdempotent) && x.proxy.HasPeers() {
		if x.newDeadline == nil {
			x.newDeadline = x.shorten
		}
		a.NewDeadline = x.newDeadline
		x.shorten()
	}
}

// shorten moves the attempt's deadline forward to its adaptive timeout and returns it. If the pool
// had no latencies when the attempt began, the adaptive timeout applies as soon as there are some.
func (x *Exchange) shorten() time.Time {
	a := &x.attempt
	if tail := x.proxy.Tail(); tail > 0 {
		if d := x.event.Started.Add(max(tailFactor*tail, leastAttempt)); d.Before(a.Deadline) {
			a.Deadline, x.cutShort = d, true
		}
	}
	return a.Deadline
}

// judge completes the facts of an attempt and returns its outcome.
func (x *Exchange) judge(ctx context.Context, f *verdict.Facts) core.Outcome {
	q, now := x.request, x.executor.now()
	x.event.Ended = now
	f.Now, f.Latency = now, now.Sub(x.event.Started)
	f.Tunnel, f.Replayable = q.Tunnel, q.Replayable
	f.Idempotent, f.OptedIn = q.Idempotent, q.Policy.RetryNonIdempotent
	f.Direct, f.Proven = x.proxy.Direct(), x.proxy.HasServed()
	f.StatusRetried, f.StatusCounted = q.Policy.Retries(f.Status), q.Global.Retries(f.Status)
	f.CutShort = x.cutShort && !now.Before(x.attempt.Deadline)
	f.TotalTimeout, f.TighterTimeout = !x.deadline.IsZero() && !now.Before(x.deadline), q.tighterTimeout()
	if ctx.Err() != nil {
		f.Stopped = context.Cause(ctx)
	}
	if targets := x.tuning.Targets; f.InnerOutcome != "" && targets != nil {
		f.TargetServed = targets.ServedElsewhere(q.Target, x.proxy.Hash(), now.Sub(x.tuning.Epoch))
	}
	return verdict.Judge(f)
}

// served keeps the outcome of an attempt that served the request. The attempt is settled and
// recorded when the relay or tunnel is closed.
func (x *Exchange) served(o *core.Outcome) {
	x.chargeDeferred(x.request.Tunnel)
	x.event.Outcome, x.result.Final = *o, core.FinalSuccess
	x.lease.Answered()
}

// relaying makes the last response the relay that Run returns.
func (x *Exchange) relaying(served bool) *Relay {
	if p := x.request.Progress; p != nil {
		p.Streaming()
	}
	x.open, x.relay.served = openRelay, served
	return &x.relay
}

// settle settles a failed attempt and records it.
func (x *Exchange) settle(o *core.Outcome) {
	x.query.Tried = append(x.query.Tried, selector.Tried{Proxy: x.proxy, Barred: o.Retry == core.RetryElsewhere})
	x.finding = evidence.Finding{}
	if o.Cause == verdict.CutShort {
		x.proxy.Stretch(o.Latency)
	}
	t := x.tuning
	if o.Charge == core.ChargeProxyIfServed && (t.Targets != nil || o.Cause == verdict.CutShort) {
		x.deferred = append(x.deferred, deferred{lease: x.lease.Part(), outcome: *o})
	} else {
		x.finding = x.lease.Settle(o)
		x.lease.Release()
	}
	x.recordAttempt(o)
	if t.Observe != nil && o.Verdict != core.Excluded {
		x.observe(o, t)
	}
}

func (x *Exchange) recordAttempt(o *core.Outcome) {
	x.event.Outcome = *o
	x.executor.recorder.Attempt(&x.event)
	if p := x.request.Progress; p != nil {
		p.Finished(&x.event)
	}
	if x.request.KeepEvents {
		x.result.Events = append(x.result.Events, x.event)
	}
}

func (x *Exchange) observe(o *core.Outcome, t *Tuning) {
	ob := core.Observation{
		Now: unix(x.event.Ended), IDHash: x.proxy.IDHash(), HostHash: x.query.HostHash,
		Attempt: float64(x.event.Attempt), Latency: o.Latency.Seconds(), Status: float64(o.Status),
		Delay: x.retry.delay.Seconds(),
	}
	if o.Verdict == core.Success {
		ob.Success = 1
	}
	t.Observe(&ob)
}

// aYear in seconds is longer than any request. (A time.Duration can hold 292 years.)
const aYear = 365 * 24 * 60 * 60

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
