package executor

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// refuse ends x because no proxy can be chosen for the next attempt. It does not wait for a breaker: a
// request waits only if proxies have reached max_in_flight (see acquire).
func (x *Exchange) refuse(err error) {
	kind, after, final := NoProxy, time.Duration(0), core.FinalAllBreakersOpen
	now := x.executor.now
	region, ofRegion := err.(*core.RegionError)
	resting, allRest := err.(*core.RestingError)
	session, ofSession := err.(*core.SessionError)
	switch {
	case ofSession:
		final = core.FinalSessionUnavailable
		if !session.Due.IsZero() {
			after = max(session.Due.Sub(now()), time.Millisecond)
		}
	case allRest:
		final, after = restingFinal(resting), resting.Left
	case ofRegion:
		final = core.FinalNoProxyInRegion
		if !region.Due.IsZero() {
			after = max(region.Due.Sub(now()), time.Millisecond)
		}
	case errors.Is(err, core.ErrPoolEmpty):
		final = core.FinalPoolEmpty
	case errors.Is(err, core.ErrAllBusy):
		final, after = core.FinalAllBusy, time.Second
	case errors.Is(err, selector.ErrBarred):
		if final, kind = lastFinal(x.event.Outcome.Cause), AttemptFailed; final == 0 {
			final, kind = core.FinalExhausted, NoneAccepts
		}
	default:
		after = time.Second
		if at, ok := x.executor.selector.NextTest(); ok {
			after = max(at.Sub(now()), time.Millisecond) // at is not after now if a probe is in flight
		}
	}
	x.result.Final = final
	x.setRefusal(kind)
	x.refusal.Err, x.refusal.RetryAfter = err, after
	if kind == AttemptFailed {
		x.logFailed(&x.refusal.Last)
		return
	}
	x.log(slog.LevelError, "no proxy admissible", nil, slog.String("error", final.String()))
}

// restingFinal returns the final outcome of a request for which no proxy is left because of rests and bans.
func restingFinal(e *core.RestingError) core.Final {
	if e.Everywhere {
		return core.FinalAllBanned
	}
	return core.FinalAllBannedHere
}

// lastFinal returns the final outcome of a request whose last attempt ended with cause c; 0 if c
// does not decide it.
func lastFinal(c core.Cause) core.Final {
	switch c {
	case verdict.EgressDenied:
		return core.FinalEgressDenied
	case verdict.ProxyLoop:
		return core.FinalLoopDetected
	}
	return 0
}

// permitted reports whether the request may go to its target. If not, it sets the refusal.
func (x *Exchange) permitted() bool {
	if x.tuning.Permit == nil {
		return true
	}
	err := x.tuning.Permit(x.request.Host, portOf(x.request.Target.Name))
	if err == nil {
		return true
	}
	x.result.Final = core.FinalEgressDenied
	x.setRefusal(Denied)
	x.refusal.Err = err
	x.log(slog.LevelWarn, "target denied", err)
	return false
}

// portOf returns the port of host:port; 0 if it has none.
func portOf(hostPort string) uint16 {
	port := 0
	for _, c := range []byte(hostPort[strings.LastIndexByte(hostPort, ':')+1:]) {
		if c < '0' || c > '9' || port > 6553 {
			return 0
		}
		port = 10*port + int(c-'0')
	}
	if port > 65535 {
		return 0
	}
	return uint16(port)
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
		x.refusal.Direct = x.proxy.Direct()
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
