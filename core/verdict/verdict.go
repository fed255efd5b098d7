// Package verdict decides what a finished attempt means: its cause, the party it is
// charged to, whether and how the request may be tried again.
// Transport, gateway and engine state facts; nobody else concludes from them.
//
// [Judge] is for an attempt that has ended or brought an answer's head, [EndRelay] for an
// answer that was relayed, [EndTunnel] for a tunnel. All three are pure functions.
// What a cause means by itself stands in one table (cause.go).
package verdict

import (
	"errors"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Error is why an attempt brought no answer. It carries no credentials.
type Error struct {
	Cause    core.Cause
	Reason   string // RFC 9209 error token (section 2.3), or "http_<status>"
	Sending  bool   // the request's body had not been sent whole
	PartSent bool   // of a LocalLimit: a part of the request may have left
	Err      error
}

func (f *Error) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Error) Unwrap() error { return f.Err }

// Own is what a proxy's own error page says.
type ErrorPage uint8

// The kinds of error pages. NoErrorPage is an answer of the target.
const (
	NoErrorPage ErrorPage = iota
	ErrorPageUnclear
	ErrorPageUnreachable // the proxy cannot reach the target
	ErrorPageForbids     // its rules forbid the request
	ErrorPageTrouble     // it cannot work
)

// String returns a word for tests.
func (o ErrorPage) String() string {
	return [...]string{"none", "unclear", "target_unreachable", "forbidden", "proxy_trouble"}[o]
}

// Facts are what is known of an attempt that has ended, or whose answer's head came.
type Facts struct {
	Err        *Error // why no answer came; nil if one did
	Status     int    // of the answer; 0 if none came
	RetryAfter string // field of the answer, as it came
	Latency    time.Duration
	Timing     core.Timing

	Direct bool // there is no proxy in between: the gateway asked the target itself
	Proven bool // the proxy has served a request since it was configured

	// Of an answer that may be the proxy's own: one to CONNECT, or to a request in
	// absolute form sent to an HTTP proxy.
	FromProxy       bool      // the answer is such a one
	Challenged      bool      // it carries Proxy-Authenticate
	ErrorPage       ErrorPage // it is the proxy's own error page
	ErrorPageReason string    // RFC 9209 error token of that page; "" if it does not tell
	InnerOutcome    string    // X-Whirlpool-Outcome of an inner gateway of this kind; "" without one
	Schemes         string    // of a 407: the login schemes offered, for people; "" where Basic is among them
	TargetServed    bool      // the target has just been served through another proxy

	// Of the request.
	Tunnel     bool // the client asked for a tunnel (CONNECT)
	Idempotent bool // its method may be repeated
	OptedIn    bool // retry_non_idempotent: the policy lets it be repeated in any case
	Replayable bool // its body, if any, is kept and can be sent again
	Replayed   bool // the attempt repeats one that a kept connection lost

	// Of the policies. Which statuses are retried follows the request's own policy;
	// which of them breakers count, the global one: else one client could open the
	// breakers for everybody.
	StatusRetried bool // the request's policy retries Status
	StatusCounted bool // the global policy lists Status

	// Of what ended the attempt from outside.
	Stopped        error // the client left, or ErrShutdown; nil if neither
	TotalTimeout   bool  // the request's total timeout has passed
	TighterTimeout bool  // and is tighter than the global policy's
	CutShort       bool  // the attempt was given up early, by what its proxy usually takes

	Now time.Time // for a Retry-After that is a date
}

// ErrShutdown is Facts.Stopped when the gateway ends an attempt to shut down.
var ErrShutdown = errors.New("the gateway is shutting down")

// Judge concludes from the facts of an attempt.
func Judge(f *Facts) core.Outcome {
	c := CauseOf(f)
	r := &rows[c]
	o := core.Outcome{
		Cause: c, Charge: r.charge, Retry: r.again, Status: f.Status, Latency: f.Latency, Timing: f.Timing,
		Relay: r.answer && f.Status != 0, NoTargetResponse: !r.answer,
	}
	if f.Err != nil {
		o.Err, o.Reason = f.Err.Err, f.Err.Reason
	} else if c != Answered && c != TunnelOpen {
		o.Reason = statusReason(f.Status)
		o.Relay = true
	}
	adjust(&o, f)
	conclude(&o, f, r)
	return o
}

