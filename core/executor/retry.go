package executor

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// then is what follows a failed attempt.
type then uint8

const (
	thenRefuse then = iota // end the exchange with the refusal that is set
	thenRelay              // relay the last attempt's response
	thenRetry
)

// next decides which step follows the last attempt. o is the outcome of that attempt. wait is the time before
// a retry.
func (x *Exchange) next(ctx context.Context, o *core.Outcome) (wait time.Duration, follows then) {
	relay := o.Relay
	switch {
	case o.Retry == core.NoRetry && o.Result == core.ResultCancelled:
		x.result.Final, relay = core.FinalCancelled, false
	case o.Retry == core.NoRetry && o.Cause == verdict.TotalTimeout:
		x.result.Final = core.FinalTimeout
	case o.Retry == core.NoRetry && o.Cause == verdict.InnerGaveUp: // the response of the inner gateway is relayed
		x.result.Final = core.FinalExhausted
	case o.Retry == core.NoRetry:
		x.result.Final = core.FinalNotRetryable
	case x.result.Attempts >= x.request.Policy.MaxAttempts:
		x.result.Final, x.retry.limitReached = core.FinalExhausted, true
	case o.Repeat != core.RepeatAllowed:
		x.result.Final = core.FinalNotRetryable
	case x.suspect(o):
		x.result.Final, x.retry.targetSuspect = core.FinalExhausted, true
	case verdict.Ruled(o.Cause) && x.lastResponse(o):
	case x.blocked():
		return 0, thenRefuse
	default:
		wait = x.backoff(o)
		if !x.deadline.IsZero() && wait >= x.deadline.Sub(x.executor.now()) {
			x.result.Final = core.FinalTimeout
			break
		}
		switch queued, ok := x.withdraw(ctx); {
		case ok: // the time in the queue counts as backoff
			wait = max(wait, queued)
			x.result.Waited += wait
			x.retry.delay, x.retry.reason = wait, o.Reason
			return wait - queued, thenRetry
		case ctx.Err() != nil:
			x.result.Final, relay = core.FinalCancelled, false
		default:
			x.result.Final, x.retry.budgetSpent = core.FinalExhausted, true
		}
	}
	if final := lastFinal(o.Cause); final != 0 && x.result.Final != core.FinalCancelled &&
		x.result.Final != core.FinalTimeout {
		x.result.Final = final
	}
	switch {
	case x.result.Final == core.FinalCancelled && ctx.Err() != nil:
		x.stopped(context.Cause(ctx))
	case !relay:
		x.setRefusal(x.failureKind(o))
	}
	if x.result.Final != core.FinalCancelled {
		x.logFailed(o)
	}
	if relay {
		return 0, thenRelay
	}
	return 0, thenRefuse
}

// suspect reports whether a retry is refused because the target is suspect. One request a second is retried
// nevertheless, to detect when the target has recovered.
func (x *Exchange) suspect(o *core.Outcome) bool {
	targets := x.tuning.Targets
	if targets == nil || x.retry.triedAsUsual || o.Charge != core.ChargeProxyOrTarget ||
		!targets.Suspect(x.request.Target) {
		return false
	}
	x.retry.triedAsUsual = targets.TryAsUsual(x.request.Target, x.event.Ended.Sub(x.tuning.Epoch))
	return !x.retry.triedAsUsual
}

// blocked reports whether no breaker admits an attempt. If so, it sets the refusal before the backoff,
// which would only delay it.
func (x *Exchange) blocked() bool {
	err := x.executor.selector.Blocked(&x.query, x.executor.now())
	if err != nil {
		x.refuse(err)
	}
	return err != nil
}

// backoff returns the wait before the next attempt: 0, the failover delay, or the delay that the
// strategy computes, limited by the policy.
func (x *Exchange) backoff(o *core.Outcome) time.Duration {
	p, now := x.request.Policy, x.executor.now()
	s := x.executor.selector
	switch {
	case o.Retry == core.RetryElsewhere:
		return 0
	case p.FailoverDelay != nil && s.Untried(&x.query, now):
		return seconds(*p.FailoverDelay)
	case o.RetryAfter > 0 && (!o.NoTargetResponse || x.tuning.Targets == nil): // the Retry-After of the target itself
	case (o.NoTargetResponse || x.finding.JustServed) && s.Untried(&x.query, now):
		return 0 // a wait is useful only if the target has responded and does not serve other proxies at present
	}
	r := core.BackoffRequest{
		Retry: float64(x.result.Attempts), BaseDelay: p.BaseDelay, Multiplier: p.Multiplier, Cap: p.MaxBackoffDelay,
		Random: float64(x.executor.rand()>>11) / (1 << 53), PreviousDelay: x.retry.delay.Seconds(),
		RetryAfter: o.RetryAfter.Seconds(), LastStatus: float64(o.Status),
		Elapsed: now.Sub(x.ready).Seconds(), Remaining: -1, MaxAttempts: float64(p.MaxAttempts),
		HostHash: x.query.HostHash, IDHash: x.proxy.IDHash(), Now: unix(now),
	}
	if p.Jitter {
		r.Jitter = 1
	}
	if !x.deadline.IsZero() {
		r.Remaining = x.deadline.Sub(now).Seconds()
	}
	delay := p.BaseDelay
	if b := x.tuning.Backoff(p.BackoffStrategy); b != nil {
		if d, err := b.Delay(&r); err == nil && !math.IsNaN(d) {
			delay = d
		}
	}
	// The result is computed as a float, because 60*10^8 s would overflow a Duration.
	return seconds(min(max(delay, r.RetryAfter, 0), p.MaxBackoffDelay))
}

// wait waits for d. It returns false and sets the refusal if the context is cancelled, or if the total
// timeout has passed at the end of the wait.
func (x *Exchange) wait(ctx context.Context, d time.Duration) bool {
	if d > 0 && ctx.Err() == nil {
		x.sleep(ctx, d)
	}
	if ctx.Err() != nil {
		x.stopped(context.Cause(ctx))
		return false
	}
	if x.deadline.IsZero() || x.executor.now().Before(x.deadline) {
		return true
	}
	o := &x.event.Outcome
	x.result.Final = core.FinalTimeout
	x.setRefusal(x.failureKind(o))
	x.logFailed(o)
	return false
}

func (x *Exchange) sleep(ctx context.Context, d time.Duration) {
	if x.request.BeforeWait != nil {
		x.request.BeforeWait()
	}
	if p := x.request.Progress; p != nil {
		p.Waiting(x.executor.now().Add(d), x.result.Attempts)
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

// logRetry logs that a retry begins, with the outcome of the previous attempt. id is the proxy of the
// retry.
func (x *Exchange) logRetry(id string) {
	o := &x.event.Outcome
	x.log(slog.LevelInfo, "retry", o.Err, slog.Duration("delay", x.retry.delay), slog.String("reason", o.Reason),
		slog.Int("status", o.Status), slog.String("next_proxy_id", id))
}

func (x *Exchange) logFailed(o *core.Outcome) {
	x.log(slog.LevelError, "request failed", o.Err,
		slog.String("outcome", x.result.Final.String()), slog.String("reason", o.Reason))
}
