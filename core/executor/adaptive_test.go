package executor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// takes returns a function that makes attempts. An attempt through the proxy with id p gets its response after d[p], or
// ends at its deadline if that is sooner.
func takes(d map[string]time.Duration) func(context.Context, *Attempt) verdict.Facts {
	return func(ctx context.Context, a *Attempt) verdict.Facts {
		if d := d[a.Upstream.ID()]; d < time.Until(a.Deadline) {
			time.Sleep(d)
			return verdict.Facts{Status: 200}
		}
		return hang(ctx, a)
	}
}

// An attempt that takes much longer than usual for its proxy is cut short, and retried through another proxy.
// It is charged to the first proxy only if the other one serves the request.
func TestAnAttemptIsCutShort(t *testing.T) {
	type (
		took  = map[string]time.Duration
		times = []time.Duration
	)
	const s, ms, usual = time.Second, time.Millisecond, 100 * time.Millisecond
	withBudget := func(t *Tuning) { t.Budget = retry.NewBudget(retry.BudgetConfig{Ratio: 1}, time.Now()) }
	for name, c := range map[string]struct {
		change   func(*both)
		tuning   func(*Tuning)
		took     map[string]time.Duration
		at       []time.Duration
		failures int // number of failures of p0
	}{
		"another one answers": {nil, nil, took{"p0": time.Hour}, times{0, 300 * ms}, 1},
		"nobody answers": {nil, nil, took{"p0": time.Hour, "p1": time.Hour},
			times{0, 300 * ms, 2600 * ms}, 1}, // the third attempt is through p0 again, with the whole attempt timeout
		"it answers in time":        {nil, nil, took{"p0": 290 * ms}, times{0}, 0},
		"it may not be repeated":    {func(x *both) { x.Idempotent = false }, nil, took{"p0": 9 * s}, times{0}, 0},
		"its body is gone":          {func(x *both) { x.Replayable = false }, nil, took{"p0": 9 * s}, times{0}, 0},
		"no attempt is left":        {func(x *both) { x.Policy.MaxAttempts = 1 }, nil, took{"p0": 9 * s}, times{0}, 0},
		"switched off":              {nil, func(t *Tuning) { t.Adaptive = false }, took{"p0": 9 * s}, times{0}, 0},
		"a budget may not allow it": {nil, withBudget, took{"p0": 9 * s}, times{0}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, 2, func(tuning *Tuning) {
					tuning.Adaptive = true
					if c.tuning != nil {
						c.tuning(tuning)
					}
				})
				for range 10 { // so that the latencies of both are known
					_, ok := b.run(t.Context(), exchange(t, nil), &tries{f: takes(map[string]time.Duration{"p0": usual,
						"p1": usual})})
					require.True(t, ok)
				}
				x, k := exchange(t, nil), &tries{f: takes(c.took)}
				if c.change != nil {
					c.change(x)
				}
				b.run(t.Context(), x, k)
				assert.Equal(t, c.at, k.at)
				assert.Equal(t, c.failures, b.pool.Snapshot().All[0].Breaker().Snapshot().FailureCount)
				b.idle(t)
			})
		})
	}
}

// While the pool has no latency, the first attempt of a request ends after 3 s. A target that takes longer is then not
// cut short again.
func TestTheFirstRequestOfAPool(t *testing.T) {
	type (
		took  = map[string]time.Duration
		times = []time.Duration
	)
	const s = time.Second
	for name, c := range map[string]struct {
		timeout time.Duration
		literal bool
		took    took
		at      times // the attempts of the first request
		next    int   // the number of attempts of the second request
	}{
		"one of two proxies hangs": {10 * s, false, took{"p0": time.Hour, "p1": s / 10}, times{0, 3 * s}, 1},
		"both hang":                {10 * s, false, took{"p0": time.Hour, "p1": time.Hour}, times{0, 3 * s, 15 * s}, 3},
		"a target of 5 s":          {10 * s, false, took{"p0": 5 * s, "p1": 5 * s}, times{0, 3 * s}, 1},
		"a target of 2 s":          {10 * s, false, took{"p0": 2 * s, "p1": 2 * s}, times{0}, 1},
		"a short attempt timeout":  {2 * s, false, took{"p0": time.Hour, "p1": s / 10}, times{0, 2 * s}, 1},
		"breaker.blame is literal": {10 * s, true, took{"p0": time.Hour, "p1": s / 10}, times{0, 10 * s}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, 2, func(tuning *Tuning) {
					tuning.Adaptive, tuning.AttemptTimeout = true, c.timeout
					if !c.literal {
						tuning.Targets, tuning.Epoch = evidence.NewLedger(evidence.Config{}), time.Now()
					}
				})
				k := &tries{f: takes(c.took)}
				b.run(t.Context(), exchange(t, nil), k)
				require.Equal(t, c.at, k.at)
				x := exchange(t, nil)
				b.run(t.Context(), x, k)
				require.Equal(t, c.next, x.Result().Attempts)
				b.idle(t)
			})
		})
	}
}

