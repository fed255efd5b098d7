// Package verdict computes the outcome of a finished attempt: its cause, the party that the
// attempt is charged to, and whether and how the request may be repeated. The other packages
// only collect facts; every conclusion is drawn here.
//
// [Judge] is called when an attempt has failed or the head of its response has arrived, [EndRelay] when a
// response was relayed, [EndTunnel] when a tunnel has ended. All three functions are pure. The table in
// cause.go lists the consequences of each cause.
package verdict

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Error is the failure of an attempt that has no response. Its text contains no credentials.
type Error struct {
	Cause      core.Cause
	Reason     string // RFC 9209 error token (section 2.3), or "http_<status>"
	BodyUnsent bool   // the request's body has not been sent completely
	PartSent   bool   // a part of the request may have been sent; only with the cause LocalLimit
	Err        error
}

func (e *Error) Error() string { return e.Err.Error() }

// IsLocal reports whether a limit of this machine caused the failure.
func (e *Error) IsLocal() bool { return e.Cause == LocalLimit }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// ErrorPage classifies a proxy's own error page.
type ErrorPage uint8

// The kinds of error pages. NoErrorPage is a response of the target.
const (
	NoErrorPage ErrorPage = iota
	ErrorPageUnclear
	ErrorPageUnreachable // the proxy cannot reach the target
	ErrorPageForbids     // the proxy's rules forbid the request
)

// String returns a name for tests.
func (p ErrorPage) String() string {
	return [...]string{"none", "unclear", "target_unreachable", "forbidden"}[p]
}

// Facts describe an attempt that has failed, or that has received the head of a response.
type Facts struct {
	Err        *Error        // nil if there is a response
	Status     int           // of the response; 0 without one
	RetryAfter string        // value of the response's Retry-After field
	Latency    time.Duration // set by a Sender whose Send returns after the end of the latency; otherwise 0
	Timing     core.Timing

	Direct         bool // the attempt went to the target without a proxy (direct://)
	ProxyHasServed bool // the proxy has served a request since it was configured

	// FromProxy is set if the proxy may have written the response itself. This is possible after a CONNECT, and after a
	// request in absolute form to an HTTP proxy. The next nine fields are valid only if FromProxy is set.
	FromProxy       bool
	HasChallenge    bool      // the response has a Proxy-Authenticate field
	Challenge       uint64    // identifies the schemes and realms of that field; Judge does not use it
	NoCredentials   bool      // the response is a 407 to a request that never has credentials (TRACE)
	TargetChallenge bool      // the target, and not the proxy, has probably sent the challenge
	ErrorPage       ErrorPage // the response is the proxy's own error page
	ErrorPageReason string    // RFC 9209 error token of the page; "" if unknown
	NoTunnels       bool      // the response to a CONNECT means that the proxy opens no tunnels
	InnerOutcome    string    // X-Whirlpool-Outcome, if the proxy is a Whirlpool; "" otherwise
	OfferedSchemes  string    // of a 407: the offered authentication schemes, for the log; "" if one is supported

	ClientRegion          bool // the credentials contain the client's wanted region, not the proxy's own region
	TargetServedElsewhere bool // another proxy has just relayed a response of the target

	// The request.
	Tunnel             bool // the request is a CONNECT
	Idempotent         bool // the request's method is idempotent
	RetryNonIdempotent bool // the request's policy has retry_non_idempotent
	Replayable         bool // the request has no body, or its body is kept and can be sent again
	IsReplay           bool // the attempt is a replay

	// The request's policy decides which statuses are retried. The global policy alone decides which statuses count for
	// breakers, so that no client can open the breakers for all other clients.
	StatusRetried bool // the request's policy retries Status
	StatusCounted bool // the global policy retries Status

	// The next fields state why the attempt ended before it had a result. CancelCause is set if the attempt was
	// cancelled: it is ErrShutdown, or an error that states that the client left.
	CancelCause           error
	TotalTimeout          bool // the request's total timeout has passed
	TighterTotalTimeout   bool // the request's total timeout is shorter than the total timeout of the global policy
	CutShort              bool // the adaptive timeout has passed
	TighterAttemptTimeout bool // the request's own attempt timeout has passed; it is shorter than timeouts.attempt

	Now time.Time // for a Retry-After that is a date
}

