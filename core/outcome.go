package core

import "time"

// Verdict is the meaning of one attempt for its proxy. The breaker and the statistics of the proxy count the
// verdicts. The zero value is invalid.
type Verdict uint8

// The verdicts. Excluded means that the attempt shows nothing about the proxy. For example, the
// client left, a 429 was due to the client, or the target failed.
const (
	Success Verdict = iota + 1
	Failure
	Excluded
)

// Result is the class in which metrics count one attempt.
type Result uint8

// The results. ResultReplay means that the attempt failed because the proxy had closed the idle connection, and that a
// replay follows. The replay has the number of the failed attempt. The replay counts as an attempt, but not as a retry.
const (
	ResultSuccess Result = iota + 1
	ResultFailure
	ResultTimeout
	ResultCancelled
	ResultReplay
)

// String returns the name used in metrics, the API and the log.
func (r Result) String() string {
	switch r {
	case ResultSuccess:
		return "success"
	case ResultFailure:
		return "failure"
	case ResultTimeout:
		return "timeout"
	case ResultCancelled:
		return "cancelled"
	case ResultReplay:
		return "replay"
	}
	return "unknown"
}

// RetryKind determines whether and how a request may be repeated after an attempt.
type RetryKind uint8

// The kinds of retry.
const (
	NoRetry           RetryKind = iota // the outcome is final
	RetryAfterBackoff                  // retry after the backoff
	RetryElsewhere                     // retry without a backoff, through another proxy
	Replay                             // repeat without a wait, through the same proxy on a new connection
)

// Cause is the event that ended an attempt. Package verdict defines the values.
type Cause uint8

// Charge is the party that an attempt's failure is charged to.
type Charge uint8

// The charges.
const (
	ChargeNobody Charge = iota
	// ChargeProxy is for failures that only the proxy can cause.
	ChargeProxy
	// ChargeProxyOrTarget is for failures that either the proxy or the target can cause. A single attempt does not
	// show which of the two was the cause. Therefore package evidence compares the proxy with the other proxies.
	ChargeProxyOrTarget
	// ChargeProxyIfServed is for failures that are charged to the proxy only if a retry of the request through another
	// proxy succeeds. Otherwise they are charged to nobody.
	ChargeProxyIfServed
	ChargeTarget
	ChargeClient
	ChargeGateway
)

// String returns the name used in documents and tests.
func (c Charge) String() string {
	return [...]string{"nobody", "proxy", "proxy or target", "proxy if another serves", "target", "client",
		"gateway"}[c]
}

// Repeat determines whether the request of an attempt can be sent a second time.
type Repeat uint8

// The values of Repeat. RepeatBodyNotKept means that a part of the body was sent and is no longer available.
// RepeatUnsafe means that the request is not idempotent and may have reached its target.
const (
	RepeatAllowed Repeat = iota
	RepeatBodyNotKept
	RepeatUnsafe
)

// Outcome has all results of one finished attempt. Package verdict computes it.
type Outcome struct {
	Cause      Cause
	Result     Result
	Verdict    Verdict
	Charge     Charge
	Retry      RetryKind
	Repeat     Repeat
	Status     int           // status of the response; 0 without a response
	Latency    time.Duration // time until the response's head, or until the tunnel was open
	Timing     Timing        // times of opening the connection; zero if no connection was opened for the attempt
	RetryAfter time.Duration // Retry-After of the response; 0 without this field
	Relay      bool          // the response may be relayed to the client
	Reason     string        // RFC 9209 error token, or "http_<status>"; "" on success
	Err        error         // its text has no credentials and no query strings; nil if a response arrived

	// NoTargetResponse is set if no response of the target arrived. A failover then begins without a wait.
	NoTargetResponse bool
}

// SwitchesProtocols reports whether the connection has another protocol after the response, such as WebSocket: the
// status is 101 (RFC 9110 section 15.2.2).
func (o *Outcome) SwitchesProtocols() bool { return o.Status == 101 }

// HasErrorStatus reports whether the response has the status of an error, 400 or higher (RFC 9110 section 15).
func (o *Outcome) HasErrorStatus() bool { return o.Status >= 400 }

// Timing states how long it took to open a connection. It is zero for a reused connection.
type Timing struct {
	Dial      time.Duration // for the TCP connection to the proxy
	Handshake time.Duration // for TLS with the proxy, CONNECT or SOCKS, and TLS with the target, together
}

// Final is the final outcome of a request: the value of X-Whirlpool-Outcome.
type Final uint8

// The final outcomes.
const (
	FinalSuccess Final = iota + 1
	FinalExhausted
	FinalTimeout
	FinalAllBreakersOpen
	FinalPoolEmpty
	FinalNotRetryable
	FinalCancelled
	FinalAllBusy
	FinalNoProxyInRegion
	FinalAllBannedHere
	FinalEgressDenied
	FinalLoopDetected
	FinalSessionUnavailable
	FinalAllBanned
	FinalNoProxyWithTag
	FinalDeniedByRule

	LastFinal = FinalDeniedByRule // the largest value
)

// String returns the value of X-Whirlpool-Outcome.
func (f Final) String() string {
	switch f {
	case FinalSuccess:
		return "success"
	case FinalExhausted:
		return "exhausted"
	case FinalTimeout:
		return "timeout"
	case FinalAllBreakersOpen:
		return "all_breakers_open"
	case FinalPoolEmpty:
		return "pool_empty"
	case FinalNotRetryable:
		return "not_retryable"
	case FinalCancelled:
		return "cancelled"
	case FinalAllBusy:
		return "all_proxies_busy"
	case FinalNoProxyInRegion:
		return "no_proxy_in_region"
	case FinalAllBannedHere:
		return "all_banned_here"
	case FinalEgressDenied:
		return "egress_denied"
	case FinalLoopDetected:
		return "loop_detected"
	case FinalSessionUnavailable:
		return "session_proxy_unavailable"
	case FinalAllBanned:
		return "all_proxies_banned"
	case FinalNoProxyWithTag:
		return "no_proxy_with_tag"
	case FinalDeniedByRule:
		return "denied_by_rule"
	}
	return "unknown"
}