// CauseOf names the cause, the strongest reason first.
func CauseOf(f *Facts) core.Cause {
	switch {
	case f.Err == nil && f.Tunnel && f.Status >= 200 && f.Status < 300:
		return TunnelOpen
	case f.Err == nil && f.InnerOutcome == "exhausted":
		return InnerGaveUp
	case f.Err == nil && f.Tunnel && f.Status != 407 && f.ErrorPage == ErrorPageUnreachable:
		return TargetUnreachable
	case f.Err == nil && f.Tunnel:
		return RefusalCause(f.Status)
	case f.Err == nil && f.FromProxy && f.Challenged && f.Status == 407: // else it is the target's own 407
		return CredentialsRefused
	case f.Err == nil && f.ErrorPage != NoErrorPage:
		return ownPage(f)
	case f.Err == nil && (f.StatusRetried || f.StatusCounted && f.Status >= 500):
		return RetryStatus
	case f.Err == nil:
		return Answered
	case f.Stopped != nil && errors.Is(f.Stopped, ErrShutdown):
		return ShuttingDown
	case f.Stopped != nil: // what the connection said as it was ended is of no interest
		return ClientLeft
	case f.Err.Cause == RequestBroke:
		return RequestBroke
	case f.TotalTimeout && rows[f.Err.Cause].timeout:
		return TotalTimeout
	case f.CutShort && rows[f.Err.Cause].timeout:
		return CutShort
	case f.Err.Cause == StaleConnection && f.Replayed: // a new connection cannot be stale
		return ConnectionClosed
	case f.Err.Cause == Leftover && f.Replayed:
		return AnswerMalformed
	}
	return f.Err.Cause
}

// ownPage is the cause of an answer that is an error page of the proxy itself.
func ownPage(f *Facts) core.Cause {
	switch f.ErrorPage {
	case ErrorPageUnreachable:
		return TargetUnreachable
	case ErrorPageForbids:
		return ProxyForbids
	}
	return ProxyErrorPage
}

// RefusalCause is the cause of a CONNECT that was answered with a status of 300 or above.
func RefusalCause(status int) core.Cause {
	switch {
	case status == 407:
		return CredentialsRefused
	case status < 500:
		return TunnelRefused
	}
	return TunnelFailed
}

// adjust applies what the facts change in the cause's row.
func adjust(o *core.Outcome, f *Facts) {
	switch o.Cause {
	case RetryStatus:
		if !f.StatusRetried {
			o.Retry = core.NoRetry // the request opted out of retrying it; it still counts
		}
		if !f.StatusCounted || f.Status < 500 {
			o.Charge = core.ChargeNobody
		}
	case ProxyProtocol:
		if f.Proven { // it speaks the protocol for other targets
			o.Charge = core.ChargeProxyOrTarget
		}
	case CredentialsRefused:
		if f.Err == nil && !f.Tunnel && f.Proven { // any target can write a page like this
			o.Charge = core.ChargeProxyOrTarget
		}
		o.Reason = "proxy_configuration_error"
		o.Relay = false
		if f.Schemes != "" {
			o.Err = &SchemeError{f.Schemes}
		}
	case TargetUnreachable, ProxyForbids, ProxyErrorPage:
		o.Relay = f.Err == nil // where every proxy brings such a page, the last one is shown
		if f.ErrorPageReason != "" {
			o.Reason = f.ErrorPageReason
		}
	case InnerGaveUp:
		o.Relay = true
		if f.TargetServed { // then the inner gateway's pool is the likely cause
			o.Retry = core.RetryAfterBackoff
		}
	case StaleConnection, Leftover:
		if !f.Idempotent || !f.Replayable {
			o.Retry = core.RetryAfterBackoff
		}
	case TotalTimeout:
		if f.TighterTimeout || f.Err.Sending {
			o.Charge = core.ChargeNobody
		}
	case ClientLeft, ShuttingDown:
		o.Err, o.Reason = f.Stopped, ""
	case RequestBroke:
		o.Err, o.Reason = errRequestBroke, ""
	}
	o.Charge = direct(f.Direct, o.Charge)
	if f.RetryAfter != "" && (f.Status == 429 || f.Status == 503) {
		o.RetryAfter, _ = ParseRetryAfter(f.RetryAfter, f.Now)
	}
}

// SchemeError is a proxy that offers no login scheme which the gateway speaks.
type SchemeError struct{ Schemes string } // such as "Digest or NTLM"

func (e *SchemeError) Error() string {
	return "the proxy wants a login by " + e.Schemes + "; the gateway speaks Basic only"
}

var errRequestBroke = errors.New("the request's body broke off")

