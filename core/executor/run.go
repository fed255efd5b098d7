package executor

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Attempt describes one attempt to a Sender.
type Attempt struct {
	Upstream *upstream.Upstream
	Number   int       // 0 for the first attempt
	Started  time.Time // when the proxy was chosen
	Deadline time.Time // never zero
	// CurrentDeadline returns the current deadline, which the adaptive timeout may bring forward. It is nil if the
	// deadline cannot change.
	CurrentDeadline func() time.Time
	RequestDeadline time.Time      // deadline of the whole request; zero for none
	Session         string         // the session's name for a proxy with templates (session.Handle.Token); "" for none
	Region          string         // the wanted region; "" for none
	Meters          traffic.Meters // count the bytes of the connection
	NewConnection   bool           // must not use an idle connection, because the attempt is a replay
	MayStop         bool           // the Sender is a Hedger, and its Stop may be called
}

// Sender sends one request through the proxies that the executor chooses.
type Sender[T any] interface {
	// Send makes the attempt a and stores its facts in f, which is the zero value before the call. The Sender keeps
	// the response, if there is one, until Discard is called or Run returns the response. Send must not use the
	// arguments a and f after it has returned. It must return when ctx is cancelled.
	Send(ctx context.Context, a *Attempt, f *verdict.Facts) T
	// Discard releases a response that is not relayed.
	Discard(T)
}

// Run runs the exchange of q. It makes attempts with s until a response is final, no retry may follow, or ctx is
// cancelled. If there is a response to relay, it is the response of the last attempt, even if that attempt has failed.
func Run[T any](ctx context.Context, e *Executor, ex *Exchange, q *Request, s Sender[T]) Ending[T] {
	ex.begin(e, q)
	ex.recordRoute()
	if ex.deniedByRule() || !ex.targetPermitted() {
		return endWithRefusal[T](ex)
	}
	return runAttempts(ctx, ex, s)
}

func runAttempts[T any](ctx context.Context, ex *Exchange, s Sender[T]) Ending[T] {
	q := ex.request
	for ex.chooseProxy(ctx) {
		race := beginRace(ctx, ex, s)
		response, o := sendAttempt(ctx, ex, &ex.attemptState, s)
		if race != nil {
			response = race.decideWinner(s, response, o)
		}
		if ex.tuning.Rules.HasResponseRules() || ex.tuning.Judge != nil {
			response, _ := s.(Excerpter)
			ex.applyReview(response)
		}
		if o.HasErrorStatus() && race == nil && ex.isQuestionable(o) {
			*o = verdict.QuestionResponse(*o)
		}
		if o.Retry == core.NoRetry && o.Result == core.ResultSuccess {
			ex.acceptResponse()
			if q.WantsTunnel {
				return Ending[T]{Response: response, Tunnel: ex.endWithTunnel()}
			}
			return Ending[T]{Response: response, Relay: ex.endWithRelay(true)}
		}
		ex.settleFailure(o)
		switch wait, step := ex.decideStep(ctx, o); step {
		case stepRetry:
			s.Discard(response)
			if !ex.waitBackoff(ctx, wait) {
				return endWithRefusal[T](ex)
			}
		case stepRelay:
			return Ending[T]{Response: response, Relay: ex.endWithRelay(false)}
		default:
			s.Discard(response)
			return endWithRefusal[T](ex)
		}
	}
	return endWithRefusal[T](ex)
}

// sendAttempt makes an attempt. If the idle connection that the attempt uses was stale, sendAttempt replays the request
// on a new connection.
func sendAttempt[T any](ctx context.Context, ex *Exchange, st *attemptState, s Sender[T]) (T, *core.Outcome) {
	response, o := s.Send(ctx, &st.attempt, &st.facts), &st.event.Outcome
	ex.judgeAttempt(ctx, st)
	if o.Retry == core.Replay {
		ex.recordAttempt(st, o)
		st.beginReplay(ex)
		response = s.Send(ctx, &st.attempt, &st.facts)
		st.facts.IsReplay = true
		ex.judgeAttempt(ctx, st)
	}
	return response, o
}

func endWithRefusal[T any](ex *Exchange) Ending[T] {
	ex.openEnding = refusalEnding
	return Ending[T]{Refusal: &ex.refusal}
}

