package executor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// byProxy returns responses from HTTP proxies: the given status through p0, and the other status through all others.
func byProxy(p0, others int) func(context.Context, *Attempt) verdict.Facts {
	return func(_ context.Context, a *Attempt) verdict.Facts {
		if a.Upstream.ID() == "p0" {
			return verdict.Facts{Status: p0, FromProxy: true}
		}
		return verdict.Facts{Status: others, FromProxy: true}
	}
}

// A web server is listed as a proxy. Its error responses are compared with those through other proxies, and its breaker
// opens.
func TestAWebServerInThePool(t *testing.T) {
	for _, status := range []int{400, 403, 404, 405, 421, 501} {
		synctest.Test(t, func(t *testing.T) {
			b := startWithLedger(t, 3)
			relays(b, 1, 2)
			p0 := b.pool.Snapshot().All[0]
			for range 40 {
				x := exchange(t, nil)
				x.Safe = true
				_, relayed := b.run(t.Context(), x, &tries{f: byProxy(status, 200)})
				require.True(t, relayed)
				require.Equal(t, core.FinalSuccess, x.Result().Final)
				require.NotEqual(t, "p0", x.Result().ProxyID)
				time.Sleep(10 * time.Millisecond)
			}
			assert.Equal(t, core.Open, p0.Breaker().State())
			b.idle(t)
		})
	}
}

// A target responds with 404 through all proxies. This costs a few attempts of each proxy that has not relayed a
// response below 400, but only if another proxy has relayed one. The 404 is relayed, and nobody is charged.
func TestAnErrorOfTheTarget(t *testing.T) {
	for _, relaying := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			b, attempts := startWithLedger(t, 4), 0
			for i := range relaying {
				relays(b, i)
			}
			for range 100 {
				x := exchange(t, nil)
				x.Safe = true
				b.run(t.Context(), x, &tries{f: byProxy(404, 404)})
				require.Equal(t, core.FinalSuccess, x.Result().Final)
				require.LessOrEqual(t, x.Result().Attempts, 2)
				attempts += x.Result().Attempts
			}
			assert.LessOrEqual(t, attempts-100, 12*relaying)
			assert.Equal(t, relaying > 0, attempts > 100)
			for _, u := range b.pool.Snapshot().All {
				assert.Zero(t, u.Breaker().Snapshot().FailureCount, u.ID())
			}
			b.idle(t)
		})
	}
}

// The response is compared through a proxy that is known to relay responses. Through any other proxy, the retries might
// all fail, and the client would lose the response.
func TestAComparisonUsesAProxyThatRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startWithLedger(t, 4)
		relays(b, 3)
		for range 20 {
			x := exchange(t, nil)
			x.Safe = true
			_, relayed := b.run(t.Context(), x, &tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
				switch a.Upstream.ID() {
				case "p0", "p3":
					return verdict.Facts{Status: 404, FromProxy: true}
				}
				if a.Number > 0 {
					refused := &verdict.Error{Cause: verdict.ProxyUnreachable, Err: errors.New("refused")}
					return verdict.Facts{Err: refused}
				}
				return verdict.Facts{Status: 404, FromProxy: true}
			}})
			require.True(t, relayed)
			require.Equal(t, core.FinalSuccess, x.Result().Final)
		}
		b.idle(t)
	})
}

// A 405 or 501 is compared even if no proxy is known to relay responses.
func TestAnUnsupportedMethodInANewPool(t *testing.T) {
	for _, status := range []int{405, 501} {
		synctest.Test(t, func(t *testing.T) {
			b, x := startWithLedger(t, 2), exchange(t, nil)
			x.Safe, x.Method = true, "GET"
			_, relayed := b.run(t.Context(), x, &tries{f: byProxy(status, 200)})
			require.True(t, relayed)
			require.Equal(t, core.FinalSuccess, x.Result().Final)
			require.Equal(t, "p1", x.Result().ProxyID)
			b.idle(t)
		})
	}
}

// The target's own 405 is lost to one client at most if all other proxies of a new pool fail.
func TestAnUnsupportedMethodIsLostOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, lost := startWithLedger(t, 3), 0
		for range 20 {
			x := exchange(t, nil)
			x.Safe, x.Method = true, "GET"
			b.run(t.Context(), x, &tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
				if a.Upstream.ID() == "p0" {
					return verdict.Facts{Status: 405, FromProxy: true}
				}
				return verdict.Facts{Err: &verdict.Error{Cause: verdict.ProxyUnreachable, Err: errors.New("refused")}}
			}})
			if x.Result().Final != core.FinalSuccess {
				lost++
			}
		}
		require.Equal(t, 1, lost)
		b.idle(t)
	})
}

