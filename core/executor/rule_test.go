package executor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// ruled returns a bench with rules and a judge.
func ruled(t *testing.T, n int, j *judge, list ...rules.Rule) *bench {
	b := courtroom(t, n, j)
	tuning, s := b.Tuning(), b.selector.(*selector.Selector)
	set, err := rules.Compile(list, nil)
	require.NoError(t, err)
	if tuning.Rules, tuning.ProxyBans = set, s.ProxyBans(); j == nil {
		tuning.Judge = nil
	}
	b.SetTuning(tuning)
	return b
}

// send runs a request for a host. The proxies in bans respond with 403, the others with 200.
func (b *bench) send(t *testing.T, host string, bans ...string) (status int, x *both, s *judged) {
	return b.sendWith(t, host, nil, bans...)
}

// sendWith is send with a policy; nil for the default.
func (b *bench) sendWith(t *testing.T, host string, p *retry.Policy, bans ...string) (
	status int, x *both, s *judged,
) {
	x = exchange(t, nil)
	if p != nil {
		x.Policy = p
	}
	x.Host, x.Method = host, "GET"
	s = &judged{tries: tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
		for _, id := range bans {
			if a.Upstream.ID() == id {
				return verdict.Facts{Status: 403}
			}
		}
		return verdict.Facts{Status: 200}
	}}}
	return b.judged(t, x, s), x, s
}

func TestRulesComeBeforeTheJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &judge{rule: byStatus(map[float64]core.Ruling{403: {Kind: core.RulingOtherProxy}})}
		b := ruled(t, 3, j, rules.Rule{When: rules.Conditions{Hosts: []string{"*.final.test"},
			Statuses: []string{"403"}},
			Then: rules.Actions{Final: true}})
		status, _, s := b.send(t, "a.final.test", "p0", "p1", "p2")
		require.Equal(t, 403, status)
		require.Len(t, s.ids, 1)
		require.Empty(t, j.seen)
		require.Zero(t, s.asked, "nothing of the response is read")
		status, _, _ = b.send(t, "other.test", "p0", "p1")
		require.Equal(t, 200, status)
		require.NotEmpty(t, j.seen)
	})
}

func TestRulesWithABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ruled(t, 3, nil,
			rules.Rule{When: rules.Conditions{Statuses: []string{"403"}, Body: "another"},
				Then: rules.Actions{Final: true}},
			rules.Rule{When: rules.Conditions{Statuses: []string{"403"}, Body: "page"},
				Then: rules.Actions{OtherProxy: true}})
		status, _, s := b.send(t, "a.test", "p0")
		require.Equal(t, 200, status)
		require.Equal(t, []string{"p0", "p1"}, s.ids)
		require.Equal(t, 1, s.asked)
	})
}

// A banned proxy gets no requests for any host until the ban ends. A ban lasts for at most 30 s if no other proxy has
// served the request that led to it. If all proxies are banned, the request is refused, with the remaining time.
func TestBansByRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ruled(t, 2, nil, rules.Rule{When: rules.Conditions{Statuses: []string{"403"}},
			Then: rules.Actions{Ban: time.Hour}})
		status, _, s := b.send(t, "a.test", "p0")
		require.Equal(t, 200, status)
		require.Equal(t, []string{"p0", "p1"}, s.ids)
		for range 4 {
			_, _, s = b.send(t, "b.test")
			require.Equal(t, []string{"p1"}, s.ids, "p0 is banned for all hosts")
		}
		status, x, _ := b.send(t, "a.test", "p1")
		require.Equal(t, 403, status, "no proxy is left for a retry")
		require.Equal(t, core.FinalAllBanned, x.Result().Final)
		status, x, s = b.send(t, "c.test")
		require.Zero(t, status)
		require.Empty(t, s.ids)
		require.Equal(t, core.FinalAllBanned, x.Result().Final)
		require.Equal(t, 30*time.Second, x.refusal.RetryAfter)
		time.Sleep(30 * time.Second)
		_, _, s = b.send(t, "c.test")
		require.Equal(t, []string{"p1"}, s.ids, "its ban was not confirmed")
		time.Sleep(time.Hour)
		served := map[string]bool{}
		for range 4 {
			_, _, s = b.send(t, "c.test")
			served[s.ids[0]] = true
		}
		require.Len(t, served, 2)
	})
}

