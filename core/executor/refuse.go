package executor

import (
	"errors"
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
)

// refuse ends x because no proxy can be chosen for the next attempt. A request waits only for a place at
// proxies that are at their max_in_flight (see acquire), never for a breaker.
func (x *Exchange) refuse(err error) {
	kind, after, final := NoProxy, time.Duration(0), core.FinalAllBreakersOpen
	now := x.executor.now
	region, ofRegion := err.(*core.RegionError)
	resting, allRest := err.(*core.RestingError)
	switch {
	case allRest:
		final, after = core.FinalAllBannedHere, resting.Left
	case ofRegion:
		final = core.FinalNoProxyInRegion
		if !region.Due.IsZero() {
			after = max(region.Due.Sub(now()), time.Millisecond)
		}
	case errors.Is(err, core.ErrPoolEmpty):
		final = core.FinalPoolEmpty
	case errors.Is(err, core.ErrAllBusy):
		final, after = core.FinalAllBusy, time.Second
	case errors.Is(err, selector.ErrCredentialsRefused):
		final, kind = core.FinalExhausted, NoneAccepts
	default:
		after = time.Second
		if at, ok := x.executor.selector.NextTest(); ok {
			after = max(at.Sub(now()), time.Millisecond) // a probe is in flight
		}
	}
	x.result.Final = final
	x.setRefusal(kind)
	x.refusal.Err, x.refusal.RetryAfter = err, after
	x.log(slog.LevelError, "no proxy admissible", nil, slog.String("error", final.String()))
}

// stopped ends x after its context was cancelled with cause.
func (x *Exchange) stopped(cause error) {
	x.result.Final = core.FinalCancelled
	x.setRefusal(Stopped)
	x.refusal.Err, x.refusal.RetryAfter = cause, 0
}

// setRefusal sets the refusal. The caller must set result.Final before the call.
func (x *Exchange) setRefusal(kind RefusalKind) {
	x.refusal = Refusal{x: x, Kind: kind, Final: x.result.Final, Attempts: x.result.Attempts, ProxyID: x.result.ProxyID}
	if x.proxy != nil {
		x.refusal.Last, x.refusal.RetryAfter = x.event.Outcome, x.event.Outcome.RetryAfter
	}
	if kind == TargetSuspect {
		x.refusal.Target = x.request.Target.Name
	}
}

// failureKind returns the reason why no retry follows the last attempt. o is the outcome of that attempt.
func (x *Exchange) failureKind(o *core.Outcome) RefusalKind {
	final := x.result.Final
	switch {
	case final == core.FinalTimeout && o.Retry == core.NoRetry:
		return TimedOut
	case final == core.FinalTimeout:
		return NoTimeLeft
	case x.retry.targetSuspect:
		return TargetSuspect
	case x.retry.budgetSpent:
		return BudgetSpent
	case final != core.FinalNotRetryable || o.Retry == core.NoRetry:
		return AttemptFailed
	case o.Repeat == core.RepeatBodyNotKept:
		return BodyNotKept
	}
	return NotRepeatable
}
