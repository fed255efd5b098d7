package verdict

import "github.com/whirlpool-proxy/whirlpool/core"

// Instruction is the decision of a configured rule about an attempt.
type Instruction struct {
	Follow Follow
	Blame  Blame
}

// Follow is the next step after an attempt to which a rule applies.
type Follow uint8

// The values of Follow.
const (
	FollowNothing    Follow = iota // the response or the failure is final
	FollowRetry                    // a retry after the backoff
	FollowOtherProxy               // a retry through another proxy, without a backoff
	FollowBan                      // like FollowOtherProxy; the proxy also rests for the target's host, or is banned
)

// Blame is the party that a rule charges.
type Blame uint8

// The values of Blame. BlameDefault means the charge of the cause's row.
const (
	BlameDefault Blame = iota
	BlameProxy
	BlameTarget
	BlameNobody
)

// ByRule returns the outcome of an attempt to which a rule applies. The parameter o is the outcome without the rule;
// its cause is Reviewable or one of Failures. The parameter isDirect is true if the attempt went to the target without
// a proxy.
func ByRule(o core.Outcome, in Instruction, isDirect bool) core.Outcome {
	switch {
	case !Reviewable(o.Cause): // a failed attempt keeps its cause
		o.Retry = followRetry[in.Follow]
	case in.Follow == FollowNothing && o.Cause == Answered && in.Blame == BlameDefault:
		return o // the response is final already
	default:
		o = ended(o, ruleCause(in), core.ResultFailure, statusReason(o.Status), nil)
		o.Retry, o.Relay, o.NoTargetResponse = rows[o.Cause].retry, true, false
	}
	switch in.Blame {
	case BlameProxy:
		o.Charge = core.ChargeProxy
	case BlameTarget:
		o.Charge = core.ChargeTarget
	case BlameNobody:
		o.Charge = core.ChargeNobody
	}
	o.Charge, o.Verdict = direct(isDirect, o.Charge), core.Excluded
	if o.Charge == core.ChargeProxy || o.Charge == core.ChargeProxyOrTarget {
		o.Verdict = core.Failure
	}
	return o
}

var followRetry = [...]core.RetryKind{
	FollowNothing: core.NoRetry, FollowRetry: core.RetryAfterBackoff, FollowOtherProxy: core.RetryElsewhere,
	FollowBan: core.RetryElsewhere,
}

// ruleCause returns the cause of a response to which a rule applies.
func ruleCause(in Instruction) core.Cause {
	switch in.Follow {
	case FollowRetry:
		return JudgeRetry
	case FollowOtherProxy:
		return JudgeOtherProxy
	case FollowBan:
		return BannedHere
	}
	if in.Blame == BlameTarget {
		return TargetFault
	}
	return RuleFinal
}

// failure reports whether rules may name the cause c. Rules may name the causes of attempts without a response of the
// target, except the causes for which the client or the gateway is responsible.
func failure(c core.Cause) bool {
	return c >= ProxyNameUnknown && c <= AnswerMalformed && c != ProxyLoop && c != EgressDenied
}

// Failures returns the names of the causes that a rule may name.
func Failures() (words []string) {
	for c := range numCauses {
		if failure(c) {
			words = append(words, rows[c].word)
		}
	}
	return words
}

// FailureOf returns the cause with the given name. The second result is false if a rule must not name the cause.
func FailureOf(word string) (core.Cause, bool) {
	for c := range numCauses {
		if failure(c) && rows[c].word == word {
			return c, true
		}
	}
	return 0, false
}