// A pool that has served a request does not become unknown again when its latencies have aged.
func TestTheFirstRequestAfterALongPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2, func(tuning *Tuning) {
			tuning.Adaptive = true
			tuning.Targets, tuning.Epoch = evidence.NewLedger(evidence.Config{}), time.Now()
		})
		b.pool.SetLiteral(false)
		b.pool.SetMemory(time.Minute)
		took := map[string]time.Duration{"p0": time.Second, "p1": time.Second}
		b.run(t.Context(), exchange(t, nil), &tries{f: takes(took)})
		time.Sleep(time.Hour)
		for range 3 {
			b.pool.Sweep()
		}
		require.Zero(t, b.pool.Snapshot().All[0].Tail())
		took["p0"], took["p1"] = 5*time.Second, 5*time.Second
		x := exchange(t, nil)
		b.run(t.Context(), x, &tries{f: takes(took)})
		require.Equal(t, 1, x.Result().Attempts)
		b.idle(t)
	})
}

// Attempts that began when no latency was known are cut short as soon as the pool has latencies.
func TestAnAttemptOfAColdStartIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2, func(tuning *Tuning) { tuning.Adaptive = true })
		served := make(chan bool)
		first := &tries{f: func(ctx context.Context, a *Attempt) verdict.Facts {
			if a.Upstream.ID() != "p0" {
				return verdict.Facts{Status: 200}
			}
			require.NotNil(t, a.CurrentDeadline)
			require.Equal(t, 10*time.Second, time.Until(a.CurrentDeadline()), "nothing is known yet")
			<-served
			require.Less(t, time.Until(a.CurrentDeadline()), time.Second)
			time.Sleep(time.Until(a.Deadline))
			return verdict.Facts{Err: &verdict.Error{Cause: verdict.NoAnswerInTime}}
		}}
		x := exchange(t, nil)
		done := make(chan bool)
		go func() {
			_, ok := b.run(t.Context(), x, first)
			done <- ok
		}()
		synctest.Wait()
		_, ok := b.run(t.Context(), exchange(t, nil),
			&tries{f: takes(map[string]time.Duration{"p1": 20 * time.Millisecond})})
		require.True(t, ok)
		b.pool.Sweep()
		b.pool.Sweep()
		close(served)
		require.True(t, <-done)
		require.Equal(t, []time.Duration{0, minTimeoutUnknownProxy}, first.at)
		require.Equal(t, 1, b.pool.Snapshot().All[0].Breaker().Snapshot().FailureCount,
			"another proxy served the request")
	})
}

// An attempt through a proxy that has become slower is cut short once. Then the proxy gets more time, and
// serves again.
func TestASlowerProxyGetsMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2, func(tuning *Tuning) { tuning.Adaptive = true })
		took := map[string]time.Duration{"p0": 10 * time.Millisecond, "p1": 10 * time.Millisecond}
		for range 10 {
			b.run(t.Context(), exchange(t, nil), &tries{f: takes(took)})
		}
		took["p0"] = 600 * time.Millisecond
		cut := 0
		for range 20 {
			x := exchange(t, nil)
			b.run(t.Context(), x, &tries{f: takes(took)})
			require.Equal(t, core.FinalSuccess, x.Result().Final)
			cut += x.Result().Attempts - 1
		}
		assert.Equal(t, 1, cut, "0.25 s, then three times that")
	})
}

// If attempts hang at random, the adaptive timeout rises once. It does not rise with each of these attempts.
func TestRandomHangsDoNotRaiseTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2, func(tuning *Tuning) { tuning.Adaptive = true })
		n, hangs, longest := 0, 0, time.Duration(0)
		k := &tries{f: func(ctx context.Context, a *Attempt) verdict.Facts {
			if n++; n > 10 && n%7 == 0 {
				hangs++
				longest = max(longest, time.Until(a.Deadline))
				return hang(ctx, a)
			}
			time.Sleep(time.Millisecond)
			return verdict.Facts{Status: 200}
		}}
		for range 300 {
			x := exchange(t, nil)
			b.run(t.Context(), x, k)
			require.Equal(t, core.FinalSuccess, x.Result().Final)
		}
		require.Greater(t, hangs, 30)
		require.LessOrEqual(t, longest, 3*minAdaptiveTimeout)
	})
}