// With max_attempts of a rule, a request that the rule sends to another proxy may have more attempts than its policy
// permits. A request that has asked for a number of attempts keeps this number. Without retries, the rule has no
// effect.
func TestMaxAttemptsOfARule(t *testing.T) {
	refusing := []string{"p0", "p1", "p2", "p3", "p4", "p5"}
	two, five := 2, 5
	for name, c := range map[string]struct {
		then     rules.Actions
		policy   int            // max_attempts of the global policy
		override retry.Override // of the request
		attempts int
	}{
		"rest":             {rules.Actions{Rest: time.Minute, MaxAttempts: 10}, 3, retry.Override{}, 7},
		"ban":              {rules.Actions{Ban: time.Minute, MaxAttempts: 7}, 3, retry.Override{}, 7},
		"other proxy":      {rules.Actions{OtherProxy: true, MaxAttempts: 7}, 2, retry.Override{}, 7},
		"too few":          {rules.Actions{Rest: time.Minute, MaxAttempts: 6}, 3, retry.Override{}, 6},
		"fewer":            {rules.Actions{Rest: time.Minute, MaxAttempts: 2}, 3, retry.Override{}, 3},
		"none of the rule": {rules.Actions{Rest: time.Minute}, 3, retry.Override{}, 3},
		"no retries":       {rules.Actions{Rest: time.Minute, MaxAttempts: 10}, 1, retry.Override{}, 1},
		"the request asks for two": {rules.Actions{Rest: time.Minute, MaxAttempts: 10}, 3,
			retry.Override{MaxAttempts: &two}, 2},
		"the request asks for as many as the policy has": {rules.Actions{Rest: time.Minute, MaxAttempts: 10}, 5,
			retry.Override{MaxAttempts: &five}, 5},
		"the request changes another field": {rules.Actions{Rest: time.Minute, MaxAttempts: 10}, 3,
			retry.Override{RetryStatusCodes: &[]int{502}}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := ruled(t, 10, nil, rules.Rule{When: rules.Conditions{Statuses: []string{"403"}}, Then: c.then})
				own, err := retry.DefaultPolicy(), error(nil)
				own.MaxAttempts = c.policy
				own, err = own.Overridden(c.override, retry.OverrideAny, func(string) bool { return true })
				require.NoError(t, err)
				status, x, s := b.sendWith(t, "a.test", &own, refusing...)
				require.Equal(t, refusing[:min(c.attempts, 6)], s.ids[:min(c.attempts, 6)])
				require.Equal(t, c.attempts, x.Result().Attempts)
				if c.attempts == 7 {
					require.Equal(t, 200, status)
				} else {
					require.Equal(t, 403, status)
				}
				status, x, _ = b.sendWith(t, "b.test", &own)
				require.Equal(t, 200, status)
				require.Equal(t, 1, x.Result().Attempts)
			})
		})
	}
}

// A rule for a failed attempt changes the step that follows the attempt, and the party that is charged.
func TestRulesForFailures(t *testing.T) {
	refuse := verdict.Facts{Status: 403, FromProxy: true, Tunnel: true}
	for name, c := range map[string]struct {
		proxies int
		then    rules.Actions
		ids     []string
		at      []time.Duration
		final   core.Final
	}{
		"final": {2, rules.Actions{Final: true}, []string{"p0"}, []time.Duration{0}, core.FinalNotRetryable},
		"other proxy": {2, rules.Actions{OtherProxy: true}, []string{"p0", "p1"}, []time.Duration{0, 0},
			core.FinalSuccess},
		"other proxy, of which there is none": {1, rules.Actions{OtherProxy: true}, []string{"p0", "p0", "p0"},
			[]time.Duration{0, time.Second, 3 * time.Second}, core.FinalExhausted},
		"rest": {2, rules.Actions{Rest: time.Minute}, []string{"p0", "p1"}, []time.Duration{0, 0}, core.FinalSuccess},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := ruled(t, c.proxies, nil, rules.Rule{When: rules.Conditions{Error: "tunnel_refused"}, Then: c.then})
				x := exchange(t, nil)
				x.Host, x.Method, x.WantsTunnel, x.Idempotent = "a.test", "CONNECT", true, true
				s := &tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
					if a.Upstream.ID() == "p0" {
						return refuse
					}
					return verdict.Facts{Status: 200}
				}}
				end := Run(t.Context(), b.Executor, &x.Exchange, &x.Request, s)
				switch {
				case end.Tunnel != nil:
					end.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
				case end.Refusal != nil:
					end.Refusal.Close(502, time.Now())
				default:
					end.Relay.Close(502, verdict.RelayEnd{}, time.Now())
				}
				require.Equal(t, c.ids, s.ids)
				require.Equal(t, c.at, s.at)
				require.Equal(t, c.final, x.Result().Final)
				require.Equal(t, verdict.TunnelRefused, b.rec.Attempts()[0].Outcome.Cause)
				if name == "rest" {
					require.Equal(t, 1, b.selector.(*selector.Selector).HostBans().Count(time.Since(b.pool.Epoch())))
				}
			})
		})
	}
}