func (ex *Exchange) begin(e *Executor, q *Request) {
	ex.reset()
	ex.executor, ex.tuning, ex.request = e, e.tuning.Load(), q
	if ex.started = q.Started; ex.started.IsZero() {
		ex.started = e.now()
	}
	if ex.bodyEnd = q.BodyEnd; ex.bodyEnd.IsZero() {
		ex.bodyEnd = ex.started
	}
	if q.Policy.Timeout != nil {
		ex.deadline = ex.bodyEnd.Add(seconds(min(*q.Policy.Timeout, secondsPerYear)))
	}
	if ex.tuning.Budget != nil {
		ex.tuning.Budget.Deposit(ex.bodyEnd)
		e.retries.Serve()
	}
	query := &ex.query
	query.Idempotent, query.Connect = q.Idempotent || q.Policy.RetryNonIdempotent, q.WantsTunnel
	ex.target.set(q)
	query.Host, query.HostHash, query.TargetHash = q.Host, ex.target.hostHash, q.Target.Hash
	query.Need = ability.NeedOf(q.WantsTunnel || q.TLS, q.Target.Name)
	ex.maxAttempts = q.Policy.MaxAttempts
	query.Retryable = ex.maxAttempts > 1 && q.Replayable
	ex.applyRoute()
	if q.Session != nil {
		query.Session = q.Session
	}
}

// chooseProxy chooses a proxy and begins the next attempt through it. If no proxy can be chosen, it sets the refusal
// and returns false.
func (ex *Exchange) chooseProxy(ctx context.Context) bool {
	q, number := ex.request, ex.result.Attempts
	scorer, now := ex.tuning.FirstScorer, ex.bodyEnd
	if routeScorer := q.Route.Scorer(); routeScorer != nil {
		scorer = routeScorer
	}
	if number > 0 {
		scorer, now = ex.tuning.RetryScorer, ex.executor.now()
		if ex.region == "" {
			ex.query.RegionHash = ex.proxy.RegionHash() // region of the failed proxy
		}
	}
	ex.query.Attempt = number
	now, ok := ex.acquireLease(ctx, scorer, now)
	if !ok {
		return false
	}
	id := ex.lease.Proxy.ID()
	if q.Session != nil {
		q.Session.RecordAttempt(number, id, ex.lease.Proxy.HasTemplates())
	}
	if number > 0 {
		ex.logRetry(id) // logged here, because before this point the retry may still be refused
	}
	ex.result.Attempts, ex.result.ProxyID, ex.lostHedge = number+1, id, false
	ex.attemptState.begin(ex, number, now)
	ex.event.Delay, ex.event.RetryReason = ex.retry.delay, ex.retry.reason
	if q.Progress != nil {
		q.Progress.BeginAttempt(number, id)
	}
	return true
}

// begin begins an attempt with the given number, through the proxy of st.lease.
func (st *attemptState) begin(ex *Exchange, number int, now time.Time) {
	st.proxy, st.lease.Target = st.lease.Proxy, ex.request.Target
	e, a := &st.event, &st.attempt
	// Each struct is first cleared, and its fields are then set one by one. If a struct value with fields were
	// assigned, Go would make a copy of it on the stack.
	*e = core.AttemptEvent{}
	*a = Attempt{}
	st.facts = verdict.Facts{}
	e.Request, e.ProxyID, e.Attempt, e.Started = ex.request.ID, st.proxy.ID(), number, now
	e.Host = ex.request.Host
	a.Upstream, a.Number, a.Started, a.RequestDeadline = st.proxy, number, now, ex.deadline
	a.Region, a.Meters = ex.region, st.lease.Meters(ex.request.Meter)
	if s := ex.request.Session; s != nil && st.proxy.HasTemplates() {
		a.Session = s.Token()
	}
	st.silentTime = 0
	st.setDeadline(ex)
}

func (st *attemptState) beginReplay(ex *Exchange) {
	st.event.Started, st.facts = ex.executor.now(), verdict.Facts{}
	st.attempt.NewConnection, st.attempt.Started = true, st.event.Started
	st.setDeadline(ex)
}

