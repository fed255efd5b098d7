package executor

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// plugins has one scorer, "last", which prefers the proxy whose turn comes last.
type plugins struct{}

func (plugins) Scorer(string) (core.Scorer, error)   { return last{}, nil }
func (plugins) Backoff(string) (core.Backoff, error) { return doubling{}, nil }

type last struct{}

func (last) Score(c core.Candidates, scores []float64) error {
	rows := make([]core.Candidate, c.Len())
	var q core.RankRequest
	c.Fill(&q, rows)
	for i := range rows {
		scores[i] = rows[i].Rotation
	}
	return nil
}

// routed returns a bench with n proxies and one rule for all hosts.
func routed(t *testing.T, n int, r rules.Routing) *bench {
	b := start(t, n, nil)
	tuning := b.Tuning()
	var err error
	tuning.Rules, err = rules.Compile([]rules.Rule{{Name: "x", When: rules.Conditions{Hosts: []string{"*"}},
		Then: rules.Actions{Routing: r}}}, plugins{})
	require.NoError(t, err)
	b.SetTuning(tuning)
	return b
}

func (b *bench) change(t *testing.T, i int, change func(*upstream.Spec)) {
	err := b.pool.UpdateAll(upstream.Updates{fmt.Sprintf("p%d", i): func(s *upstream.Spec) error {
		change(s)
		return nil
	}})
	require.NoError(t, err)
}

// route runs the request of x with the rules of the bench.
func (b *bench) route(t *testing.T, x *both, f func(context.Context, *Attempt) verdict.Facts) *tries {
	c := &tries{f: f}
	b.Route(&x.Request)
	x.Policy = x.Route.Policy(x.GlobalPolicy)
	b.run(t.Context(), x, c)
	return c
}

// The retries of a request stay within the tag. Its first attempt uses the scorer of the rule, and its policy and
// attempt timeout are those of the rule.
func TestARouteWithEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		four := 4
		b := routed(t, 5, rules.Routing{Tag: "a", Scorer: "last", Policy: &rules.Policy{AttemptTimeout: 2,
			Override: retry.Override{MaxAttempts: &four}}})
		for _, i := range []int{1, 3, 4} {
			b.change(t, i, func(s *upstream.Spec) { s.Tags = []string{"a"} })
		}
		x, steps := exchange(t, nil), &steps{}
		x.Progress = steps
		c := b.route(t, x, func(_ context.Context, a *Attempt) verdict.Facts {
			require.Equal(t, a.Started.Add(2*time.Second), a.Deadline)
			return verdict.Facts{Status: 503}
		})
		require.Equal(t, []string{"p4", "p1", "p3", "p4"}, c.ids)
		require.Equal(t, core.FinalExhausted, x.Result().Final)
		require.Equal(t, "routed by x", steps.list[0])
		require.Equal(t, []rules.Count{{Label: "x", N: 1}}, b.Rules().Counts())
	})
}

func TestDeniedAndUnreachableWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := routed(t, 2, rules.Routing{Deny: true})
		x := exchange(t, nil)
		c := b.route(t, x, statuses(200))
		require.Empty(t, c.ids)
		require.Equal(t, core.FinalDeniedByRule, x.Result().Final)
		require.Equal(t, Denied, x.refusal.Kind)
		require.EqualError(t, x.refusal.Err, "the rule x denies the request")

		b = routed(t, 2, rules.Routing{Tag: "none"})
		x = exchange(t, nil)
		require.Empty(t, b.route(t, x, statuses(200)).ids)
		require.Equal(t, core.FinalNoProxyWithTag, x.Result().Final)
		require.Equal(t, NoProxy, x.refusal.Kind)

		// If the breaker is open, the refusal has the time of its next probe.
		b = routed(t, 1, rules.Routing{Tag: "a"})
		b.change(t, 0, func(s *upstream.Spec) { s.Tags = []string{"a"} })
		for range 2 {
			b.route(t, exchange(t, nil), statuses(503))
		}
		x = exchange(t, nil)
		require.Empty(t, b.route(t, x, statuses(200)).ids)
		require.Equal(t, core.FinalNoProxyWithTag, x.Result().Final)
		require.Positive(t, x.refusal.RetryAfter)
	})
}

// The attempt timeout of a rule, which is shorter than that of other requests, opens no breaker.
func TestAShortAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := routed(t, 1, rules.Routing{Policy: &rules.Policy{AttemptTimeout: 0.1}})
		for range 10 {
			x := exchange(t, nil)
			c := b.route(t, x, func(_ context.Context, a *Attempt) verdict.Facts {
				time.Sleep(time.Until(a.Deadline))
				return verdict.Facts{Err: &verdict.Error{Cause: verdict.NoAnswerInTime,
					Reason: "http_response_timeout"}}
			})
			require.Len(t, c.ids, 3)
		}
		require.Equal(t, core.Closed, b.pool.Snapshot().All[0].Breaker().State())
	})
}

