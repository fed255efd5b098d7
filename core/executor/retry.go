package executor

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

type nextStep uint8

const (
	stepRefuse nextStep = iota // end the exchange with the refusal that is set
	stepRelay                  // relay the last attempt's response
	stepRetry
)

// decideStep decides what follows the last attempt, whose outcome is o: a retry, the relay of its response, or a
// refusal. The result wait is the time to wait before the retry.
func (ex *Exchange) decideStep(ctx context.Context, o *core.Outcome) (wait time.Duration, step nextStep) {
	relay := o.Relay
	switch {
	case o.Retry == core.NoRetry && o.Result == core.ResultCancelled:
		ex.result.Final, relay = core.FinalCancelled, false
	case o.Retry == core.NoRetry && o.Cause == verdict.TotalTimeout:
		ex.result.Final = core.FinalTimeout
	case o.Retry == core.NoRetry && o.Cause == verdict.InnerGaveUp: // the response of the inner gateway is relayed
		ex.result.Final = core.FinalExhausted
	case o.Retry == core.NoRetry:
		ex.result.Final = core.FinalNotRetryable
	case ex.result.Attempts >= ex.maxAttempts:
		ex.result.Final, ex.retry.limitReached = core.FinalExhausted, true
	case o.Repeat != core.RepeatAllowed:
		ex.result.Final = core.FinalNotRetryable
	case ex.isTargetSuspect(o):
		ex.result.Final, ex.retry.targetSuspect = core.FinalExhausted, true
	case verdict.FollowsRuling(o.Cause) && ex.relayLastResponse(o):
	case ex.refuseIfNoProxy():
		return 0, stepRefuse
	default:
		wait = ex.backoff(o)
		if !ex.deadline.IsZero() && wait >= ex.deadline.Sub(ex.executor.now()) {
			ex.result.Final = core.FinalTimeout
			break
		}
		switch queueWait, ok := ex.withdrawRetry(ctx); {
		case ok: // the time in the queue counts as backoff
			wait = max(wait, queueWait)
			ex.result.BackoffTime += wait
			ex.retry.delay, ex.retry.reason = wait, o.Reason
			return wait - queueWait, stepRetry
		case ctx.Err() != nil:
			ex.result.Final, relay = core.FinalCancelled, false
		default:
			ex.result.Final, ex.retry.budgetSpent = core.FinalExhausted, true
		}
	}
	if final := finalOfCause(o.Cause); final != 0 && ex.result.Final != core.FinalCancelled &&
		ex.result.Final != core.FinalTimeout {
		ex.result.Final = final
	}
	switch {
	case ex.result.Final == core.FinalCancelled && ctx.Err() != nil:
		ex.refuseCancelled(context.Cause(ctx))
	case !relay:
		ex.setRefusal(ex.failureKind(o))
	}
	if ex.result.Final != core.FinalCancelled {
		ex.logFailed(o)
	}
	if relay {
		return 0, stepRelay
	}
	return 0, stepRefuse
}

// isTargetSuspect reports whether a retry is refused because the target is suspect. A few requests are retried
// nevertheless (Targets.AdmitRetries), to detect when the target has recovered.
func (ex *Exchange) isTargetSuspect(o *core.Outcome) bool {
	targets := ex.tuning.Targets
	// mayBeTarget is set if the failure may be due to the target. If the tunnel was already open when the attempt was
	// cut short (silentTime is set), the target has not refused it.
	mayBeTarget := o.Charge == core.ChargeProxyOrTarget || verdict.IsRefusal(o.Cause) ||
		o.Cause == verdict.CutShort && ex.silentTime == 0
	if targets == nil || ex.retry.retriesAdmitted || !mayBeTarget || !targets.IsSuspect(ex.request.Target) {
		return false
	}
	r := &ex.retry
	r.retriesAdmittedAt = ex.event.Ended.Sub(ex.tuning.Epoch)
	r.retriesAdmitted = targets.AdmitRetries(ex.request.Target, verdict.IsTimeout(o.Cause), r.retriesAdmittedAt)
	return !r.retriesAdmitted
}

// refuseIfNoProxy reports whether no proxy can be chosen for a retry. If so, it sets the refusal, because a backoff
// would only delay the refusal.
func (ex *Exchange) refuseIfNoProxy() bool {
	err := ex.executor.selector.CheckSelect(&ex.query, ex.executor.now())
	if err != nil {
		ex.refuseNoProxy(err)
	}
	return err != nil
}