// An adaptive timeout is upstream.TailFactor times the time within which nearly all responses through the proxy begin
// (Upstream.Tail). The minimum is minAdaptiveTimeout or, for a proxy of unknown speed, minTimeoutUnknownProxy.
const (
	minAdaptiveTimeout = 250 * time.Millisecond
	// minTimeoutUnknownProxy is the minimum if the proxy's speed is unknown: for the probe of a half-open breaker, and
	// for an attempt that began before any proxy of the pool had a latency.
	minTimeoutUnknownProxy = 400 * time.Millisecond
	// newPoolTimeout is the adaptive timeout of a request's first attempt until a proxy of the pool has served a
	// request. It does not apply if breaker.blame is "literal".
	newPoolTimeout = 3 * time.Second
)

// probeTimeout returns the minimum of a probe's adaptive timeout if the proxy has not served a request yet. It may be
// much slower than the others. So the 2nd and the 4th probe have 2 and 4 times as long as the first, and the 8th and
// each later power of two have newPoolTimeout. All others have as long as the first, since most such proxies hang. The
// parameter cut is the number of earlier probes that were cut short.
func probeTimeout(cut int) time.Duration {
	n := min(cut, 1<<20) + 1
	if n&(n-1) != 0 { // no power of two
		return minTimeoutUnknownProxy
	}
	return min(time.Duration(n)*minTimeoutUnknownProxy, newPoolTimeout)
}

// setDeadline sets the deadline of the attempt that begins. The adaptive timeout applies only if a retry through
// another proxy is certain to follow. It does not apply if there is a retry budget, which may refuse the retry.
func (st *attemptState) setDeadline(ex *Exchange) {
	q, t, a := ex.request, ex.tuning, &st.attempt
	st.cutShort, st.newPoolTimeoutApplies, a.CurrentDeadline = false, t.Targets != nil && a.Number == 0, nil
	timeout := t.AttemptTimeout
	if routeTimeout := q.Route.AttemptTimeout(); routeTimeout > 0 {
		timeout = min(timeout, seconds(routeTimeout))
	}
	a.Deadline = st.event.Started.Add(timeout)
	if !ex.deadline.IsZero() && ex.deadline.Before(a.Deadline) {
		a.Deadline = ex.deadline
	}
	if t.Adaptive && t.Budget == nil && a.Number+1 < ex.maxAttempts && q.Replayable &&
		(q.Idempotent || q.Policy.RetryNonIdempotent) && ex.canChangeProxy(st.proxy) {
		st.minTimeout = minAdaptiveTimeout
		switch {
		case st.lease.Probe() && t.Targets != nil && !st.proxy.HasServed():
			longest := st.longestProbe(ex, timeout)
			st.minTimeout = max(min(probeTimeout(st.proxy.CutProbes()), longest), minTimeoutUnknownProxy)
		case st.lease.Probe() || st.proxy.Tail() == 0:
			st.minTimeout = minTimeoutUnknownProxy
		}
		switch {
		case st != &ex.attemptState:
			a.CurrentDeadline = st.updateDeadline
		case ex.updateDeadlineFunc == nil:
			ex.updateDeadlineFunc = st.updateDeadline
			fallthrough
		default:
			a.CurrentDeadline = ex.updateDeadlineFunc
		}
		st.updateDeadline()
	}
}

// longestProbe returns the maximum of the adaptive timeout of a probe. It leaves half of the request's time to a retry.
// It is also shorter than the timeout of the attempt, because a probe that ends with the attempt is not counted as cut
// short.
func (st *attemptState) longestProbe(ex *Exchange, timeout time.Duration) time.Duration {
	longest := timeout - timeout/16
	if !ex.deadline.IsZero() {
		longest = min(longest, ex.deadline.Sub(st.event.Started)/2)
	}
	return longest
}

// canChangeProxy reports whether a retry may use a proxy other than u.
func (ex *Exchange) canChangeProxy(u *upstream.Upstream) bool {
	s := ex.request.Session
	return u.HasPeers() && (s == nil || !s.IsStrict()) && !ex.query.Direct
}

// updateDeadline applies the adaptive timeout, and returns the attempt's deadline. The timeout may change during the
// attempt, when the pool gets its first latencies.
func (st *attemptState) updateDeadline() time.Time {
	a, timeout := &st.attempt, newPoolTimeout
	if tail := st.proxy.Tail(); tail > 0 {
		timeout = max(upstream.TailFactor*tail, st.minTimeout)
	} else if !st.newPoolTimeoutApplies || st.proxy.PoolHasServed() {
		return a.Deadline
	}
	if d := st.event.Started.Add(timeout); d.Before(a.Deadline) {
		a.Deadline, st.cutShort = d, true
	}
	return a.Deadline
}