// ErrShutdown is the value of Facts.CancelCause when the gateway shuts down.
var ErrShutdown = errors.New("the gateway is shutting down")

// Judge computes the outcome of an attempt from its facts.
func Judge(f *Facts) core.Outcome {
	if f.isPlainSuccess() {
		return core.Outcome{
			Cause: Answered, Result: core.ResultSuccess, Verdict: core.Success, Status: f.Status, Latency: f.Latency,
			Timing: f.Timing, Relay: true,
		}
	}
	return judge(f)
}

// isPlainSuccess reports whether the attempt is a success without any exception. Most attempts are. The function judge
// would return the same outcome for it, but more slowly.
func (f *Facts) isPlainSuccess() bool {
	return f.Err == nil && f.Status >= 200 && f.Status < 400 && !f.StatusRetried && !f.Tunnel &&
		f.InnerOutcome == "" && f.ErrorPage == NoErrorPage && !f.TargetChallenge && f.Idempotent && f.Replayable
}

// judge implements Judge without the shortcut for plain successes.
func judge(f *Facts) core.Outcome {
	c := CauseOf(f)
	r := &rows[c]
	o := core.Outcome{
		Cause: c, Charge: r.charge, Retry: r.retry, Status: f.Status, Latency: f.Latency, Timing: f.Timing,
		Relay: r.hasResponse && f.Status != 0, NoTargetResponse: !r.hasResponse,
	}
	if f.Err != nil {
		o.Err, o.Reason = f.Err.Err, f.Err.Reason
	} else if c != Answered && c != TunnelOpen {
		o.Reason = statusReason(f.Status)
		o.Relay = true
	}
	applyExceptions(&o, f)
	completeOutcome(&o, f, r)
	return o
}

// CauseOf returns the cause of an attempt. If several causes apply, it returns the first one in the order of its
// switch.
func CauseOf(f *Facts) core.Cause {
	switch {
	case f.Err == nil && f.Tunnel && f.Status >= 200 && f.Status < 300:
		return TunnelOpen
	case f.Err == nil && f.InnerOutcome == "exhausted":
		return InnerGaveUp
	case f.Err == nil && f.InnerOutcome == "loop_detected" && f.Status == http.StatusLoopDetected:
		return ProxyLoop
	case f.Err == nil && f.InnerOutcome == "egress_denied" && !f.Tunnel:
		return ProxyForbids
	case f.Err == nil && f.Tunnel && f.Status != 407 && f.ErrorPage == ErrorPageUnreachable:
		return TargetUnreachable
	case f.Err == nil && f.Tunnel && f.NoTunnels:
		return TunnelUnsupported
	case f.Err == nil && f.Tunnel:
		return refusedConnectCause(f.Status)
	case f.Err == nil && f.FromProxy && f.HasChallenge && f.Status == 407 && !f.TargetChallenge:
		// A 407 that does not meet these conditions comes from the target.
		return CredentialsRefused
	case f.Err == nil && f.ErrorPage != NoErrorPage:
		return errorPageCause(f)
	case f.Err == nil && (f.StatusRetried || f.StatusCounted && f.Status >= 500):
		return RetryStatus
	case f.Err == nil:
		return Answered
	case f.CancelCause != nil && errors.Is(f.CancelCause, ErrShutdown):
		return ShuttingDown
	case f.CancelCause != nil: // the error is a consequence of the cancellation
		return ClientLeft
	case f.Err.Cause == RequestBroke:
		return RequestBroke
	case f.TotalTimeout && rows[f.Err.Cause].isTimeout:
		return TotalTimeout
	case f.CutShort && rows[f.Err.Cause].isTimeout:
		return CutShort
	case f.Err.Cause == StaleConnection && f.IsReplay: // a new connection cannot be stale
		return ConnectionClosed
	case f.Err.Cause == Leftover && f.IsReplay:
		return AnswerMalformed
	}
	return f.Err.Cause
}

