package proxyhttp

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// RefusalResponse returns the error response to a request that the executor refused.
func RefusalResponse(r *executor.Refusal) ErrorResponse {
	switch r.Kind {
	case executor.NoProxy:
		return ErrorResponse{
			Status: http.StatusServiceUnavailable, Code: r.Final.String(), Message: r.Err.Error(),
			Reason: "destination_unavailable", RetryAfter: r.RetryAfter, Err: r.Err,
		}
	case executor.Denied:
		return ErrorResponse{
			Status: http.StatusForbidden, Code: r.Final.String(), Message: r.Err.Error(), Reason: "http_request_denied",
			Err: r.Err,
		}
	case executor.CredentialsRefused: // the message must not name breakers as the reason
		a := ErrorResponse{
			Status: http.StatusBadGateway, Code: r.Final.String(), Reason: "proxy_configuration_error",
			Message: "every admissible proxy refused its credentials", Err: r.Err,
		}
		if r.LastOutcome.Err != nil {
			a.Message += "; " + r.ProxyID + ": " + r.LastOutcome.Err.Error()
		}
		return a
	case executor.Cancelled:
		return StoppedResponse(r.Err)
	case executor.TimedOut:
		a := failedResponse(r)
		a.Message = "the request's total timeout passed before an answer came"
		return a
	case executor.NoTimeLeft:
		return ErrorResponse{
			Status: http.StatusGatewayTimeout, Code: "total_timeout", Reason: "http_response_timeout",
			Message:    "the next retry would begin after the request's total timeout",
			RetryAfter: r.RetryAfter, Err: r.LastOutcome.Err,
		}
	}
	a := failedResponse(r)
	switch r.LastOutcome.Cause {
	case verdict.EgressDenied:
		a.Status, a.Code, a.Message = http.StatusForbidden, r.Final.String(), transport.DeniedText(r.LastOutcome.Err)
		return a
	case verdict.ProxyLoop:
		a.Status, a.Code = http.StatusLoopDetected, r.Final.String()
		a.Message = "the request came back to this gateway: " + r.ProxyID + " leads back to it"
		return a
	case verdict.LocalLimit:
		a.Status, a.Code, a.RetryAfter = http.StatusServiceUnavailable, verdict.CauseName(verdict.LocalLimit),
			time.Second
		a.Message = "the gateway has no file descriptor, port or memory left for a connection"
		return a
	}
	a.Message = "no proxy brought an answer: attempt " + strconv.Itoa(r.Attempts) + " through " + r.ProxyID + " failed"
	switch {
	case verdict.IsConnectFailure(r.LastOutcome.Cause):
		a.Message += ": " + unreachedMessage(r)
	case r.LastOutcome.Err != nil:
		a.Message += ": " + r.LastOutcome.Err.Error()
	case r.LastOutcome.Status == http.StatusProxyAuthRequired:
		a.Message += ": the proxy refused the credentials the pool holds for it (407)"
	}
	switch r.Kind {
	case executor.TargetSuspect:
		a.Message += "; tried once only, as " + r.Target + " fails through every proxy"
	case executor.BudgetSpent:
		a.Message += "; the retry budget is spent"
	case executor.BodyNotKept:
		a.Message += "; not tried again, as its body is longer than gateway.replay_limit, or gateway.replay_memory " +
			"is used up"
	case executor.NotRepeatable:
		a.Message += "; not tried again, as it may have reached its target (retry_non_idempotent allows it)"
	}
	return a
}

// failedResponse returns the error response for the outcome of the last attempt, without Message.
func failedResponse(r *executor.Refusal) ErrorResponse {
	o := &r.LastOutcome
	a := ErrorResponse{
		Status: http.StatusBadGateway, Code: "upstream_failed", Reason: o.Reason, RetryAfter: r.RetryAfter, Err: o.Err,
	}
	switch {
	case r.Direct && verdict.IsConnectFailure(o.Cause): // a client must not learn whether a port is closed or filtered
		if o.Cause != verdict.ProxyNameUnknown {
			a.Reason = "destination_unavailable"
		}
	case o.Cause == verdict.TotalTimeout:
		a.Status, a.Code = http.StatusGatewayTimeout, "total_timeout"
	case o.Result == core.ResultTimeout:
		a.Status, a.Code = http.StatusGatewayTimeout, "upstream_timeout"
	case o.Cause == verdict.CredentialsRefused && o.Status != 0:
		a.Code = "upstream_auth"
	}
	return a
}

// unreachedMessage returns the reason why the last attempt could not connect, as text for the client. The error of the
// dial is not part of the text, because it contains addresses. It is in the log.
func unreachedMessage(r *executor.Refusal) string {
	switch {
	case r.Direct && r.LastOutcome.Cause == verdict.ProxyNameUnknown:
		return "the target's name does not resolve"
	case r.Direct:
		return "the target cannot be reached"
	case r.LastOutcome.Cause == verdict.ProxyNameUnknown:
		return "the proxy's name does not resolve"
	case r.LastOutcome.Cause == verdict.ProxyTLSFailed:
		return "the TLS handshake with the proxy failed"
	}
	return "the proxy cannot be reached (" + strings.ReplaceAll(r.LastOutcome.Reason, "_", " ") + ")"
}

// StoppedResponse returns the error response to a request that was cancelled with the given cause: executor.ErrShutdown
// or executor.ErrClientLeft.
func StoppedResponse(cause error) ErrorResponse {
	a := ErrorResponse{
		Status: http.StatusServiceUnavailable, Code: "cancelled", Message: cause.Error(),
		Reason: "proxy_internal_error", Err: cause,
	}
	if errors.Is(cause, executor.ErrShutdown) {
		a.Code = "shutting_down"
	}
	return a
}