func (ex *Exchange) judgeAttempt(ctx context.Context, a *attemptState) {
	f, q, now := &a.facts, ex.request, ex.executor.now()
	a.event.Ended = now
	if f.Now = now; f.Latency == 0 {
		f.Latency = now.Sub(a.event.Started)
	}
	f.Tunnel, f.Replayable = q.WantsTunnel, q.Replayable
	f.Idempotent, f.RetryNonIdempotent = q.Idempotent, q.Policy.RetryNonIdempotent
	f.Direct, f.ProxyHasServed = a.proxy.Direct(), a.proxy.HasServed()
	if f.Challenge != 0 && !q.WantsTunnel {
		f.TargetChallenge = a.proxy.ChallengedByTarget(q.Target, f.Challenge, now.Sub(ex.tuning.Epoch))
	}
	f.ClientRegion = ex.query.PlainRegion && a.proxy.AnyRegion() && ex.query.RegionHash != a.proxy.RegionHash()
	f.StatusRetried, f.StatusCounted = q.Policy.RetriesStatus(f.Status), q.GlobalPolicy.RetriesStatus(f.Status)
	f.CutShort = a.cutShort && !now.Before(a.attempt.Deadline)
	if routeTimeout := q.Route.AttemptTimeout(); routeTimeout > 0 {
		f.TighterAttemptTimeout = seconds(routeTimeout) < ex.tuning.AttemptTimeout && !now.Before(a.attempt.Deadline)
	}
	f.TotalTimeout, f.TighterTotalTimeout = !ex.deadline.IsZero() && !now.Before(ex.deadline), q.tighterTimeout()
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); cause != errHedgeLost {
			f.CancelCause = cause
		}
	}
	if targets := ex.tuning.Targets; f.InnerOutcome != "" && targets != nil {
		f.TargetServedElsewhere = targets.JustSucceededThroughOther(q.Target, a.proxy.Hash(), now.Sub(ex.tuning.Epoch))
	}
	a.event.Outcome = verdict.Judge(f)
}

// isQuestionable reports whether the response of an attempt with outcome o may be the proxy's own error page, and a
// retry through another proxy can show this. The status is at least 400. The result is false in these cases:
//
// - Another proxy has already sent a questionable response with this status. The target has then probably sent both.
//
// - The proxy belongs to a session, which a retry would move, or a rule has applied.
//
// - No other proxy is known to relay responses. If the retry failed, the client would lose the response. After a 405 or
// 501 to a GET or HEAD, which targets hardly ever send, any other proxy suffices, unless a client has already lost a
// response of this proxy.
func (ex *Exchange) isQuestionable(o *core.Outcome) bool {
	q, t, now := ex.request, ex.tuning, ex.event.Ended
	if t.Targets == nil || t.Budget != nil || o.Cause != verdict.Answered || !ex.facts.FromProxy || !q.Safe ||
		!q.Replayable || ex.result.Attempts >= ex.maxAttempts || ex.event.Rule != "" ||
		q.Session != nil && q.Session.StartProxy() == ex.proxy.ID() ||
		!ex.proxy.Abilities().IsQuestionable(q.Target.Hash, o.Status, now.Sub(t.Epoch)) {
		return false
	}
	for i := range ex.deferredAttempts {
		if d := &ex.deferredAttempts[i].outcome; d.Cause == verdict.ProxyErrorPage && d.Status == o.Status {
			return false
		}
	}
	tried := len(ex.query.Tried)
	ex.query.Tried = append(ex.query.Tried, selector.TriedProxy{Proxy: ex.proxy})
	ex.query.KnownToRelay = true
	ex.query.KnownToRelay = ex.executor.selector.HasUntried(&ex.query, now)
	questionable := ex.query.KnownToRelay || ability.IsUnsupported(o.Status) &&
		(q.Method == http.MethodGet || q.Method == http.MethodHead) && !ex.proxy.Abilities().HasLostResponse() &&
		ex.executor.selector.HasUntried(&ex.query, now)
	ex.query.Tried = ex.query.Tried[:tried]
	return questionable
}