// backoff returns the wait before the next attempt: 0, the failover delay, or the delay that the strategy computes,
// limited by the policy.
func (ex *Exchange) backoff(o *core.Outcome) time.Duration {
	p, now := ex.request.Policy, ex.executor.now()
	s := ex.executor.selector
	switch {
	case o.Retry == core.RetryElsewhere && (verdict.BarsProxy(o.Cause) || s.HasUntried(&ex.query, now)):
		return 0
	case p.FailoverDelay != nil && s.HasUntried(&ex.query, now):
		return seconds(*p.FailoverDelay)
	case o.RetryAfter > 0 && (!o.NoTargetResponse || ex.tuning.Targets == nil): // the Retry-After of the target itself
	case (o.NoTargetResponse || ex.finding.ServesOthersNow()) && s.HasUntried(&ex.query, now):
		return 0 // a wait is useful only if the target has responded and serves no other proxy now
	}
	r := core.BackoffRequest{
		Retry: float64(ex.result.Attempts), BaseDelay: p.BaseDelay, Multiplier: p.Multiplier, Cap: p.MaxBackoffDelay,
		Random: float64(ex.executor.rand()>>11) / (1 << 53), PreviousDelay: ex.retry.delay.Seconds(),
		RetryAfter: o.RetryAfter.Seconds(), LastStatus: float64(o.Status),
		Elapsed: now.Sub(ex.bodyEnd).Seconds(), Remaining: -1, MaxAttempts: float64(ex.maxAttempts),
		HostHash: ex.query.HostHash, IDHash: ex.proxy.IDHash(), Now: unixSeconds(now),
	}
	if p.Jitter {
		r.Jitter = 1
	}
	if !ex.deadline.IsZero() {
		r.Remaining = ex.deadline.Sub(now).Seconds()
	}
	delay := p.BaseDelay
	if b := ex.tuning.Backoff(p.BackoffStrategy); b != nil {
		if d, err := b.Delay(&r); err == nil && !math.IsNaN(d) {
			delay = d
		}
	}
	// The delay is limited before the conversion, which may overflow.
	return seconds(min(max(delay, r.RetryAfter, 0), p.MaxBackoffDelay))
}

// waitBackoff waits for d. If the context is cancelled, or the total timeout passes, it sets the refusal and returns
// false.
func (ex *Exchange) waitBackoff(ctx context.Context, d time.Duration) bool {
	if d > 0 && ctx.Err() == nil {
		ex.sleep(ctx, d)
	}
	if ctx.Err() != nil {
		ex.refuseCancelled(context.Cause(ctx))
		return false
	}
	if ex.deadline.IsZero() || ex.executor.now().Before(ex.deadline) {
		return true
	}
	o := &ex.event.Outcome
	ex.result.Final = core.FinalTimeout
	ex.setRefusal(ex.failureKind(o))
	ex.logFailed(o)
	return false
}

func (ex *Exchange) sleep(ctx context.Context, d time.Duration) {
	if ex.request.BeforeWait != nil {
		ex.request.BeforeWait()
	}
	if p := ex.request.Progress; p != nil {
		p.BeginBackoff(ex.executor.now().Add(d), ex.result.Attempts)
	}
	if ex.timer == nil {
		ex.timer = time.NewTimer(d)
	} else {
		ex.timer.Reset(d)
	}
	select {
	case <-ex.timer.C:
	case <-ctx.Done():
		ex.timer.Stop()
	}
}

// logRetry logs that a retry begins through the proxy with the given id. The log record has the outcome of the previous
// attempt.
func (ex *Exchange) logRetry(id string) {
	o := &ex.event.Outcome
	ex.log(slog.LevelInfo, "retry", o.Err, slog.Duration("delay", ex.retry.delay), slog.String("reason", o.Reason),
		slog.Int("status", o.Status), slog.String("next_proxy_id", id))
}

func (ex *Exchange) logFailed(o *core.Outcome) {
	ex.log(slog.LevelError, "request failed", o.Err,
		slog.String("outcome", ex.result.Final.String()), slog.String("reason", o.Reason))
}
