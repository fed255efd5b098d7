// Package preview computes which attempts recorded requests would have had under another retry policy. It repeats the
// decisions of package executor with the recorded outcomes of the attempts. If the other policy would have made an
// attempt for which no outcome is recorded, the result of the request is unknown.
package preview

import (
	"math"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Request is a request that has ended.
type Request struct {
	Method   string
	Final    core.Final
	Status   int // of the response to the client; 0 if the client left before the response
	Attempts []core.AttemptEvent
	Earlier  bool // the request began under another policy than the current one
}

// Result is the result of a request for its client.
type Result uint8

// The results. Unknown: the policy would have made an attempt whose outcome is not recorded.
const (
	Unknown Result = iota
	Served         // a response with a status below 400, or a tunnel
	Refused        // a response with a status of 400 or above, or none
)

// RequestCourse describes the attempts, the waits and the result of a request under a policy.
type RequestCourse struct {
	Attempts    int           // without replays; the minimum number if Result is Unknown
	BackoffTime time.Duration // sum of the backoffs between these attempts
	Result      Result
	Status      int // of the response to the client, if Result is Refused; 0 if the client left before the response
}

// RecordedCourse returns the course that a request has had.
func RecordedCourse(r *Request) RequestCourse {
	c := RequestCourse{Result: resultOf(r.Status), Status: r.Status}
	for i := range r.Attempts {
		if a := &r.Attempts[i]; a.Outcome.Result != core.ResultReplay {
			c.Attempts++
			c.BackoffTime += a.Delay
		}
	}
	return c
}

func resultOf(status int) Result {
	if status > 0 && status < http.StatusBadRequest {
		return Served
	}
	return Refused
}

// CourseUnder returns the course that a request would have had under the policy p in place of the current one. Some
// requests had no retry although the current policy allows one: there was no admissible proxy, the retry budget was
// spent, or the target was suspect. CourseUnder assumes that such a request would have had no retry under p either. It
// does not assume this of a request that began under another policy (Request.Earlier). A request with a hedge, a
// request without attempts, and a request whose client has left keep their recorded course.
func CourseUnder(r *Request, p, current *retry.Policy) RequestCourse {
	recorded := RecordedCourse(r)
	if recorded.Attempts == 0 || r.Final == core.FinalCancelled || hasHedge(r.Attempts) {
		return recorded
	}
	var c RequestCourse
	var elapsed time.Duration // duration of the attempts and backoffs so far
	var ruleLimit int         // the highest max_attempts of the rules so far
	tried := map[string]bool{}
	for i := range r.Attempts {
		a := &r.Attempts[i]
		elapsed += a.Ended.Sub(a.Started)
		if a.Outcome.Result == core.ResultReplay {
			continue
		}
		c.Attempts++
		ruleLimit = max(ruleLimit, a.RuleLimit)
		tried[a.ProxyID] = true
		last := i == len(r.Attempts)-1
		if p.Timeout != nil && elapsed >= seconds(*p.Timeout) {
			c.Result, c.Status = Refused, http.StatusGatewayTimeout
			return c
		}
		if !retries(a, r.Method, p) || c.Attempts >= maxAttempts(p, ruleLimit) {
			if last {
				c.Result, c.Status = recorded.Result, recorded.Status
				if a.Outcome.Cause == verdict.TotalTimeout && !sameTimeout(p, current) {
					c.Result = Unknown // the end of the attempt under p is not known
				}
				return c
			}
			c.Result, c.Status = endResult(&a.Outcome)
			return c
		}
		if last {
			if !r.Earlier && retries(a, r.Method, current) && c.Attempts < maxAttempts(current, ruleLimit) {
				c.Result, c.Status = recorded.Result, recorded.Status
				return c
			}
			c.Attempts++
			c.Result = Unknown
			return c
		}
		next := &r.Attempts[i+1]
		wait := backoff(a, next, c.Attempts, !tried[next.ProxyID], p, current)
		if p.Timeout != nil && elapsed+wait >= seconds(*p.Timeout) {
			c.Result, c.Status = Refused, http.StatusGatewayTimeout
			return c
		}
		elapsed += wait
		c.BackoffTime += wait
	}
	return c
}

// maxAttempts returns the maximum number of attempts under the policy p. A rule may permit more attempts, but a policy
// that permits one attempt permits no retries. The argument ruleLimit is the rule's number, or 0.
func maxAttempts(p *retry.Policy, ruleLimit int) int {
	if p.MaxAttempts == 1 {
		return 1
	}
	return max(p.MaxAttempts, ruleLimit)
}

func hasHedge(attempts []core.AttemptEvent) bool {
	for i := range attempts {
		if attempts[i].Hedge {
			return true
		}
	}
	return false
}

// retries reports whether the policy p retries a request after an attempt. It does not check maxAttempts.
func retries(a *core.AttemptEvent, method string, p *retry.Policy) bool {
	o := &a.Outcome
	switch o.Repeat {
	case core.RepeatBodyNotKept:
		return false
	case core.RepeatUnsafe:
		if !p.RetryNonIdempotent {
			return false
		}
	case core.RepeatAllowed: // because of the method or the policy in force, or because nothing was sent
		if !retry.IsIdempotent(method) && method != http.MethodConnect && !p.RetryNonIdempotent &&
			verdict.SentToProxy(o.Cause) {
			return false
		}
	}
	if o.Cause == verdict.Answered || o.Cause == verdict.RetryStatus {
		return p.RetriesStatus(o.Status)
	}
	return o.Retry != core.NoRetry
}

// endResult returns the result of a request whose last attempt has the outcome o.
func endResult(o *core.Outcome) (Result, int) {
	switch {
	case o.Cause == verdict.TunnelOpen:
		return Served, o.Status
	case o.Status != 0 && (o.Relay || o.Cause == verdict.Answered):
		return resultOf(o.Status), o.Status
	case verdict.IsTimeout(o.Cause):
		return Refused, http.StatusGatewayTimeout
	}
	return Refused, http.StatusBadGateway
}

// The function backoff returns the wait between two recorded attempts under the policy p, as Exchange.backoff of
// package executor computes it. Retries are numbered from 1. A failover to a proxy that the request has not used yet
// often needs no wait. If the backoff of p cannot be computed (KnowsBackoff), the function returns the recorded wait.
func backoff(a, next *core.AttemptEvent, number int, newProxy bool, p, current *retry.Policy) time.Duration {
	o := &a.Outcome
	switch {
	case o.Retry == core.RetryElsewhere && newProxy:
		return 0
	case p.FailoverDelay != nil && newProxy:
		return seconds(*p.FailoverDelay)
	case o.NoTargetResponse && newProxy && o.RetryAfter == 0:
		return 0
	case next.Delay == 0 && current.FailoverDelay == nil:
		return 0
	}
	if !KnowsBackoff(p) {
		return next.Delay
	}
	// The result is computed as a float, because 60*10^8 s would overflow a Duration.
	return seconds(min(max(delay(p, number), o.RetryAfter.Seconds()), p.MaxBackoffDelay))
}

// KnowsBackoff reports whether the backoffs of a policy can be computed. It returns false for a backoff of a plugin
// and for a policy with jitter.
func KnowsBackoff(p *retry.Policy) bool { return !p.Jitter && delay(p, 1) > 0 }

// delay returns the delay of a built-in backoff before a retry, in seconds; 0 for a backoff of a plugin. Retries are
// numbered from 1. plugins/builtin/src has the formulas.
func delay(p *retry.Policy, number int) float64 {
	switch p.BackoffStrategy {
	case "exponential":
		return p.BaseDelay * math.Pow(p.Multiplier, float64(number-1))
	case "linear":
		return p.BaseDelay * float64(number)
	case "fixed":
		return p.BaseDelay
	}
	return 0
}

func sameTimeout(p, q *retry.Policy) bool {
	return p.Timeout == nil && q.Timeout == nil || p.Timeout != nil && q.Timeout != nil && *p.Timeout == *q.Timeout
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