// conclude fills in what follows from cause and charge.
func conclude(o *core.Outcome, f *Facts, r *row) {
	switch {
	case o.Cause == Answered, o.Cause == TunnelOpen:
		o.Result = core.ResultSuccess
	case o.Retry == core.Replay:
		o.Result = core.ResultReplay
	case o.Cause == ClientLeft, o.Cause == RequestBroke, o.Cause == ShuttingDown:
		o.Result = core.ResultCancelled
	case r.timeout:
		o.Result = core.ResultTimeout
	default:
		o.Result = core.ResultFailure
	}
	switch {
	case o.Result == core.ResultSuccess:
		o.Verdict = core.Success
	case o.Charge == core.ChargeProxy, o.Charge == core.ChargeProxyOrTarget:
		o.Verdict = core.Failure
	default:
		o.Verdict = core.Excluded
	}
	unsent := r.unsent && !(f.Err != nil && f.Err.PartSent)
	if f.Err == nil && !f.Tunnel && o.Cause != CredentialsRefused {
		unsent = f.InnerOutcome == "" && unreached[f.ErrorPageReason]
	}
	switch {
	case !f.Replayable && !(unsent && f.Status == 0): // a proxy that answered may have taken a part
		o.Repeat = core.RepeatBodyNotKept
	case !f.Idempotent && !f.OptedIn && !unsent:
		o.Repeat = core.RepeatUnsafe
	}
}

// unreached are the error tokens (RFC 9209 section 2.3) by which a proxy says that no byte
// of the request has reached the target. The others say that no answer came, which a
// request that did its work can look like as well.
var unreached = map[string]bool{
	"dns_error": true, "dns_timeout": true, "destination_not_found": true, "destination_ip_unroutable": true,
	"connection_refused": true, "connection_timeout": true,
}

// direct is the party charged where there may be no proxy to charge.
func direct(isDirect bool, c core.Charge) core.Charge {
	if isDirect && (c == core.ChargeProxy || c == core.ChargeProxyOrTarget) {
		return core.ChargeTarget
	}
	return c
}

// Relayed are the facts of an answer that was passed on to the client.
type Relayed struct {
	Broke        error // why its body broke off on the proxy's side; nil if it came whole
	ClientLeft   bool  // the client did not take it whole
	RequestBroke bool  // the request's body broke off meanwhile, by the client's doing
	Stopped      bool  // the gateway ended the attempt: the client had left, or it shuts down
	Direct       bool  // there is no proxy in between
}

// EndRelay concludes from how an answer was relayed; o is the outcome of its head.
func EndRelay(o core.Outcome, r Relayed) core.Outcome {
	switch {
	case r.ClientLeft, r.Broke != nil && (r.RequestBroke || r.Stopped):
		return ended(o, ClientLeft, core.ResultCancelled, "", o.Err)
	case r.Broke != nil:
		o = ended(o, AnswerBrokeOff, core.ResultFailure, "http_response_incomplete", r.Broke)
		if o.Charge = direct(r.Direct, o.Charge); r.Direct {
			o.Verdict = core.Excluded
		}
	}
	return o
}

// TunnelEnd are the facts of a tunnel that has ended.
type TunnelEnd struct {
	Up, Down int64 // bytes from the client, and to it
	Died     error // what ended the target's direction before its first byte; nil if the client left first
	Direct   bool  // there is no proxy in between
	Stopped  bool  // the gateway ended it
	Idle     bool  // nobody had said anything for as long as an attempt may take
}

// EndTunnel concludes from how a tunnel ended; o is the outcome of its opening.
func EndTunnel(o core.Outcome, t TunnelEnd) core.Outcome {
	switch {
	case t.Down > 0:
		return o
	case t.Direct, t.Stopped, t.Died == nil && t.Up > 0, t.Up == 0 && t.Idle:
		// The client left before it heard anything, or there is no proxy, or somebody
		// closed what was idle: none of that says anything of a proxy.
		return ended(o, TunnelUnused, o.Result, "", nil)
	case t.Died != nil:
		return ended(o, TunnelDied, core.ResultFailure, "connection_terminated", t.Died)
	}
	return o // a client that left without a word had a tunnel that stood
}

// ended is o, ended by another cause.
func ended(o core.Outcome, c core.Cause, result core.Result, reason string, err error) core.Outcome {
	o.Cause, o.Charge, o.Result, o.Reason, o.Err = c, rows[c].charge, result, reason, err
	o.Verdict = core.Excluded
	if o.Charge == core.ChargeProxyOrTarget {
		o.Verdict = core.Failure
	}
	return o
}

// statusReason is "http_<status>"; for the statuses that a pool sees in numbers it
// does not allocate.
func statusReason(status int) string {
	switch status {
	case 403:
		return "http_403"
	case 429:
		return "http_429"
	case 500:
		return "http_500"
	case 502:
		return "http_502"
	case 503:
		return "http_503"
	case 504:
		return "http_504"
	}
	return "http_" + strconv.Itoa(status)
}
