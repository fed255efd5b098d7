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
	// NewDeadline returns the current deadline, which may be earlier than Deadline. If the timeout is adaptive,
	// it depends on the pool's latencies. It is nil if the deadline cannot change.
	NewDeadline   func() time.Time
	Total         time.Time // deadline of the whole request; zero for none
	Session       string    // the session's name for a proxy with templates (session.Use.Token); "" for none
	Region        string    // the wanted region; "" for none
	NewConnection bool      // do not reuse an idle connection: the attempt is a replay
	Hedged        bool      // the Sender is a Hedger, and its Stop may be called
}

// Sender sends one request through the proxies that the executor chooses.
type Sender[T any] interface {
	// Send makes one attempt. It keeps the response, if there is one, until Discard is called or Run returns the
	// response. It must not use a after it has returned. It must return when ctx is cancelled.
	Send(ctx context.Context, a *Attempt) (T, verdict.Facts)
	// Discard releases a response that is not relayed.
	Discard(T)
}

// Run runs the exchange of q. It makes attempts with s until a response is final or no retry may
// follow. The response to relay is the last one: a success, or a failure. Run ends at once when ctx
// is cancelled.
func Run[T any](ctx context.Context, e *Executor, x *Exchange, q *Request, s Sender[T]) Ending[T] {
	x.begin(e, q)
	if !x.permitted() {
		return refused[T](x)
	}
	return attempts(ctx, x, s)
}

// attempts makes attempts until a response is final or no retry may follow.
func attempts[T any](ctx context.Context, x *Exchange, s Sender[T]) Ending[T] {
	q := x.request
	for x.choose(ctx) {
		race := hedged(ctx, x, s)
		response, o := send(ctx, x, &x.flight, s)
		if race != nil {
			response, o = race.decide(s, response, o)
		}
		if x.tuning.Rules != nil || x.tuning.Judge != nil {
			response, _ := s.(Excerpter)
			o = x.inspect(response, o)
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

// send makes the attempt f and returns its response and outcome. If the attempt failed because its idle
// connection was stale, send replays it.
func send[T any](ctx context.Context, x *Exchange, f *flight, s Sender[T]) (T, core.Outcome) {
	response, facts := s.Send(ctx, &f.attempt)
	o := x.judge(ctx, f, &facts)
	if o.Retry == core.Replay {
		x.recordAttempt(f, &o)
		f.beginReplay(x)
		response, facts = s.Send(ctx, &f.attempt)
		facts.Replayed = true
		o = x.judge(ctx, f, &facts)
	}
	return response, o
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
	query.Regions = q.Regions
	if q.Session != nil {
		query.Session = q.Session
	}
	query.RegionHash, query.Region, query.PlainRegion = 0, selector.RegionScored, upstream.PlainRegion(q.Region)
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
			x.query.RegionHash = x.proxy.RegionHash() // region of the failed proxy
		}
	}
	x.query.Attempt = number
	lease, now, ok := x.acquire(ctx, scorer, now)
	if !ok {
		return false
	}
	id := lease.Proxy.ID()
	if q.Session != nil {
		q.Session.Attempt(number, id, lease.Proxy.Templated())
	}
	if number > 0 {
		x.logRetry(id) // logged only here, because earlier it is not certain that the retry begins
	}
	x.result.Attempts, x.result.ProxyID, x.lostHedge = number+1, id, false
	x.flight.begin(x, &lease, number, now)
	x.event.Delay, x.event.RetryReason = x.retry.delay, x.retry.reason
	if q.Progress != nil {
		q.Progress.Attempt(number, id)
	}
	return true
}

// begin begins the attempt f through the proxy of lease, and moves the lease to f.
func (f *flight) begin(x *Exchange, lease *upstream.Lease, number int, now time.Time) {
	f.proxy, f.lease = lease.Proxy, *lease
	f.lease.Target = x.request.Target
	e, a := &f.event, &f.attempt
	*e = core.AttemptEvent{} // field by field: a composite literal would be copied on the stack
	e.Request, e.ProxyID, e.Attempt, e.Started = x.request.ID, f.proxy.ID(), number, now
	*a = Attempt{}
	a.Upstream, a.Number, a.Started, a.Total = f.proxy, number, now, x.deadline
	a.Region = x.request.Region
	if s := x.request.Session; s != nil && f.proxy.Templated() {
		a.Session = s.Token()
	}
	f.setDeadline(x)
}

// beginReplay prepares the replay of the attempt on a new connection.
func (f *flight) beginReplay(x *Exchange) {
	f.event.Started = x.executor.now()
	f.attempt.NewConnection, f.attempt.Started = true, f.event.Started
	f.setDeadline(x)
}

// An adaptive timeout is tailFactor times the proxy's 99th percentile of latency (upstream.Tail), but at least
// leastAttempt or leastUnknown.
const (
	tailFactor   = 3
	leastAttempt = 250 * time.Millisecond
	// leastUnknown is the minimum if it is unknown how slow the proxy is: for the probe of a half-open
	// breaker, and for an attempt that began before the pool had latencies.
	leastUnknown = 400 * time.Millisecond
)

// setDeadline sets the deadline of the attempt that begins. The adaptive timeout applies if a retry may
// follow and there is another proxy. It does not apply if there is a retry budget, because the budget may
// refuse the retry.
func (f *flight) setDeadline(x *Exchange) {
	q, t, a := x.request, x.tuning, &f.attempt
	f.cutShort, a.NewDeadline = false, nil
	a.Deadline = f.event.Started.Add(t.AttemptTimeout)
	if !x.deadline.IsZero() && x.deadline.Before(a.Deadline) {
		a.Deadline = x.deadline
	}
	if t.Adaptive && t.Budget == nil && a.Number+1 < q.Policy.MaxAttempts && q.Replayable &&
		(q.Idempotent || q.Policy.RetryNonIdempotent) && x.mayChange(f.proxy) {
		f.leastTimeout = leastAttempt
		if f.lease.Probe() || f.proxy.Tail() == 0 {
			f.leastTimeout = leastUnknown
		}
		switch {
		case f != &x.flight:
			a.NewDeadline = f.shorten
		case x.shortenLast == nil:
			x.shortenLast = f.shorten
			fallthrough
		default:
			a.NewDeadline = x.shortenLast
		}
		f.shorten()
	}
}

// mayChange reports whether a retry may use another proxy than u.
func (x *Exchange) mayChange(u *upstream.Upstream) bool {
	s := x.request.Session
	return u.HasPeers() && (s == nil || !s.Strict())
}

// shorten moves the attempt's deadline forward to its adaptive timeout and returns it. If the pool had no
// latencies at the beginning of the attempt, the adaptive timeout applies as soon as there are latencies.
func (f *flight) shorten() time.Time {
	a := &f.attempt
	if tail := f.proxy.Tail(); tail > 0 {
		if d := f.event.Started.Add(max(tailFactor*tail, f.leastTimeout)); d.Before(a.Deadline) {
			a.Deadline, f.cutShort = d, true
		}
	}
	return a.Deadline
}

// judge completes the facts of an attempt and returns its outcome.
func (x *Exchange) judge(ctx context.Context, a *flight, f *verdict.Facts) core.Outcome {
	q, now := x.request, x.executor.now()
	a.event.Ended = now
	if f.Now = now; f.Latency == 0 {
		f.Latency = now.Sub(a.event.Started)
	}
	f.Tunnel, f.Replayable = q.Tunnel, q.Replayable
	f.Idempotent, f.OptedIn = q.Idempotent, q.Policy.RetryNonIdempotent
	f.Direct, f.Proven = a.proxy.Direct(), a.proxy.HasServed()
	f.ClientRegion = x.query.PlainRegion && a.proxy.AnyRegion() && x.query.RegionHash != a.proxy.RegionHash()
	f.StatusRetried, f.StatusCounted = q.Policy.Retries(f.Status), q.Global.Retries(f.Status)
	f.CutShort = a.cutShort && !now.Before(a.attempt.Deadline)
	f.TotalTimeout, f.TighterTimeout = !x.deadline.IsZero() && !now.Before(x.deadline), q.tighterTimeout()
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); cause != errHedgeLost {
			f.Stopped = cause
		}
	}
	if targets := x.tuning.Targets; f.InnerOutcome != "" && targets != nil {
		f.TargetServed = targets.ServedElsewhere(q.Target, a.proxy.Hash(), now.Sub(x.tuning.Epoch))
	}
	return verdict.Judge(f)
}