// A direct request is retried without a proxy. Its failures open no breaker, and a proxy is never used.
func TestDirectRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := routed(t, 2, rules.Routing{Direct: true})
		for range 30 {
			x := exchange(t, nil)
			c := b.route(t, x, func(context.Context, *Attempt) verdict.Facts {
				return verdict.Facts{Err: &verdict.Error{Cause: verdict.ProxyUnreachable, Reason: "connection_refused"}}
			})
			require.Equal(t, []string{"direct", "direct", "direct"}, c.ids)
			require.Equal(t, core.FinalExhausted, x.Result().Final)
		}
		x := exchange(t, nil)
		require.Equal(t, []string{"direct"}, b.route(t, x, statuses(200)).ids)
		require.Equal(t, core.FinalSuccess, x.Result().Final)
		require.Zero(t, b.pool.Direct().InFlight())
	})
}

func TestRegionsOfClientUserAndRule(t *testing.T) {
	for name, c := range map[string]struct {
		region string
		strict bool
		user   []string
		rule   rules.Routing
		want   string // the region of the proxy; "" for no proxy
	}{
		"the rule":                        {rule: rules.Routing{Region: "us"}, want: "us"},
		"a preference of the rule":        {rule: rules.Routing{Region: "us", Prefer: true}, want: "us"},
		"the client prefers another one":  {region: "eu", rule: rules.Routing{Region: "us"}, want: "us"},
		"the client requires another one": {region: "eu", strict: true, rule: rules.Routing{Region: "us"}},
		"the client requires the same": {region: "us", strict: true, rule: rules.Routing{Region: "us"},
			want: "us"},
		"the client before a preference": {region: "eu", rule: rules.Routing{Region: "us", Prefer: true},
			want: "eu"},
		"the user may not use it": {user: []string{"eu"}, rule: rules.Routing{Region: "us"}},
		"the user may not use the preference": {user: []string{"eu"}, rule: rules.Routing{Region: "us", Prefer: true},
			want: "eu"},
		"the client prefers a forbidden one": {region: "us", user: []string{"eu"}, rule: rules.Routing{Pool: true},
			want: "eu"},
		"the client requires a forbidden one": {region: "us", strict: true, user: []string{"eu"},
			rule: rules.Routing{Pool: true}},
		"the client in another case":     {region: "Us", rule: rules.Routing{Pool: true}, want: "us"},
		"strict in another case":         {region: "US", strict: true, rule: rules.Routing{Pool: true}, want: "us"},
		"the user in another case":       {user: []string{"EU"}, rule: rules.Routing{Pool: true}, want: "eu"},
		"the rule in another case":       {rule: rules.Routing{Region: "EU"}, want: "eu"},
		"rule and client in other cases": {region: "eu", strict: true, rule: rules.Routing{Region: "EU"}, want: "eu"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := routed(t, 2, c.rule)
				for i, region := range []string{"us", "eu"} {
					b.change(t, i, func(s *upstream.Spec) { s.Region = region })
				}
				for range 4 {
					x := exchange(t, nil)
					x.Region, x.RegionStrict, x.Regions = c.region, c.strict, core.NewRegions(c.user)
					tries := b.route(t, x, statuses(200))
					if c.want == "" {
						require.Empty(t, tries.ids)
						require.Equal(t, core.FinalNoProxyInRegion, x.Result().Final)
						continue
					}
					require.Equal(t, []string{map[string]string{"us": "p0", "eu": "p1"}[c.want]}, tries.ids)
				}
			})
		})
	}
}

// A client prefers a region that its user must not use, and the pool has only a proxy with {region} in its login. The
// region of the client is ignored, and the login gets the proxy's own region.
func TestAForbiddenPreferredRegionIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1, nil)
		b.change(t, 0, func(s *upstream.Spec) { s.Region, s.Address.Username = "eu", "ann-{region}" })
		x := exchange(t, nil)
		x.Region, x.Regions = "us", core.NewRegions([]string{"eu"})
		c := &tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
			require.Empty(t, a.Region)
			return verdict.Facts{Status: 200}
		}}
		_, ok := b.run(t.Context(), x, c)
		require.True(t, ok, x.Result().Final)
		x = exchange(t, nil)
		x.Region, x.RegionStrict, x.Regions = "us", true, core.NewRegions([]string{"eu"})
		_, ok = b.run(t.Context(), x, c)
		require.False(t, ok)
		require.Equal(t, core.FinalNoProxyInRegion, x.Result().Final)
	})
}
