package executor

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
)

// Failure says why a request ends without an answer of an origin.
type Failure struct {
	Status     int           // for the client: 502, 503 or 504
	Code       string        // stable snake_case word for the client
	Message    string        // for the person who reads it
	Reason     string        // RFC 9209 error token
	RetryAfter time.Duration // when trying again makes sense; 0 when unknown
	Err        error         // of the last attempt; may be nil
}

// refuse ends an exchange for which no proxy is left: at the first choice or
// in mid-request, at once and without queueing.
func (e *Executor) refuse(x *Exchange, err error) {
	x.Failure = Failure{Status: 503, Message: err.Error(), Reason: "destination_unavailable", Err: err}
	region, ofRegion := err.(*core.RegionError)
	switch {
	case ofRegion:
		x.Final, x.Failure.Code = core.FinalNoProxyInRegion, "no_proxy_in_region"
		if !region.Due.IsZero() {
			x.Failure.RetryAfter = max(region.Due.Sub(e.now()), time.Millisecond)
		}
	case errors.Is(err, core.ErrPoolEmpty):
		x.Final, x.Failure.Code = core.FinalPoolEmpty, "pool_empty"
	case errors.Is(err, core.ErrAllBusy):
		x.Final, x.Failure.Code, x.Failure.RetryAfter = core.FinalAllBusy, "all_proxies_busy", time.Second
	case errors.Is(err, selector.ErrCredentialsRefused):
		// Every other proxy refused our credentials: not a matter of breakers.
		x.Final, x.Failure.Status, x.Failure.Code = core.FinalExhausted, 502, "exhausted"
		x.Failure.Reason = "proxy_configuration_error"
		if last := x.event.Outcome.Err; last != nil {
			x.Failure.Message += "; " + x.Proxy.ID() + ": " + last.Error()
		}
	default:
		x.Final, x.Failure.Code = core.FinalAllBreakersOpen, "all_breakers_open"
		x.Failure.RetryAfter = time.Second
		if at, ok := e.selector.NextTest(); ok {
			x.Failure.RetryAfter = max(at.Sub(e.now()), time.Millisecond) // a probe is under way
		}
	}
	e.say(x, slog.LevelError, "no proxy admissible", nil, slog.String("error", x.Failure.Code))
}

func (e *Executor) failed(x *Exchange, o *core.Outcome) {
	e.say(x, slog.LevelError, "request failed", o.Err, slog.String("outcome", x.Final.String()), slog.String("reason", o.Reason))
}

// cancelled ends x because its context has been.
func (x *Exchange) cancelled(cause error) {
	x.Final, x.Failure = core.FinalCancelled, *Cancelled(cause)
}

// Cancelled is the failure of a request that was cancelled for that cause.
func Cancelled(cause error) *Failure {
	f := &Failure{Status: 503, Code: "cancelled", Message: cause.Error(), Reason: "proxy_internal_error", Err: cause}
	if errors.Is(cause, ErrShutdown) {
		f.Code = "shutting_down"
	}
	return f
}

// failureOf says why x ends, after a last attempt that brought no answer to relay.
func failureOf(x *Exchange, o *core.Outcome) Failure {
	f := Failure{Status: o.ClientStatus, Code: o.ClientCode, Reason: o.Reason, RetryAfter: o.RetryAfter, Err: o.Err}
	switch {
	case x.Final == core.FinalTimeout && o.Retry == core.NoRetry:
		f.Message = "the request's total timeout passed before an answer came"
		return f
	case x.Final == core.FinalTimeout:
		f.Status, f.Code, f.Reason = 504, "total_timeout", "http_response_timeout"
		f.Message = "the next retry would begin after the request's total timeout"
		return f
	}
	f.Message = "no proxy brought an answer: attempt " + strconv.Itoa(x.Attempts) + " through " + x.Proxy.ID() + " failed"
	switch {
	case o.Err != nil:
		f.Message += ": " + o.Err.Error()
	case o.Status == 407:
		f.Message += ": the proxy refused the credentials the pool holds for it (407)"
	}
	switch {
	case x.suspect:
		f.Message += "; tried once only, as " + x.Target.Name + " fails through every proxy"
	case x.budget:
		f.Message += "; the retry budget is spent"
	case x.Final != core.FinalNotRetryable || o.Retry == core.NoRetry:
	case o.Repeat == core.RepeatBodyNotKept:
		f.Message += "; not tried again, as its body is longer than gateway.replay_limit"
	default:
		f.Message += "; not tried again, as it may have reached its target (retry_non_idempotent allows it)"
	}
	return f
}