// A proxy whose error responses always have another status than those through other proxies costs a few attempts more.
func TestOtherErrorsThroughOtherProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, attempts := startWithLedger(t, 3), 0
		relays(b, 1, 2)
		for range 100 {
			x := exchange(t, nil)
			x.Safe = true
			b.run(t.Context(), x, &tries{f: byProxy(403, 404)})
			require.Equal(t, core.FinalSuccess, x.Result().Final)
			attempts += x.Result().Attempts
		}
		require.Equal(t, 116, attempts)
		b.idle(t)
	})
}

// A proxy relays the target's 404, and the other proxy fails at the target. The comparisons end after a limited number
// of requests, and no request loses the 404.
func TestComparisonsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, compared := startWithLedger(t, 2), 0
		relays(b, 1)
		for range 100 {
			x, first := exchange(t, nil), ""
			x.Safe = true
			b.run(t.Context(), x, &tries{f: func(ctx context.Context, a *Attempt) verdict.Facts {
				if a.Number == 0 {
					first = a.Upstream.ID()
				}
				return byProxy(404, 503)(ctx, a)
			}})
			require.Equal(t, core.FinalSuccess, x.Result().Final)
			if first == "p0" && x.Result().Attempts > 1 {
				compared++
			}
			time.Sleep(time.Minute) // the failures of p1 leave the window of its breaker
		}
		require.Equal(t, 16, compared)
		b.idle(t)
	})
}

func TestResponsesThatAreNotQuestioned(t *testing.T) {
	for name, c := range map[string]struct {
		proxies int
		status  int
		change  func(*bench, *both)
	}{
		"another status": {3, 401, func(*bench, *both) {}},
		"the 405 of an OPTIONS in a new pool": {3, 405, func(b *bench, x *both) {
			x.Method = "OPTIONS"
			for _, u := range b.pool.Snapshot().All {
				u.Abilities().Reset()
			}
		}},
		"a POST":                         {3, 404, func(_ *bench, x *both) { x.Safe = false }},
		"a body that is not kept":        {3, 404, func(_ *bench, x *both) { x.Replayable = false }},
		"the proxy has forwarded before": {3, 404, proven},
		"no attempt is left":             {3, 404, func(_ *bench, x *both) { x.Policy.MaxAttempts = 1 }},
		"there is no other proxy":        {1, 404, func(*bench, *both) {}},
		"no other proxy has relayed": {3, 404, func(b *bench, _ *both) {
			for _, u := range b.pool.Snapshot().All[1:] {
				u.Abilities().Reset()
			}
		}},
		"the session has this proxy": {3, 404, func(_ *bench, x *both) { x.Session = sessionOf("p0", false) }},
		"the other breaker is open": {2, 404, func(b *bench, _ *both) {
			b.pool.Snapshot().All[1].Breaker().OpenForCluster(time.Minute, "a test")
		}},
		"a rule makes it final": {3, 404, func(b *bench, _ *both) {
			set, err := rules.Compile([]rules.Rule{{When: rules.Conditions{Statuses: []string{"404"}},
				Then: rules.Actions{Final: true}}}, nil)
			require.NoError(t, err)
			tuning := b.Tuning()
			tuning.Rules = set
			b.SetTuning(tuning)
		}},
		"a retry budget": {3, 404, func(b *bench, _ *both) {
			tuning := b.Tuning()
			tuning.Budget = retry.NewBudget(retry.BudgetConfig{Ratio: 1}, time.Now())
			b.SetTuning(tuning)
		}},
		"failures are counted by number": {3, 404, func(b *bench, _ *both) {
			tuning := b.Tuning()
			tuning.Targets = nil
			b.SetTuning(tuning)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, x := startWithLedger(t, c.proxies), exchange(t, nil)
				x.Safe = true
				for i := 1; i < c.proxies; i++ {
					relays(b, i)
				}
				c.change(b, x)
				_, relayed := b.run(t.Context(), x, &tries{f: byProxy(c.status, 200)})
				require.True(t, relayed)
				require.Equal(t, core.FinalSuccess, x.Result().Final)
				require.Equal(t, 1, x.Result().Attempts)
				require.Equal(t, "p0", x.Result().ProxyID)
			})
		})
	}
}

func proven(b *bench, _ *both) { relays(b, 0) }

// relays makes proxies known to relay responses.
func relays(b *bench, proxies ...int) {
	for _, i := range proxies {
		b.pool.Snapshot().All[i].Abilities().RecordSuccess(ability.Forward, 0, ability.Traffic)
	}
}