// If a target does not respond through any proxy, or its tunnels are not opened, the adaptive timeout does not grow
// with each of its requests.
func TestATargetThatHangsDoesNotRaiseTheTimeout(t *testing.T) {
	for _, tunnel := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, 3, func(tuning *Tuning) { tuning.Adaptive = true })
			for range 50 {
				b.run(t.Context(), exchange(t, nil), &tries{f: func(context.Context, *Attempt) verdict.Facts {
					time.Sleep(10 * time.Millisecond)
					return verdict.Facts{Status: 200}
				}})
			}
			for range 20 {
				x, k := exchange(t, nil), &tries{f: hang}
				x.Request.WantsTunnel, x.Target = tunnel, upstream.Target("hangs.test:443")
				b.run(t.Context(), x, k)
				require.LessOrEqual(t, time.Since(k.begun), 11500*time.Millisecond, "tunnel %v", tunnel)
			}
		})
	}
}

// A proxy that has never served does not get more time, except for the probe of its breaker.
func TestAProxyWithoutASuccessGetsNoMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 3, func(tuning *Tuning) { tuning.Adaptive = true })
		took := map[string]time.Duration{"p0": time.Hour, "p1": 10 * time.Millisecond, "p2": 10 * time.Millisecond}
		serve := func() time.Duration {
			x, k := exchange(t, nil), &tries{f: takes(took)}
			b.run(t.Context(), x, k)
			require.Equal(t, core.FinalSuccess, x.Result().Final)
			return time.Since(k.begun).Round(50 * time.Millisecond)
		}
		hangs := b.pool.Snapshot().All[0].Breaker()
		b.run(t.Context(), exchange(t, nil), &tries{f: func(ctx context.Context, a *Attempt) verdict.Facts {
			if a.Upstream.ID() == "p0" {
				return verdict.Facts{Err: &verdict.Error{Cause: verdict.NoAnswerInTime}}
			}
			return takes(took)(ctx, a)
		}})
		b.pool.Sweep()
		b.pool.Sweep()
		cut := 0
		for hangs.State() == core.Closed {
			if d := serve(); d > 0 {
				cut++
				require.Equal(t, minAdaptiveTimeout, d)
			}
		}
		require.Equal(t, 4, cut, "failure_threshold is 5")
		time.Sleep(time.Minute)
		probed := serve()
		for range 3 {
			probed = max(probed, serve())
		}
		require.Equal(t, minTimeoutUnknownProxy, probed)
	})
}

// The breaker of a proxy of 0.5 s among proxies of 10 ms opens, since its attempts are cut short. Some probes get more
// time, so it is in use after a few minutes. If the proxy hangs, this costs few requests.
func TestAMuchSlowerProxyIsMeasuredByAProbe(t *testing.T) {
	for latency, attempt := range map[time.Duration]time.Duration{
		500 * time.Millisecond: 10 * time.Second, 2 * time.Second: 10 * time.Second, time.Hour: 10 * time.Second,
		1800 * time.Millisecond: 2 * time.Second, // the timeout of attempts may be short
	} {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, 3, func(tuning *Tuning) { tuning.Adaptive, tuning.AttemptTimeout = true, attempt })
			b.pool.SetLiteral(false)
			tuning := b.Tuning()
			tuning.Targets, tuning.Epoch = b.pool.Ledger(), b.pool.Epoch()
			b.SetTuning(tuning)
			took := map[string]time.Duration{"p0": 10 * time.Millisecond, "p1": 10 * time.Millisecond, "p2": latency}
			slow := b.pool.Snapshot().All[2]
			began, opened, served, long := time.Now(), false, time.Duration(0), 0
			for time.Since(began) < time.Hour {
				x, k := exchange(t, nil), &tries{f: takes(took)}
				x.Target = upstream.Target("a.test:80")
				b.run(t.Context(), x, k)
				require.Equal(t, core.FinalSuccess, x.Result().Final)
				if opened = opened || slow.State() == core.Open; slow.HasServed() && served == 0 {
					served = time.Since(began)
				}
				if served == 0 && time.Since(k.begun) > 500*time.Millisecond {
					long++
				}
				time.Sleep(time.Second)
				b.pool.Sweep()
			}
			require.True(t, opened)
			if latency == time.Hour {
				require.Zero(t, served)
				require.LessOrEqual(t, long, 7, "the 2nd, 4th, ..., 64th probe")
				return
			}
			require.NotZero(t, served)
			require.Less(t, served, 7*time.Minute)
			require.Equal(t, core.Closed, slow.State())
			t.Logf("%v: served after %v, %d long requests", latency, served, long)
		})
	}
}