func errorPageCause(f *Facts) core.Cause {
	switch f.ErrorPage {
	case ErrorPageUnreachable:
		return TargetUnreachable
	case ErrorPageForbids:
		return ProxyForbids
	}
	return ProxyErrorPage
}

// ApplyRuling returns the outcome of a response after a judge's ruling of the kind k. The parameter o is the outcome
// without the ruling. Its cause must be reviewable (IsReviewable). If isDirect is set, the attempt went to the target
// without a proxy.
func ApplyRuling(o core.Outcome, k core.RulingKind, isDirect bool) core.Outcome {
	if k == core.RulingFine || k == core.RulingRetry && o.Retry == core.RetryAfterBackoff {
		return o
	}
	c := rulingCause(k)
	o = withCause(o, c, core.ResultFailure, statusReason(o.Status), nil)
	o.Charge = directCharge(isDirect, o.Charge)
	o.Retry, o.Relay, o.NoTargetResponse = rows[c].retry, true, false
	return o
}

// QuestionResponse returns the outcome of a response that the proxy may have written itself
// (ability.Set.IsQuestionable). The parameter o is the outcome for the case that the target has written the response.
// The request is retried through another proxy. The first proxy is charged if the other one relays a response with a
// status below 400.
func QuestionResponse(o core.Outcome) core.Outcome {
	o = withCause(o, ProxyErrorPage, core.ResultFailure, statusReason(o.Status), nil)
	o.Charge, o.Verdict, o.Retry, o.Relay = core.ChargeProxyIfServed, core.Excluded, core.RetryElsewhere, true
	return o
}

func rulingCause(k core.RulingKind) core.Cause {
	switch k {
	case core.RulingOtherProxy:
		return JudgeOtherProxy
	case core.RulingBanned:
		return BannedHere
	case core.RulingTargetFault:
		return TargetFault
	}
	return JudgeRetry
}

// refusedConnectCause returns the cause of an attempt whose CONNECT got a status of at least 300.
func refusedConnectCause(status int) core.Cause {
	switch {
	case status == 407:
		return CredentialsRefused
	case status < 500:
		return TunnelRefused
	}
	return TunnelFailed
}

// applyExceptions applies the exceptions to the row of the cause.
func applyExceptions(o *core.Outcome, f *Facts) {
	switch o.Cause {
	case RetryStatus:
		if !f.StatusRetried {
			o.Retry = core.NoRetry // the breaker counts the failure nevertheless
		}
		if !f.StatusCounted || f.Status < 500 {
			o.Charge = core.ChargeNobody
		}
	case ProxyProtocol:
		if f.ProxyHasServed { // the proxy supports the protocol, so the target may be the cause
			o.Charge = core.ChargeProxyOrTarget
		}
	case ProxyLoop:
		if f.Err == nil {
			o.Reason, o.Err, o.Relay = "proxy_loop_detected", errLoop, false
			o.Charge = core.ChargeProxyOrTarget // a target can send the same response
		}
	case CredentialsRefused:
		if f.Err == nil && !f.Tunnel && f.ProxyHasServed { // a target can send the same response
			o.Charge = core.ChargeProxyOrTarget
		}
		if f.ClientRegion { // otherwise a client could open the breaker with a region that does not exist
			o.Charge = core.ChargeNobody
		}
		o.Reason = "proxy_configuration_error"
		o.Relay = false
		if f.OfferedSchemes != "" {
			o.Err = &SchemeError{f.OfferedSchemes}
		}
	case TargetUnreachable, ProxyForbids, ProxyErrorPage:
		o.Relay = f.Err == nil // if all attempts get such a page, the last page is relayed to the client
		if f.ErrorPageReason != "" {
			o.Reason = f.ErrorPageReason
		}
	case InnerGaveUp:
		o.Relay = true
		if f.TargetServedElsewhere { // the pool of the inner gateway is the likely cause
			o.Retry = core.RetryAfterBackoff
		}
	case StaleConnection, Leftover:
		if !f.Idempotent || !f.Replayable {
			o.Retry = core.RetryAfterBackoff
		}
	case ProxyConnectTimeout, TunnelTimeout, RequestTimeout, NoAnswerInTime:
		// A rule may set an attempt_timeout that is too short for any proxy. Such a rule must not open the breakers for
		// all requests. Therefore the proxy is charged only if another proxy serves the request.
		if f.TighterAttemptTimeout {
			o.Charge = core.ChargeProxyIfServed
		}
	case TunnelDied: // a hedge has sent the ClientHello, and the reply refused it
		if errors.Is(f.Err, ErrHelloRefused) {
			o.Charge = core.ChargeProxyIfServed
		}
	case TotalTimeout:
		if f.TighterTotalTimeout || f.Err.BodyUnsent {
			o.Charge = core.ChargeNobody
		}
	case ClientLeft, ShuttingDown:
		o.Err, o.Reason = f.CancelCause, ""
	case RequestBroke:
		o.Err, o.Reason = errRequestBroke, ""
	}
	if f.FromProxy && innerRefusals[f.InnerOutcome] {
		o.NoTargetResponse = true
	}
	o.Charge = directCharge(f.Direct, o.Charge)
	if f.RetryAfter != "" && (f.Status == 429 || f.Status == 503) {
		o.RetryAfter, _ = parseRetryAfter(f.RetryAfter, f.Now)
	}
}

