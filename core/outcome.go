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

// Again says whether, and how, a request may be tried again after an attempt.
type Again uint8

// Never: the answer is final. Retry: after the backoff. Elsewhere: at once,
// through another proxy (an upstream's 407). Replay: at once, through the same
// proxy on a fresh connection, outside max_attempts.
const (
	Never Again = iota
	Retry
	Elsewhere
	Replay
)

// Outcome is everything known about one finished attempt. Breaker, statistics,
// metrics and log are all given the same value.
type Outcome struct {
	Result     Result
	Verdict    Verdict
	Again      Again
	Status     int           // of the answer; 0 when none arrived
	Latency    time.Duration // to the answer's head, or to the tunnel standing
	Timing     Timing        // of the connection, where one was opened for it
	RetryAfter time.Duration // what the answer asked for; 0 when it did not
	Unsent     bool          // no byte of the request itself can have reached an origin
	Reason     string        // RFC 9209 error token, or "http_<status>"; "" on success
	Err        error         // free of credentials and of query strings; nil when an answer arrived
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