// A long probe of a proxy that hangs leaves time for a retry, and is counted, whatever ends the request or the attempt.
func TestALongProbeLeavesTimeForARetry(t *testing.T) {
	for _, limits := range []struct {
		attempt time.Duration
		total   float64 // seconds; 0 for none
		global  bool    // total is that of the global policy as well
	}{
		{2 * time.Second, 0, false}, {700 * time.Millisecond, 0, false}, {10 * time.Second, 2, false},
		{10 * time.Second, 1, false}, {10 * time.Second, 2, true}, {10 * time.Second, 1, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, 3, func(tuning *Tuning) { tuning.Adaptive, tuning.AttemptTimeout = true, limits.attempt })
			b.pool.SetLiteral(false)
			tuning := b.Tuning()
			tuning.Targets, tuning.Epoch = b.pool.Ledger(), b.pool.Epoch()
			b.SetTuning(tuning)
			took := map[string]time.Duration{"p0": 10 * time.Millisecond, "p1": 10 * time.Millisecond, "p2": time.Hour}
			began, long := time.Now(), 0
			for time.Since(began) < time.Hour {
				x, k := exchange(t, nil), &tries{f: takes(took)}
				x.Target = upstream.Target("a.test:80")
				if limits.total > 0 {
					own, global := *x.Policy, *x.GlobalPolicy
					own.Timeout = &limits.total
					x.Policy = &own
					if limits.global {
						global.Timeout = &limits.total
						x.GlobalPolicy = &global
					}
				}
				b.run(t.Context(), x, k)
				require.Equal(t, core.FinalSuccess, x.Result().Final, "%+v", limits)
				if time.Since(k.begun) > 500*time.Millisecond {
					long++
				}
				time.Sleep(time.Second)
				b.pool.Sweep()
			}
			require.LessOrEqual(t, long, 7, "%+v", limits)
		})
	}
}

// A proxy that hangs gets more time once, but not again.
func TestAProxyThatHangsGetsNoMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2, func(tuning *Tuning) { tuning.Adaptive = true })
		took := map[string]time.Duration{"p0": 10 * time.Millisecond, "p1": 10 * time.Millisecond}
		for range 10 {
			b.run(t.Context(), exchange(t, nil), &tries{f: takes(took)})
		}
		took["p0"] = time.Hour
		for range 20 {
			x, k := exchange(t, nil), &tries{f: takes(took)}
			b.run(t.Context(), x, k)
			require.Equal(t, core.FinalSuccess, x.Result().Final)
			require.LessOrEqual(t, time.Since(k.begun), 760*time.Millisecond)
		}
		assert.Equal(t, core.Open, b.pool.Snapshot().All[0].Breaker().State())
	})
}

// A target that has become slow is slow through every proxy. Its first requests are cut short and retried, but no proxy
// is charged, and soon the proxies get enough time.
func TestASlowTargetIsChargedToNoProxy(t *testing.T) {
	for proxies := 2; proxies <= 6; proxies++ {
		for _, slow := range []time.Duration{700 * time.Millisecond, 900 * time.Millisecond, 1500 * time.Millisecond,
			4 * time.Second} {
			t.Run(fmt.Sprint(proxies, " proxies, ", slow), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := start(t, proxies, func(tuning *Tuning) { tuning.Adaptive = true })
					for range 20 * proxies {
						b.run(t.Context(), exchange(t, nil), &tries{f: func(context.Context, *Attempt) verdict.Facts {
							time.Sleep(20 * time.Millisecond)
							return verdict.Facts{Status: 200}
						}})
					}
					tries, cut := &tries{f: func(ctx context.Context, a *Attempt) verdict.Facts {
						if slow < time.Until(a.Deadline) {
							time.Sleep(slow)
							return verdict.Facts{Status: 200}
						}
						return hang(ctx, a)
					}}, 0
					for range 40 {
						x := exchange(t, nil)
						b.run(t.Context(), x, tries)
						require.Equal(t, core.FinalSuccess, x.Result().Final)
						cut += x.Result().Attempts - 1
					}
					require.LessOrEqual(t, cut, 2*proxies)
					for _, u := range b.pool.Snapshot().All {
						require.Zero(t, u.Breaker().Snapshot().FailureCount, u.ID())
						require.Equal(t, core.Closed, u.Breaker().State())
					}
				})
			})
		}
	}
}