// innerRefusals are the final outcomes with which a proxy that is a Whirlpool refuses a request without any attempt.
var innerRefusals = map[string]bool{
	core.FinalAllBreakersOpen.String(): true, core.FinalAllBusy.String(): true, core.FinalPoolEmpty.String(): true,
	core.FinalNoProxyInRegion.String(): true, core.FinalAllBannedHere.String(): true,
	core.FinalEgressDenied.String(): true, core.FinalLoopDetected.String(): true,
	core.FinalSessionUnavailable.String(): true, core.FinalAllBanned.String(): true,
	core.FinalNoProxyWithTag.String(): true, core.FinalDeniedByRule.String(): true,
}

// SchemeError reports that a proxy offers no authentication scheme that the gateway supports.
type SchemeError struct{ Schemes string } // such as "NTLM or Negotiate"

func (e *SchemeError) Error() string {
	return "the proxy asks for authentication by " + e.Schemes + "; the gateway supports Basic and Digest"
}

var errLoop = errors.New("the proxy leads back to this gateway")

var errStalled = errors.New("the response's body stalled, and the client left")

var errRequestBroke = errors.New("the request's body ended early")

// completeOutcome sets the fields that follow from the cause and the charge.
func completeOutcome(o *core.Outcome, f *Facts, r *row) {
	switch {
	case o.Cause == Answered, o.Cause == TunnelOpen:
		o.Result = core.ResultSuccess
	case o.Retry == core.Replay:
		o.Result = core.ResultReplay
	case o.Cause == ClientLeft, o.Cause == RequestBroke, o.Cause == ShuttingDown:
		o.Result = core.ResultCancelled
	case r.isTimeout:
		o.Result = core.ResultTimeout
	default:
		o.Result = core.ResultFailure
	}
	switch {
	case o.Result == core.ResultSuccess && f.NoCredentials:
		o.Verdict = core.Excluded
	case o.Result == core.ResultSuccess && f.TargetChallenge:
		o.Verdict = core.Excluded // a proxy with other credentials may get the same response
	case o.Result == core.ResultSuccess:
		o.Verdict = core.Success
	case o.Charge == core.ChargeProxy, o.Charge == core.ChargeProxyOrTarget:
		o.Verdict = core.Failure
	default:
		o.Verdict = core.Excluded
	}
	unsent := r.unreached && !(f.Err != nil && f.Err.PartSent)
	if f.Err == nil && !f.Tunnel && o.Cause != CredentialsRefused {
		unsent = f.InnerOutcome == "" && unreachedTokens[f.ErrorPageReason]
	}
	switch {
	case !f.Replayable && !(unsent && f.Status == 0): // a proxy that sent a response may have read a part of the body
		o.Repeat = core.RepeatBodyNotKept
	case !f.Idempotent && !f.RetryNonIdempotent && !unsent:
		o.Repeat = core.RepeatUnsafe
	}
}

