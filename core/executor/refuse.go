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

// refuseNoProxy sets the refusal because of an error of Selector.Select.
func (ex *Exchange) refuseNoProxy(err error) {
	kind, retryAfter, final := NoProxy, time.Duration(0), core.FinalAllBreakersOpen
	now := ex.executor.now
	region, isRegionErr := err.(*core.RegionError)
	tag, isTagErr := err.(*core.TagError)
	banned, isBannedErr := err.(*core.BannedError)
	session, isSessionErr := err.(*core.SessionError)
	limited, isLimitErr := asLimitedError(err)
	switch {
	case isSessionErr:
		final = core.FinalSessionUnavailable
		if !session.Due.IsZero() {
			retryAfter = max(session.Due.Sub(now()), time.Millisecond)
		}
	case isBannedErr:
		final, retryAfter = bannedFinal(banned), banned.TimeLeft
	case isRegionErr:
		final = core.FinalNoProxyInRegion
		if !region.Due.IsZero() {
			retryAfter = max(region.Due.Sub(now()), time.Millisecond)
		}
	case isTagErr:
		final = core.FinalNoProxyWithTag
		if !tag.Due.IsZero() {
			retryAfter = max(tag.Due.Sub(now()), time.Millisecond)
		}
	case errors.Is(err, core.ErrPoolEmpty):
		final = core.FinalPoolEmpty
	case isLimitErr:
		final, retryAfter = core.FinalAllBusy, limited.TimeLeft
		if limited.WaitsForAttempt && (retryAfter == 0 || retryAfter > time.Second) {
			retryAfter = time.Second
		}
	case errors.Is(err, core.ErrAllBusy):
		final, retryAfter = core.FinalAllBusy, time.Second
	case errors.Is(err, selector.ErrBarred):
		if final, kind = finalOfCause(ex.event.Outcome.Cause), AttemptFailed; final == 0 {
			final, kind = core.FinalExhausted, CredentialsRefused
		}
	case ex.proxy != nil && ex.tuning.Targets != nil && finalOfCause(ex.event.Outcome.Cause) == core.FinalLoopDetected:
		final, kind = core.FinalLoopDetected, AttemptFailed // the last attempt has looped, and no other proxy is left
	default:
		retryAfter = time.Second
		if at, ok := ex.executor.selector.NextTestTime(); ok {
			retryAfter = max(at.Sub(now()), time.Millisecond) // the time at is in the past if a probe is in flight
		}
	}
	ex.result.Final = final
	ex.setRefusal(kind)
	ex.refusal.Err, ex.refusal.RetryAfter = err, retryAfter
	if kind == AttemptFailed {
		ex.logFailed(&ex.refusal.LastOutcome)
		return
	}
	ex.log(slog.LevelError, "no proxy admissible", nil, slog.String("error", final.String()))
}

// asLimitedError returns err as a *core.LimitedError, if it is one or wraps one. Unlike errors.As, it does not
// allocate.
func asLimitedError(err error) (limited *core.LimitedError, ok bool) {
	if limited, ok = err.(*core.LimitedError); !ok {
		limited, ok = errors.Unwrap(err).(*core.LimitedError)
	}
	return limited, ok
}

// bannedFinal returns the final outcome of a request that failed because all proxies that are left are banned
// for the target's host.
func bannedFinal(e *core.BannedError) core.Final {
	if e.AllBanned {
		return core.FinalAllBanned
	}
	return core.FinalAllBannedHere
}

// finalOfCause returns the final outcome of a request whose last attempt ended with cause c; 0 if the cause c does not
// decide the final outcome.
func finalOfCause(c core.Cause) core.Final {
	switch c {
	case verdict.EgressDenied:
		return core.FinalEgressDenied
	case verdict.ProxyLoop:
		return core.FinalLoopDetected
	}
	return 0
}

// targetPermitted checks CheckTarget. If the target is denied, it sets the refusal and returns false.
func (ex *Exchange) targetPermitted() bool {
	if ex.tuning.CheckTarget == nil {
		return true
	}
	err := ex.tuning.CheckTarget(ex.request.Host, ex.target.port)
	if err == nil {
		return true
	}
	ex.result.Final = core.FinalEgressDenied
	ex.setRefusal(Denied)
	ex.refusal.Err = err
	ex.log(slog.LevelWarn, "target denied", err)
	return false
}

// portOf returns the port of hostPort (host:port); 0 if there is no valid port.
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

// refuseCancelled sets the refusal after the context was cancelled with cause.
func (ex *Exchange) refuseCancelled(cause error) {
	ex.result.Final = core.FinalCancelled
	ex.setRefusal(Cancelled)
	ex.refusal.Err, ex.refusal.RetryAfter = cause, 0
}

// setRefusal sets the refusal. The caller must set result.Final before the call.
func (ex *Exchange) setRefusal(kind RefusalKind) {
	r := &ex.result
	ex.refusal = Refusal{ex: ex, Kind: kind, Final: r.Final, Attempts: r.Attempts, ProxyID: r.ProxyID}
	if ex.proxy != nil {
		ex.refusal.LastOutcome, ex.refusal.RetryAfter = ex.event.Outcome, ex.event.Outcome.RetryAfter
		ex.refusal.Direct = ex.proxy.Direct()
	}
	if kind == TargetSuspect {
		ex.refusal.Target = ex.request.Target.Name
	}
}

// failureKind returns the reason why no retry follows the last attempt, whose outcome is o.
func (ex *Exchange) failureKind(o *core.Outcome) RefusalKind {
	final := ex.result.Final
	switch {
	case final == core.FinalTimeout && o.Retry == core.NoRetry:
		return TimedOut
	case final == core.FinalTimeout:
		return NoTimeLeft
	case ex.retry.targetSuspect:
		return TargetSuspect
	case ex.retry.budgetSpent:
		return BudgetSpent
	case final != core.FinalNotRetryable || o.Retry == core.NoRetry:
		return AttemptFailed
	case o.Repeat == core.RepeatBodyNotKept:
		return BodyNotKept
	}
	return NotRepeatable
}
