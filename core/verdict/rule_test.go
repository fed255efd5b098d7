package verdict

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func TestByRule(t *testing.T) {
	answered := Judge(&Facts{Status: 403, Idempotent: true, Replayable: true})
	retried := Judge(&Facts{Status: 503, StatusRetried: true, StatusCounted: true, Idempotent: true, Replayable: true})
	refused := Judge(&Facts{Status: 403, Tunnel: true, FromProxy: true, Idempotent: true, Replayable: true})
	broke := Judge(&Facts{Err: &Error{Cause: TunnelBroke, Err: io.EOF}, Idempotent: true, Replayable: true})
	const again, elsewhere = core.RetryAfterBackoff, core.RetryElsewhere
	for name, c := range map[string]struct {
		before core.Outcome
		in     Instruction
		direct bool
		want   conclusion
		charge core.Verdict
	}{
		"retry": {answered, Instruction{Next: NextRetry}, false,
			conclusion{JudgeRetry, core.ResultFailure, nobody, again}, core.Excluded},
		"other proxy": {answered, Instruction{Next: NextOtherProxy}, false,
			conclusion{JudgeOtherProxy, core.ResultFailure, ifServed, elsewhere}, core.Excluded},
		"ban": {answered, Instruction{Next: NextBan}, false,
			conclusion{BannedHere, core.ResultFailure, nobody, elsewhere}, core.Excluded},
		"ban that charges the proxy": {answered, Instruction{NextBan, BlameProxy}, false,
			conclusion{BannedHere, core.ResultFailure, proxy, elsewhere}, core.Failure},
		"ban of direct://": {answered, Instruction{NextBan, BlameProxy}, true,
			conclusion{BannedHere, core.ResultFailure, target, elsewhere}, core.Excluded},
		"final": {answered, Instruction{}, false,
			conclusion{Answered, core.ResultSuccess, nobody, core.NoRetry}, core.Success},
		"final in place of a retry": {retried, Instruction{}, false,
			conclusion{RuleFinal, core.ResultFailure, nobody, core.NoRetry}, core.Excluded},
		"final, and the target is charged": {answered, Instruction{Blame: BlameTarget}, false,
			conclusion{TargetFault, core.ResultFailure, target, core.NoRetry}, core.Excluded},
		"a failure elsewhere": {refused, Instruction{NextBan, BlameNobody}, false,
			conclusion{TunnelRefused, core.ResultFailure, nobody, elsewhere}, core.Excluded},
		"a final failure": {broke, Instruction{}, false,
			conclusion{TunnelBroke, core.ResultFailure, proxyOrTarget, core.NoRetry}, core.Failure},
		"a failure of the target": {broke, Instruction{NextRetry, BlameTarget}, false,
			conclusion{TunnelBroke, core.ResultFailure, target, again}, core.Excluded},
	} {
		o := ApplyRule(c.before, c.in, c.direct)
		require.Equal(t, c.want, conclusion{o.Cause, o.Result, o.Charge, o.Retry}, name)
		require.Equal(t, c.charge, o.Verdict, name)
		require.Equal(t, c.before.Relay, o.Relay, name)
	}
}

func TestFailuresOfRules(t *testing.T) {
	for _, word := range RuleFailures() {
		c, ok := RuleFailure(word)
		require.True(t, ok)
		require.Equal(t, word, CauseName(c))
		require.False(t, IsReviewable(c))
	}
	for _, c := range []core.Cause{Answered, TunnelOpen, BannedHere, RuleFinal, ProxyLoop, EgressDenied, AnswerBrokeOff,
		TunnelDied, TotalTimeout, StaleConnection, ClientLeft, HedgeLost, ShuttingDown} {
		_, ok := RuleFailure(CauseName(c))
		require.False(t, ok, CauseName(c))
	}
}
