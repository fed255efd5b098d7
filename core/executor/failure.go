package executor

import (
	"errors"
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
)

// Refusal is why an exchange ended without an answer to relay. Package proxyhttp words
// it for the client.
type Refusal struct {
	Kind       RefusalKind
	Final      core.Final
	Attempts   int
	ProxyID    string        // of the last attempt; "" if there was none
	Last       core.Outcome  // of the last attempt; zero if there was none
	RetryAfter time.Duration // until it makes sense to try again; 0 when unknown
	Target     string        // with TargetSuspect
	Err        error         // with NoProxy, NoneAccepts and Stopped
}

// RefusalKind says why an exchange was refused.
type RefusalKind uint8

// The reasons.
const (
	NoProxy       RefusalKind = iota + 1 // no proxy is admissible
	NoneAccepts                          // each proxy that is left has refused the pool's credentials
	Stopped                              // the exchange's context was cancelled
	TimedOut                             // the request's total timeout passed during an attempt
	NoTimeLeft                           // the next retry would begin after the total timeout
	AttemptFailed                        // the last attempt failed, and none may follow
	TargetSuspect                        // and none follows, as the target fails through every proxy
	BudgetSpent                          // and the retry budget allows none
	BodyNotKept                          // and the body, part of which has been sent, is not kept
	NotRepeatable                        // and the request may have reached its target
)

// refuse ends an exchange for which no proxy is left: at the first choice or
// in mid-request, at once and without queueing.
func (e *Executor) refuse(x *Exchange, err error) {
	x.refused(NoProxy)
	f := &x.Refusal
	f.Err, f.RetryAfter = err, 0
	region, ofRegion := err.(*core.RegionError)
	switch {
	case ofRegion:
		x.Final = core.FinalNoProxyInRegion
		if !region.Due.IsZero() {
			f.RetryAfter = max(region.Due.Sub(e.now()), time.Millisecond)
		}
	case errors.Is(err, core.ErrPoolEmpty):
		x.Final = core.FinalPoolEmpty
	case errors.Is(err, core.ErrAllBusy):
		x.Final, f.RetryAfter = core.FinalAllBusy, time.Second
	case errors.Is(err, selector.ErrCredentialsRefused):
		// Every other proxy refused our credentials: not a matter of breakers.
		x.Final, f.Kind = core.FinalExhausted, NoneAccepts
	default:
		x.Final = core.FinalAllBreakersOpen
		f.RetryAfter = time.Second
		if at, ok := e.selector.NextTest(); ok {
			f.RetryAfter = max(at.Sub(e.now()), time.Millisecond) // a probe is under way
		}
	}
	f.Final = x.Final
	e.say(x, slog.LevelError, "no proxy admissible", nil, slog.String("error", x.Final.String()))
}

func (e *Executor) failed(x *Exchange, o *core.Outcome) {
	e.say(x, slog.LevelError, "request failed", o.Err, slog.String("outcome", x.Final.String()), slog.String("reason", o.Reason))
}

// cancelled ends x because its context has been.
func (x *Exchange) cancelled(cause error) {
	x.Final = core.FinalCancelled
	x.refused(Stopped)
	x.Refusal.Err, x.Refusal.RetryAfter = cause, 0
}

// refused sets why x ends without an answer to relay; x.Final is set.
func (x *Exchange) refused(kind RefusalKind) {
	x.Refusal = Refusal{Kind: kind, Final: x.Final, Attempts: x.Attempts}
	if x.Proxy != nil {
		x.Refusal.ProxyID, x.Refusal.Last, x.Refusal.RetryAfter = x.Proxy.ID(), x.event.Outcome, x.event.Outcome.RetryAfter
	}
	if kind == TargetSuspect {
		x.Refusal.Target = x.Target.Name
	}
}

// failedKind is why no attempt follows the last one, which failed with o.
func (x *Exchange) failedKind(o *core.Outcome) RefusalKind {
	switch {
	case x.Final == core.FinalTimeout && o.Retry == core.NoRetry:
		return TimedOut
	case x.Final == core.FinalTimeout:
		return NoTimeLeft
	case x.suspect:
		return TargetSuspect
	case x.budget:
		return BudgetSpent
	case x.Final != core.FinalNotRetryable || o.Retry == core.NoRetry:
		return AttemptFailed
	case o.Repeat == core.RepeatBodyNotKept:
		return BodyNotKept
	}
	return NotRepeatable
}