// acceptResponse is called when an attempt has served the request. The attempt is settled and recorded when the
// exchange's ending is closed.
func (ex *Exchange) acceptResponse() {
	o := &ex.event.Outcome
	if len(ex.deferredAttempts) > 0 {
		ex.chargeDeferred(ex.request.WantsTunnel, o.Latency)
	}
	ex.confirmBans()
	switch s := ex.request.Session; {
	case s == nil:
	case ex.request.WantsTunnel: // a proxy may open tunnels and drop them; Tunnel.SettleSuccess binds the session
		ex.result.MovedFrom = s.MovedFrom()
	default:
		ex.result.MovedFrom = s.BindServed(ex.event.Ended)
	}
	ex.result.Final = core.FinalSuccess
	ex.lease.ReportHead()
}

// endWithRelay returns the last response as the Relay that Run returns.
func (ex *Exchange) endWithRelay(served bool) *Relay {
	ex.openEnding, ex.relay.settleOnClose = relayEnding, served
	return &ex.relay
}

func (ex *Exchange) settleFailure(o *core.Outcome) {
	ex.query.Tried = append(ex.query.Tried, selector.TriedProxy{Proxy: ex.proxy, Barred: verdict.BarsProxy(o.Cause)})
	ex.finding = evidence.Finding{}
	// An attempt that was cut short raises the proxy's Tail, because this Tail was too short. There is nothing to raise
	// if newPoolTimeout ended the attempt: Tail is 0 then. The Tail of a proxy without a success is the pool's Tail,
	// which is too short only for tunnels.
	if o.Cause == verdict.CutShort && (ex.request.WantsTunnel || ex.proxy.HasServed()) && ex.proxy.Tail() > 0 {
		minTail := ex.minTimeout
		if ex.silentTime > 0 { // the tunnel was open
			minTail = MinFirstByteTimeout + o.Latency
		}
		ex.proxy.RaiseTail(o.Latency+ex.silentTime, minTail)
	}
	if o.Cause == verdict.CutShort && ex.lease.Probe() && !ex.proxy.HasServed() {
		ex.proxy.CountCutProbe()
	}
	t := ex.tuning
	if o.Charge == core.ChargeProxyIfServed && (t.Targets != nil || o.Cause == verdict.CutShort) {
		silent := o.Cause == verdict.CutShort && ex.lease.RecordCutShort(o)
		ex.deferredAttempts = append(ex.deferredAttempts, deferredAttempt{
			poolWasSilent: silent, lease: ex.lease.DetachPermit(), outcome: *o, silentTime: o.Latency + ex.silentTime,
			awaitsFirstByte: errors.Is(o.Err, verdict.ErrHelloRefused),
		})
	} else {
		ex.finding = ex.lease.Settle(o)
		ex.lease.Release()
	}
	ex.recordAttempt(&ex.attemptState, o)
	ex.sendObservation(o, t)
}

func (ex *Exchange) recordAttempt(st *attemptState, o *core.Outcome) {
	if o != &st.event.Outcome {
		st.event.Outcome = *o
	}
	if o.Retry != core.Replay && verdict.SentToProxy(o.Cause) {
		st.attempt.Meters.CountAttempt()
	}
	ex.executor.recorder.CountAttempt(&st.event, st.proxy.Slot())
	if p := ex.request.Progress; p != nil {
		p.EndAttempt(&st.event)
	}
	if ex.request.KeepEvents {
		ex.eventsMu.Lock()
		defer ex.eventsMu.Unlock()
		ex.result.Events = append(ex.result.Events, st.event)
	}
}

// sendObservation passes the attempt with outcome o to Tuning.Observe. It does nothing if no plugin needs the
// observation, or if the attempt shows nothing about the proxy (core.Excluded).
func (ex *Exchange) sendObservation(o *core.Outcome, t *Tuning) {
	if t.Observe == nil || o.Verdict == core.Excluded || t.Observes != nil && !t.Observes() {
		return
	}
	ob := &ex.observation
	*ob = core.Observation{
		Now: unixSeconds(ex.event.Ended), IDHash: ex.proxy.IDHash(), HostHash: ex.query.HostHash,
		Attempt: float64(ex.event.Attempt), Latency: o.Latency.Seconds(), Status: float64(o.Status),
		Delay: ex.retry.delay.Seconds(),
	}
	if o.Verdict == core.Success {
		ob.Success = 1
	}
	t.Observe(ob)
}

// secondsPerYear is a year in seconds. No request takes longer, and a time.Duration can hold this time.
const secondsPerYear = 365 * 24 * 60 * 60

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func unixSeconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
