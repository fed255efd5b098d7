package core

import "time"

// Verdict is what one attempt says about its proxy, and so what the breaker
// and the statistics of that proxy hear. The zero value is invalid on purpose.
type Verdict uint8

// The verdicts. Excluded says nothing about the proxy: the client hung up, a 429
// was meant for the client, or the target was at fault.
const (
	Success Verdict = iota + 1
	Failure
	Excluded
)

// Result is how one attempt is counted in the metrics.
type Result uint8

// The results. Replay is a try on a kept connection that turned out to be dead;
// the same attempt is made again on a new one. It is counted among the attempts,
// but is no retry: max_attempts and backoff do not apply to it.
const (
	ResultSuccess Result = iota + 1
	ResultFailure
	ResultTimeout
	ResultCancelled
	ResultReplay
)

// String returns the word used in metrics, answers and logs.
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

// RetryKind says whether, and how, a request may be tried again after an attempt.
type RetryKind uint8

// NoRetry: the response is final. RetryAfterBackoff: after the backoff. RetryElsewhere: at once,
// through another proxy (an upstream's 407). Replay: at once, through the same
// proxy on a fresh connection, outside max_attempts.
const (
	NoRetry RetryKind = iota
	RetryAfterBackoff
	RetryElsewhere
	Replay
)

// Cause is why an attempt ended as it did. Package verdict names the values.
type Cause uint8

// Charge is the party that an attempt's failure is charged to.
type Charge uint8

// The charges. Which of the two a ChargeProxyOrTarget is, nobody can tell from one
// attempt: package evidence compares the proxy with the rest of the pool.
const (
	ChargeNobody        Charge = iota
	ChargeProxy                // by its kind the failure can only be the proxy's own
	ChargeProxyOrTarget        // the proxy's, unless the target fails through others too
	ChargeProxyIfServed        // the proxy's if another proxy then serves the same request, else nobody's
	ChargeTarget
	ChargeClient
	ChargeGateway
)

// String returns the word used in docs and tests.
func (c Charge) String() string {
	return [...]string{"nobody", "proxy", "proxy or target", "proxy if another serves", "target", "client", "gateway"}[c]
}

// Repeat says whether the request of an attempt could be sent once more.
type Repeat uint8

// The answers. RepeatBodyNotKept: a part of the body has been sent and is not kept.
// RepeatUnsafe: the request is not idempotent and may have reached its target.
const (
	RepeatAllowed Repeat = iota
	RepeatBodyNotKept
	RepeatUnsafe
)

// Outcome is everything known about one finished attempt. Breaker, statistics,
// metrics and log are all given the same value. Package verdict makes it.
type Outcome struct {
	Cause            Cause
	Result           Result
	Verdict          Verdict
	Charge           Charge
	Retry            RetryKind
	Repeat           Repeat
	Status           int           // of the answer; 0 when none arrived
	Latency          time.Duration // to the answer's head, or to the tunnel standing
	Timing           Timing        // of the connection, where one was opened for it
	RetryAfter       time.Duration // what the answer asked for; 0 when it did not
	Relay            bool          // the answer can be given to the client
	NoTargetResponse bool          // nothing of the target was heard: another proxy is tried without a wait
	Reason           string        // RFC 9209 error token, or "http_<status>"; "" on success
	Err              error         // free of credentials and of query strings; nil when an answer arrived
}

// Timing is what opening a connection took; zeros on a kept one.
type Timing struct {
	Dial      time.Duration // TCP to the proxy
	Handshake time.Duration // TLS to the proxy, CONNECT or SOCKS, TLS to the target
}

// Final is how a whole request ended; it is the X-Whirlpool-Outcome header.
type Final uint8

// The ends of a request.
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
)

// String returns the header's word.
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
	}
	return "unknown"
}
