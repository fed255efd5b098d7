package retry

import (
	"errors"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Attempted are the facts of one finished attempt.
type Attempted struct {
	Connect      bool
	Status       int           // of the answer; 0 when none came
	RetryAfter   string        // of the answer, as it came
	Latency      time.Duration // to the answer's head, or to the tunnel standing
	Timing       core.Timing
	Fault        *Fault // why none came; nil when one did
	ClientGone   bool   // the client hung up, or the gateway shuts down
	TotalTimeout bool   // the request's total timeout passed during the attempt
	OwnTimeout   bool   // and it was tighter than the global policy's, or the client was still sending
}

// Classify judges an attempt: success, retryable or final, and whose fault it was.
// Whether it is retried follows the request's own policy. What the breakers count
// follows the global one: otherwise one client could open them for everybody.
func Classify(a Attempted, global, own *Policy, now time.Time) core.Outcome {
	o := core.Outcome{Status: a.Status, Latency: a.Latency, Timing: a.Timing}
	if a.Fault != nil {
		classifyFault(&o, &a)
		return o
	}
	switch {
	case a.Status == 407: // the proxy refuses the pool's credentials
		o.Result, o.Verdict, o.Again, o.Reason = core.ResultFailure, core.Failure, core.Elsewhere, "proxy_configuration_error"
		o.Unsent = true
	case a.Connect && a.Status >= 200 && a.Status < 300:
		o.Result, o.Verdict = core.ResultSuccess, core.Success
	case a.Connect && a.Status < 500: // the proxy's policy for this target
		o.Result, o.Verdict, o.Again, o.Reason = core.ResultFailure, core.Excluded, core.Retry, httpReason(a.Status)
		o.Unsent = true
	case a.Connect:
		o.Result, o.Verdict, o.Again, o.Reason = core.ResultFailure, core.Failure, core.Retry, httpReason(a.Status)
		o.Unsent = true
	case own.Retries(a.Status):
		o.Result, o.Verdict, o.Again, o.Reason = core.ResultFailure, core.Excluded, core.Retry, httpReason(a.Status)
		if a.Status >= 500 && global.Retries(a.Status) {
			o.Verdict = core.Failure
		}
	case a.Status >= 500 && global.Retries(a.Status): // the request opted out of retrying it; it still counts
		o.Result, o.Verdict, o.Reason = core.ResultFailure, core.Failure, httpReason(a.Status)
	default:
		o.Result, o.Verdict = core.ResultSuccess, core.Success
	}
	if a.RetryAfter != "" && (a.Status == 429 || a.Status == 503) {
		o.RetryAfter, _ = ParseRetryAfter(a.RetryAfter, now)
	}
	return o
}

func classifyFault(o *core.Outcome, a *Attempted) {
	f := a.Fault
	o.Err, o.Reason, o.Unsent = f.Err, f.Reason, f.Unsent
	switch {
	case a.ClientGone:
		o.Result, o.Verdict, o.Again, o.Reason = core.ResultCancelled, core.Excluded, core.Never, ""
	case a.TotalTimeout:
		o.Result, o.Verdict, o.Again = core.ResultTimeout, core.Failure, core.Never
		if a.OwnTimeout || f.Target {
			o.Verdict = core.Excluded
		}
	case f.Stale:
		o.Result, o.Verdict, o.Again = core.ResultReplay, core.Excluded, core.Replay
	case f.Timeout && f.Target:
		o.Result, o.Verdict, o.Again = core.ResultTimeout, core.Excluded, core.Retry
	case f.Ours, f.Target:
		o.Result, o.Verdict, o.Again = core.ResultFailure, core.Excluded, core.Retry
	case f.Timeout:
		o.Result, o.Verdict, o.Again = core.ResultTimeout, core.Failure, core.Retry
	case f.Status == 407:
		o.Result, o.Verdict, o.Again = core.ResultFailure, core.Failure, core.Elsewhere
		o.Unsent = true
	case f.Status >= 400 && f.Status < 500: // a CONNECT on the way to an https:// target
		o.Result, o.Verdict, o.Again = core.ResultFailure, core.Excluded, core.Retry
	default:
		o.Result, o.Verdict, o.Again = core.ResultFailure, core.Failure, core.Retry
	}
}

// httpReason does not allocate for the statuses that a pool sees in numbers.
func httpReason(status int) string {
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

// ParseRetryAfter reads a Retry-After value (RFC 9110 section 10.2.3): seconds
// or a date. Anything else, and a date that has passed, is false.
func ParseRetryAfter(v string, now time.Time) (time.Duration, bool) {
	if len(v) > 0 && v[0] >= '0' && v[0] <= '9' {
		n, err := strconv.ParseUint(v, 10, 31) // of a larger one the most, which a policy's cap is below
		if err != nil && !errors.Is(err, strconv.ErrRange) || n == 0 {
			return 0, false
		}
		return time.Duration(n) * time.Second, true
	}
	at, err := parseDate(v)
	if err != nil || !at.After(now) {
		return 0, false
	}
	return at.Sub(now), true
}

// parseDate reads the three forms of an HTTP-date (RFC 9110 section 5.6.7).
func parseDate(v string) (time.Time, error) {
	at, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", v)
	if err != nil {
		if at, err = time.Parse(time.RFC850, v); err != nil {
			at, err = time.Parse(time.ANSIC, v)
		}
	}
	return at, err
}