// startWithLedger starts an executor whose pool keeps evidence, with adaptive timeouts. All proxies have served in
// 20 ms.
func startWithLedger(t *testing.T, proxies int) *bench {
	b := start(t, proxies, func(tuning *Tuning) { tuning.Adaptive = true })
	b.pool.SetLiteral(false)
	tuning := b.Tuning()
	tuning.Targets, tuning.Epoch = b.pool.Ledger(), b.pool.Epoch()
	b.SetTuning(tuning)
	for range 20 * proxies {
		b.run(t.Context(), exchange(t, nil), &tries{f: func(context.Context, *Attempt) verdict.Facts {
			time.Sleep(20 * time.Millisecond)
			return verdict.Facts{Status: 200}
		}})
	}
	return b
}

// A target that does not respond through any proxy becomes suspect after a few requests. From then on, its requests get
// one attempt, which is cut short, except one request in 5 s. No proxy is charged, and after the first response the
// target is not suspect any more.
func TestATargetThatHangsIsSuspect(t *testing.T) {
	for proxies, requests := range map[int]int{2: 5, 3: 3, 8: 3} {
		t.Run(fmt.Sprint(proxies, " proxies"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, target := startWithLedger(t, proxies), upstream.Target("hangs.test:80")
				get := func(f func(context.Context, *Attempt) verdict.Facts) (*both, time.Duration) {
					x, k := exchange(t, nil), &tries{f: f}
					x.Target = target
					b.run(t.Context(), x, k)
					return x, time.Since(k.begun)
				}
				for range requests {
					x, _ := get(hang)
					require.Equal(t, 3, x.Result().Attempts)
				}
				require.True(t, b.pool.Ledger().IsSuspect(target))
				once := 0
				for range 20 {
					if x, took := get(hang); x.Result().Attempts == 1 {
						once++
						require.LessOrEqual(t, took, 3*minAdaptiveTimeout)
						require.Equal(t, core.FinalExhausted, x.Result().Final)
					}
				}
				require.GreaterOrEqual(t, once, 16)
				for _, u := range b.pool.Snapshot().All {
					require.Equal(t, core.Closed, u.Breaker().State(), u.ID())
				}
				get(func(context.Context, *Attempt) verdict.Facts { return verdict.Facts{Status: 200} })
				require.False(t, b.pool.Ledger().IsSuspect(target))
				b.idle(t)
			})
		})
	}
}

// A target that is slower than the adaptive timeout, but responds within the attempt timeout, never becomes suspect,
// although many of its requests are cut short at the same time.
func TestASlowTargetIsNotSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, target := startWithLedger(t, 8), upstream.Target("slow.test:80")
		slow := func(ctx context.Context, a *Attempt) verdict.Facts {
			if time.Until(a.Deadline) <= 5*time.Second {
				return hang(ctx, a)
			}
			time.Sleep(5 * time.Second)
			return verdict.Facts{Status: 200}
		}
		var requests sync.WaitGroup
		for range 2 { // the second half of the requests begins while the first half is in its last attempts
			for range 32 {
				requests.Go(func() {
					x := exchange(t, nil)
					x.Target = target
					b.run(t.Context(), x, &tries{f: slow})
					assert.Equal(t, core.FinalSuccess, x.Result().Final)
					assert.False(t, b.pool.Ledger().IsSuspect(target))
				})
			}
			time.Sleep(8 * time.Second)
			assert.False(t, b.pool.Ledger().IsSuspect(target))
		}
		requests.Wait()
		b.idle(t)
	})
}

// Clients with a short total timeout make no target suspect for the other clients.
func TestATotalTimeoutMakesNoTargetSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, target := startWithLedger(t, 4), upstream.Target("slow.test:80")
		for range 20 {
			x := exchange(t, func(p *retry.Policy) { p.Timeout = new(1.0) })
			x.Target = target
			b.run(t.Context(), x, &tries{f: hang})
		}
		require.False(t, b.pool.Ledger().IsSuspect(target))
	})
}

// If an attempt finds a loop, the last breaker opens, and the request of this attempt is refused with the reason. The
// next request is not sent.
func TestALoopThatOpensTheLastBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startWithLedger(t, 1)
		for range 5 {
			x := exchange(t, nil)
			b.run(t.Context(), x, &tries{f: func(context.Context, *Attempt) verdict.Facts {
				return verdict.Facts{Err: &verdict.Error{Cause: verdict.ProxyLoop, Err: errors.New("a loop")}}
			}})
			require.Equal(t, core.FinalLoopDetected, x.Result().Final)
		}
		require.Equal(t, core.Open, b.pool.Snapshot().All[0].Breaker().State())
		x := exchange(t, nil)
		b.run(t.Context(), x, &tries{f: hang})
		require.Equal(t, core.FinalAllBreakersOpen, x.Result().Final)
		b.idle(t)
	})
}