// served stores the outcome of an attempt that served the request. The attempt is settled and recorded when
// the relay or tunnel is closed.
func (x *Exchange) served(o *core.Outcome) {
	x.chargeDeferred(x.request.Tunnel, o.Latency)
	x.confirmBans()
	switch s := x.request.Session; {
	case s == nil:
	case x.request.Tunnel: // a proxy may open tunnels and drop them; Tunnel.Proven binds the session
		x.result.MovedFrom = s.Moved()
	default:
		x.result.MovedFrom = s.Served(x.event.Ended)
	}
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
	x.query.Tried = append(x.query.Tried, selector.Tried{Proxy: x.proxy, Barred: verdict.Bars(o.Cause)})
	x.finding = evidence.Finding{}
	// If the proxy has no success yet, only a tunnel raises its Tail, because targets of tunnels take longer than
	// the pool's Tail shows.
	if o.Cause == verdict.CutShort && (x.request.Tunnel || x.proxy.HasServed()) {
		x.proxy.Stretch(o.Latency)
	}
	t := x.tuning
	if o.Charge == core.ChargeProxyIfServed && (t.Targets != nil || o.Cause == verdict.CutShort) {
		x.deferred = append(x.deferred, deferred{lease: x.lease.Part(), outcome: *o})
	} else {
		x.finding = x.lease.Settle(o)
		x.lease.Release()
	}
	x.recordAttempt(&x.flight, o)
	if t.Observe != nil && o.Verdict != core.Excluded {
		x.observe(o, t)
	}
}

// recordAttempt records the attempt f, whose outcome is o.
func (x *Exchange) recordAttempt(f *flight, o *core.Outcome) {
	f.event.Outcome = *o
	x.executor.recorder.Attempt(&f.event)
	if p := x.request.Progress; p != nil {
		p.Finished(&f.event)
	}
	if x.request.KeepEvents {
		x.eventsMu.Lock()
		defer x.eventsMu.Unlock()
		x.result.Events = append(x.result.Events, f.event)
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

// aYear is a year in seconds. No request lasts that long, and a time.Duration can hold it (292 years at
// most).
const aYear = 365 * 24 * 60 * 60

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