// unreachedTokens are the error tokens (RFC 9209 section 2.3) with which a proxy reports that no byte of the request
// has reached the target. After any other token, the target may have processed the request.
var unreachedTokens = map[string]bool{
	"dns_error": true, "dns_timeout": true, "destination_not_found": true, "destination_ip_unroutable": true,
	"connection_refused": true, "connection_timeout": true,
}

// directCharge returns the charge c. If the attempt used no proxy, the target is charged in place of the proxy.
func directCharge(isDirect bool, c core.Charge) core.Charge {
	if !isDirect {
		return c
	}
	switch c {
	case core.ChargeProxy, core.ChargeProxyOrTarget, core.ChargeProxyIfServed:
		return core.ChargeTarget
	}
	return c
}

// RelayEnd describes how a response was relayed.
type RelayEnd struct {
	BodyErr      error // why the response's body ended early; nil if it was complete
	ClientLeft   bool  // the client did not read the whole response
	RequestBroke bool  // the client's request body ended early
	Cancelled    bool  // the gateway cancelled the attempt: the client left, or the gateway shuts down
	Direct       bool  // the attempt went to the target without a proxy
	Literal      bool  // breaker.blame is "literal"

	// The next two fields are set only if the client left while the gateway waited for the next bytes of the body.
	SilentTime time.Duration // how long no byte had arrived; otherwise 0
	HasLength  bool          // the response has a Content-Length
}

// stallTime is the minimum time without a byte of the body after which the body has stalled. If the client then leaves,
// the proxy or the target is charged. The time is shorter than the usual timeouts of clients, and longer than the
// pauses of a proxy that works (docs/decisions/stalled-bodies.md).
const stallTime = 10 * time.Second

// isStalled reports whether the client left because the body had stalled. A body without a known length never counts as
// stalled: it may be an event stream.
func (r *RelayEnd) isStalled() bool {
	return r.ClientLeft && r.HasLength && r.SilentTime >= stallTime && !r.Literal
}

// IsComplete reports whether the client got the whole response. EndRelay then changes nothing.
func (r *RelayEnd) IsComplete() bool { return r.BodyErr == nil && !r.ClientLeft }

// EndRelay returns the outcome of an attempt whose response was relayed. The parameter o is the outcome of the attempt
// when the head arrived.
func EndRelay(o core.Outcome, r RelayEnd) core.Outcome {
	if r.isStalled() {
		r.BodyErr = errStalled
	} else if r.ClientLeft || r.BodyErr != nil && (r.RequestBroke || r.Cancelled) {
		return withCause(o, ClientLeft, core.ResultCancelled, "", o.Err)
	}
	if r.BodyErr != nil {
		o = withCause(o, AnswerBrokeOff, core.ResultFailure, "http_response_incomplete", r.BodyErr)
		if o.Charge = directCharge(r.Direct, o.Charge); r.Direct {
			o.Verdict = core.Excluded
		}
	}
	return o
}

// TunnelEnd describes how a tunnel ended.
type TunnelEnd struct {
	BytesUp, BytesDown int64 // bytes from the client, and bytes to the client
	// the error that ended the tunnel before the target's first byte arrived; nil if there was none, or if the client
	// closed the tunnel before the error
	Err              error
	Direct           bool // the tunnel goes to the target without a proxy
	StoppedByGateway bool // the gateway ended the tunnel
	// the client has sent nothing, or only a part of a ClientHello, for too long (Tunnel.UnusedAfter)
	Unused bool

	ProxyEndedFirst bool          // the proxy's side ended before the client's side
	ProxyReset      bool          // an error ended the proxy's side; only with ProxyEndedFirst
	Followed        bool          // the gateway has read the TLS records of the target
	InRecord        bool          // the last of these records is incomplete; only with ProxyEndedFirst
	Duration        time.Duration // time since the tunnel was opened
}

