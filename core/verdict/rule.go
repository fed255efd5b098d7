package verdict

import "github.com/whirlpool-proxy/whirlpool/core"

// Instruction holds the effects of a rule on an attempt: the next step, and the charge.
type Instruction struct {
	Next  NextStep
	Blame Blame
}

// NextStep is the step that follows an attempt to which a rule applies.
type NextStep uint8

// The values of NextStep.
const (
	NextNothing    NextStep = iota // the response or the failure is final
	NextRetry                      // a retry after the backoff
	NextOtherProxy                 // a retry through another proxy, without a backoff
	NextBan                        // like NextOtherProxy; also a ban, for the target's host or for all hosts
)

// Blame is the party that a rule charges.
type Blame uint8

// The values of Blame. With BlameDefault, the cause of the attempt determines the charge.
const (
	BlameDefault Blame = iota
	BlameProxy
	BlameTarget
	BlameNobody
)

// ApplyRule returns the outcome of an attempt after a rule was applied. The parameter o is the outcome without the
// rule. Its cause must be reviewable (IsReviewable) or one of RuleFailures. If isDirect is set, the attempt went to the
// target without a proxy.
func ApplyRule(o core.Outcome, in Instruction, isDirect bool) core.Outcome {
	switch {
	case !IsReviewable(o.Cause): // a failed attempt keeps its cause
		o.Retry = retryKinds[in.Next]
	case in.Next == NextNothing && o.Cause == Answered && in.Blame == BlameDefault:
		return o // the response is final already
	default:
		o = withCause(o, ruleCause(in), core.ResultFailure, statusReason(o.Status), nil)
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
	o.Charge, o.Verdict = directCharge(isDirect, o.Charge), core.Excluded
	if o.Charge == core.ChargeProxy || o.Charge == core.ChargeProxyOrTarget {
		o.Verdict = core.Failure
	}
	return o
}

var retryKinds = [...]core.RetryKind{
	NextNothing: core.NoRetry, NextRetry: core.RetryAfterBackoff, NextOtherProxy: core.RetryElsewhere,
	NextBan: core.RetryElsewhere,
}

// ruleCause returns the cause of a response to which a rule applies.
func ruleCause(in Instruction) core.Cause {
	switch in.Next {
	case NextRetry:
		return JudgeRetry
	case NextOtherProxy:
		return JudgeOtherProxy
	case NextBan:
		return BannedHere
	}
	if in.Blame == BlameTarget {
		return TargetFault
	}
	return RuleFinal
}

// isRuleFailure reports whether rules may name the cause c. Rules may name the causes of attempts without a response of
// the target, except the causes for which the client or the gateway is responsible.
func isRuleFailure(c core.Cause) bool {
	return c >= ProxyNameUnknown && c <= AnswerMalformed && c != ProxyLoop && c != EgressDenied
}

// RuleFailures returns the names of the causes that a rule may name.
func RuleFailures() (names []string) {
	for c := range numCauses {
		if isRuleFailure(c) {
			names = append(names, rows[c].name)
		}
	}
	return names
}

// RuleFailure returns the cause with the given name. It returns false if rules must not name such a cause.
func RuleFailure(name string) (core.Cause, bool) {
	for c := range numCauses {
		if isRuleFailure(c) && rows[c].name == name {
			return c, true
		}
	}
	return 0, false
}