// The limits of a short tunnel.
const (
	shortTunnelTime  = time.Second
	shortTunnelBytes = 1024 // to the client
)

// IsShort reports whether the proxy's side ended the tunnel early: by a reset, within a second, after less than 1,024
// bytes for the client, or within a TLS record. A short tunnel is charged only if it is cut (TunnelCut), because many
// targets end tunnels early.
func (t *TunnelEnd) IsShort() bool {
	return t.ProxyEndedFirst && !t.StoppedByGateway && !t.Direct && (t.ProxyReset || t.Duration < shortTunnelTime ||
		t.BytesDown < shortTunnelBytes || t.InRecord)
}

// EndTunnel returns the outcome of an attempt whose tunnel has ended. The parameter o is the outcome of the attempt
// when the tunnel was opened.
func EndTunnel(o core.Outcome, t TunnelEnd) core.Outcome {
	switch {
	case t.InRecord && !t.StoppedByGateway && !t.Direct:
		return withCause(o, TunnelCut, core.ResultFailure, "connection_terminated", errCut)
	case t.BytesDown > 0:
		return o
	case t.Direct, t.StoppedByGateway, t.Err == nil && t.BytesUp > 0, t.Unused:
		// The proxy has not failed: there is no proxy, the gateway ended the tunnel, the client closed the tunnel
		// before the target sent anything, or the tunnel was unused.
		return withCause(o, TunnelUnused, o.Result, "", nil)
	case t.Err != nil:
		return withCause(o, TunnelDied, core.ResultFailure, "connection_terminated", t.Err)
	}
	return o // the client opened the tunnel and closed it without using it
}

var errCut = errors.New("the tunnel ended within a TLS record")

// ErrHelloRefused is the error of a tunnel in which the reply to a ClientHello was a fatal alert, or was not a TLS
// record.
var ErrHelloRefused = errors.New("the reply to the ClientHello, in the tunnel, is a fatal alert or not a TLS record")

// RetryTunnel returns the outcome of an attempt whose tunnel failed before the target had sent anything. If silent is
// set, the target did not respond to the client's first bytes in time; otherwise err ended the tunnel. A retry is
// possible, because the client has sent at most a TLS ClientHello. After ErrHelloRefused, the proxy is charged only if
// the target begins a TLS session through another proxy.
func RetryTunnel(o core.Outcome, err error, silent bool) core.Outcome {
	if silent {
		o = withCause(o, CutShort, core.ResultTimeout, "http_response_timeout", err)
	} else {
		o = withCause(o, TunnelDied, core.ResultFailure, "connection_terminated", err)
	}
	if errors.Is(err, ErrHelloRefused) {
		o.Charge, o.Verdict = core.ChargeProxyIfServed, core.Excluded
	}
	o.Retry, o.Repeat, o.NoTargetResponse, o.Relay = core.RetryAfterBackoff, core.RepeatAllowed, true, false
	o.Status = 0
	return o
}

// LoseRace returns the outcome of an attempt that lost a race: the other attempt of the race has served the request.
func LoseRace(o core.Outcome) core.Outcome {
	o = withCause(o, HedgeLost, core.ResultCancelled, "", errRaceLost)
	o.Retry, o.Repeat, o.NoTargetResponse, o.Relay = core.NoRetry, core.RepeatAllowed, true, false
	o.Status, o.RetryAfter = 0, 0
	return o
}

var errRaceLost = errors.New("another attempt has served the request first")

// withCause returns o with the cause c, and the charge and verdict of this cause.
func withCause(o core.Outcome, c core.Cause, result core.Result, reason string, err error) core.Outcome {
	o.Cause, o.Charge, o.Result, o.Reason, o.Err = c, rows[c].charge, result, reason, err
	o.Verdict = core.Excluded
	if o.Charge == core.ChargeProxyOrTarget {
		o.Verdict = core.Failure
	}
	return o
}

// statusReason returns "http_<status>". It does not allocate for frequent statuses.
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
