package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// doubling is the backoff of these tests.
type doubling struct{}

func (doubling) Delay(r *core.BackoffRequest) (float64, error) {
	d := r.BaseDelay
	for range int(r.Retry) - 1 {
		d *= r.Multiplier
	}
	return d, nil
}

type broken struct{}

func (broken) Delay(*core.BackoffRequest) (float64, error) { return 0, errors.New("trap") }

// bench is an executor with n proxies.
type bench struct {
	*Executor
	pool *upstream.Pool
	rec  *coretest.Recorder
}

func start(t require.TestingT, n int, change func(*Tuning)) *bench {
	b := &bench{rec: &coretest.Recorder{}}
	b.pool = upstream.NewPool(upstream.PoolConfig{Literal: true,
		Breaker: breaker.Config{FailureThreshold: 5, WindowDuration: time.Minute, TimeoutDuration: 30 * time.Second},
		Now:     time.Now,
		OnFree:  func() { b.PlaceFreed() },
	})
	var specs []upstream.Spec
	for i := range n {
		specs = append(specs, upstream.Spec{ID: fmt.Sprintf("p%d", i),
			Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}})
	}
	require.NoError(t, b.pool.Apply(specs))
	tuning := Tuning{
		FirstScorer: coretest.Rotation{}, RetryScorer: coretest.Rotation{}, AttemptTimeout: 10 * time.Second,
		Backoff: func(string) core.Backoff { return doubling{} },
	}
	if change != nil {
		change(&tuning)
	}
	b.Executor = New(selector.New(b.pool, rand.Uint64, 256), b.rec, tuning,
		slog.New(slog.NewTextHandler(io.Discard, nil)), time.Now, rand.Uint64)
	return b
}

// tries is a Sender whose attempts are calls of f. It records the time and the proxy of each attempt.
type tries struct {
	f         func(ctx context.Context, a *Attempt) verdict.Facts
	at        []time.Duration
	begun     time.Time
	ids       []string
	discarded int
}

func (t *tries) Send(ctx context.Context, a *Attempt, f *verdict.Facts) (response string) {
	response, *f = t.attempt(ctx, a)
	return response
}

func (t *tries) attempt(ctx context.Context, a *Attempt) (string, verdict.Facts) {
	if t.begun.IsZero() {
		t.begun = time.Now()
	}
	t.at = append(t.at, time.Since(t.begun))
	t.ids = append(t.ids, a.Upstream.ID())
	return a.Upstream.ID(), t.f(ctx, a)
}

func (t *tries) Discard(string) { t.discarded++ }

func statuses(list ...int) func(context.Context, *Attempt) verdict.Facts {
	n := 0
	return func(context.Context, *Attempt) verdict.Facts {
		n++
		return verdict.Facts{Status: list[min(n, len(list))-1]}
	}
}

func proxysOwn407(context.Context, *Attempt) verdict.Facts {
	return verdict.Facts{Status: 407, FromProxy: true, HasChallenge: true}
}

// both is a request with its exchange.
type both struct {
	Request
	Exchange
}

func exchange(t require.TestingT, change func(*retry.Policy)) *both {
	global, own := retry.DefaultPolicy(), retry.DefaultPolicy()
	if change != nil {
		change(&own)
		require.NoError(t, own.Validate(func(string) bool { return true }))
	}
	return &both{Request: Request{Policy: &own, GlobalPolicy: &global, Method: "GET", Host: "a.test", Idempotent: true,
		Replayable: true}}
}

// run runs a whole exchange as the gateway does.
func (b *bench) run(ctx context.Context, x *both, c *tries) (string, bool) {
	end := Run(ctx, b.Executor, &x.Exchange, &x.Request, c)
	switch {
	case end.Refusal != nil:
		end.Refusal.Close(502, time.Now())
	case end.Relay != nil:
		end.Relay.Close(200, verdict.RelayEnd{}, time.Now())
	}
	return end.Response, end.Refusal == nil
}

// idle requires that all permits and places in flight have been released.
func (b *bench) idle(t require.TestingT) {
	for _, u := range b.pool.Snapshot().All {
		require.Zero(t, u.InFlight(), u.ID())
	}
}

func TestDelaysAndFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 3, nil)
		x, c := exchange(t, nil), &tries{f: statuses(503, 503, 200)}
		answer, ok := b.run(t.Context(), x, c)
		require.True(t, ok)
		assert.Equal(t, []time.Duration{0, time.Second, 3 * time.Second}, c.at)
		assert.Equal(t, []string{"p0", "p1", "p2"}, c.ids)
		assert.Equal(t, "p2", answer)
		assert.Equal(t, core.FinalSuccess, x.Result().Final)
		assert.Equal(t, 2, c.discarded)
		require.Len(t, b.rec.Requests(), 1)
		assert.True(t, b.rec.Requests()[0].Delivered)
		assert.Equal(t, 3*time.Second, b.rec.Requests()[0].BackoffTime)
		require.Len(t, b.rec.Attempts(), 3)
		assert.Equal(t, "http_503", b.rec.Attempts()[1].RetryReason)
		b.idle(t)
	})
}

func TestTheLastResponseIsRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 3, nil)
		x, c := exchange(t, nil), &tries{f: statuses(503)}
		_, relayed := b.run(t.Context(), x, c)
		assert.True(t, relayed)
		assert.Equal(t, core.FinalExhausted, x.Result().Final)
		assert.Len(t, c.at, 3)
		assert.Equal(t, 3*time.Second, time.Since(c.begun), "no wait after the last try")
		assert.True(t, b.rec.Requests()[0].LimitReached)
		assert.False(t, b.rec.Requests()[0].Delivered)
		b.idle(t)
	})
}

func TestRequestsThatAreNotRetried(t *testing.T) {
	refused := func(context.Context, *Attempt) verdict.Facts {
		return verdict.Facts{Err: &verdict.Error{Cause: verdict.ProxyUnreachable, Err: errors.New("refused")}}
	}
	reset := func(context.Context, *Attempt) verdict.Facts {
		return verdict.Facts{Err: &verdict.Error{Cause: verdict.ConnectionClosed, Err: errors.New("reset")}}
	}
	post, plain := func(x *both) { x.Idempotent = false }, func(*both) {}
	bodyNotKept := func(x *both) { x.Replayable = false }
	for name, c := range map[string]struct {
		change func(*both)
		f      func(context.Context, *Attempt) verdict.Facts
		tries  int
		final  core.Final
		kind   RefusalKind // 0 for a relayed response
	}{
		"a POST whose answer is 503":            {post, statuses(503), 1, core.FinalNotRetryable, 0},
		"a POST that was reset":                 {post, reset, 1, core.FinalNotRetryable, NotRepeatable},
		"a POST that was never sent is":         {post, refused, 3, core.FinalExhausted, AttemptFailed},
		"a GET whose body cannot be sent again": {bodyNotKept, statuses(503), 1, core.FinalNotRetryable, 0},
		"a 407 may have taken some of it":       {bodyNotKept, proxysOwn407, 1, core.FinalNotRetryable, BodyNotKept},
		"one of which nothing was sent can":     {bodyNotKept, refused, 3, core.FinalExhausted, AttemptFailed},
		"nor one that was reset":                {bodyNotKept, reset, 1, core.FinalNotRetryable, BodyNotKept},
		"an unlisted status":                    {plain, statuses(500), 1, core.FinalSuccess, 0},
		"a GET that was reset is":               {plain, reset, 3, core.FinalExhausted, AttemptFailed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, 3, nil)
				x, k := exchange(t, nil), &tries{f: c.f}
				c.change(x)
				b.run(t.Context(), x, k)
				assert.Len(t, k.at, c.tries)
				assert.Equal(t, c.final, x.Result().Final)
				assert.Equal(t, c.kind, x.refusal.Kind)
				b.idle(t)
			})
		})
	}
}

// hang makes an attempt that ends at its deadline, or when the client leaves.
func hang(ctx context.Context, a *Attempt) verdict.Facts {
	timer := time.NewTimer(time.Until(a.Deadline))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return verdict.Facts{Err: &verdict.Error{Cause: verdict.NoAnswerInTime, Reason: "http_response_timeout",
		Err: errors.New("timeout")}}
}

func TestTheTotalTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := 1.0
		b := start(t, 3, nil)
		x, c := exchange(t, func(p *retry.Policy) { p.Timeout = &one }), &tries{f: hang}
		_, ok := b.run(t.Context(), x, c)
		assert.False(t, ok)
		assert.Equal(t, core.FinalTimeout, x.Result().Final)
		assert.Equal(t, TimedOut, x.refusal.Kind)
		assert.Equal(t, time.Second, time.Since(c.begun), "the attempt in flight is cut")
		assert.Zero(t, b.pool.Snapshot().All[0].Stats().Samples, "a request's own timeout says nothing about a proxy")
		b.idle(t)
	})
}

func TestAWaitBeyondTheTimeoutDoesNotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timeout := 1.5
		b := start(t, 3, nil)
		x := exchange(t, func(p *retry.Policy) {
			p.Timeout, p.BaseDelay, p.Multiplier, p.MaxAttempts = &timeout, 0.3, 1.1, 10
		})
		c := &tries{f: func(context.Context, *Attempt) verdict.Facts {
			time.Sleep(500 * time.Millisecond)
			return verdict.Facts{Status: 503}
		}}
		_, relayed := b.run(t.Context(), x, c)
		assert.True(t, relayed, "the last answer at hand")
		assert.Equal(t, []time.Duration{0, 800 * time.Millisecond}, c.at)
		assert.Equal(t, 1300*time.Millisecond, time.Since(c.begun))
		assert.Equal(t, core.FinalTimeout, x.Result().Final)
	})
}

// On a slow machine, the wait of a request may end after its total timeout. No further attempt is then made, and no
// proxy is charged.
func TestAWaitThatEndsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timeout := 1.5
		b := start(t, 3, nil)
		late := time.Duration(0)
		b.now = func() time.Time { return time.Now().Add(late) }
		x, c := exchange(t, nil), &tries{f: statuses(503, 200)}
		x.Policy.Timeout, x.GlobalPolicy.Timeout = &timeout, &timeout
		x.BeforeWait = func() { late = 600 * time.Millisecond }
		_, ok := b.run(t.Context(), x, c)
		assert.False(t, ok)
		assert.Len(t, c.at, 1)
		assert.Equal(t, core.FinalTimeout, x.Result().Final)
		assert.Equal(t, NoTimeLeft, x.refusal.Kind)
		assert.Len(t, b.rec.Attempts(), 1)
		b.idle(t)
	})
}

func TestAClientThatLeaves(t *testing.T) {
	for name, f := range map[string]func(context.Context, *Attempt) verdict.Facts{"during an attempt": hang,
		"during a wait": statuses(503)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, 2, nil)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(300*time.Millisecond, func() { cancel(ErrClientLeft) })
				x, c := exchange(t, nil), &tries{f: f}
				_, ok := b.run(ctx, x, c)
				assert.False(t, ok)
				assert.Equal(t, core.FinalCancelled, x.Result().Final)
				assert.Equal(t, 300*time.Millisecond, time.Since(c.begun))
				assert.Len(t, c.at, 1)
				b.idle(t)
				for _, u := range b.pool.Snapshot().All {
					if name == "during an attempt" {
						assert.Equal(t, ErrClientLeft, b.rec.Attempts()[0].Outcome.Err)
						assert.Zero(t, u.Breaker().Snapshot().FailureCount, "it counts against nobody")
					}
				}
			})
		})
	}
}

func TestAllOpenInMidRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1, nil)
		for range 4 {
			lease, _ := b.pool.Snapshot().All[0].Acquire(time.Now())
			lease.Settle(&core.Outcome{Verdict: core.Failure})
			lease.Release()
		}
		x, c := exchange(t, nil), &tries{f: statuses(503)}
		_, ok := b.run(t.Context(), x, c)
		assert.False(t, ok)
		assert.Equal(t, core.FinalAllBreakersOpen, x.Result().Final)
		assert.Equal(t, NoProxy, x.refusal.Kind)
		assert.Equal(t, 30*time.Second, x.refusal.RetryAfter, "at once, not after the wait")
		assert.Zero(t, x.Result().BackoffTime)
		assert.Len(t, c.at, 1)
	})
}

func TestReplayIsOutsideTheAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 2, nil)
		n := 0
		c := &tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
			if n++; n == 1 {
				return verdict.Facts{Err: &verdict.Error{Cause: verdict.StaleConnection, Err: errors.New("closed")}}
			}
			if !a.NewConnection {
				return verdict.Facts{Status: 500}
			}
			return verdict.Facts{Status: 200}
		}}
		x := exchange(t, func(p *retry.Policy) { p.MaxAttempts = 1 })
		_, ok := b.run(t.Context(), x, c)
		assert.True(t, ok)
		assert.Equal(t, []string{"p0", "p0"}, c.ids, "the same proxy, at once")
		assert.Equal(t, 1, x.Result().Attempts)
		require.Len(t, b.rec.Attempts(), 2)
		assert.Equal(t, core.ResultReplay, b.rec.Attempts()[0].Outcome.Result)
		assert.Equal(t, core.ResultSuccess, b.rec.Attempts()[1].Outcome.Result)
		assert.Zero(t, b.pool.Snapshot().All[0].Breaker().Snapshot().FailureCount)

		// A request that must not be repeated is not replayed.
		n = 0
		c.ids = nil
		x = exchange(t, nil)
		x.Idempotent = false
		b.run(t.Context(), x, c)
		assert.Len(t, c.ids, 1)
		assert.Equal(t, core.FinalNotRetryable, x.Result().Final)
		last := b.rec.Attempts()[len(b.rec.Attempts())-1].Outcome
		assert.Equal(t, core.ResultFailure, last.Result)
		assert.Equal(t, core.Excluded, last.Verdict, "who closed a kept connection has done nothing wrong")

		// The policy may permit a retry nevertheless.
		n = 0
		c.ids = nil
		x = exchange(t, func(p *retry.Policy) { p.RetryNonIdempotent = true })
		x.Idempotent = false
		b.run(t.Context(), x, c)
		assert.Len(t, c.ids, 2)
		assert.NotEqual(t, c.ids[0], c.ids[1])
	})
}

func TestBackoffStaysWithinThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(change func(*retry.Policy), tuning func(*Tuning), facts verdict.Facts) time.Duration {
			b := start(t, 2, tuning)
			n := 0
			c := &tries{f: func(context.Context, *Attempt) verdict.Facts {
				if n++; n > 1 {
					return verdict.Facts{Status: 200}
				}
				return facts
			}}
			b.run(t.Context(), exchange(t, change), c)
			require.Len(t, c.at, 2)
			return c.at[1]
		}
		answer := func(after string) verdict.Facts { return verdict.Facts{Status: 503, RetryAfter: after} }
		assert.Equal(t, time.Second, wait(nil, nil, answer("")))
		assert.Equal(t, 7*time.Second, wait(nil, nil, answer("7")), "Retry-After is a floor")
		assert.Equal(t, 30*time.Second, wait(nil, nil, answer("3600")), "the cap a ceiling")
		assert.Equal(t, time.Second, wait(nil, nil, answer("soon")))
		evidence := func(t *Tuning) { t.Targets = served{} }
		assert.Equal(t, 7*time.Second, wait(nil, evidence, answer("7")), "the target's")
		for _, own := range []verdict.Facts{
			{Status: 503, RetryAfter: "7", FromProxy: true, ErrorPage: verdict.ErrorPageUnclear},
			{Status: 503, RetryAfter: "7", FromProxy: true, InnerOutcome: "all_breakers_open"},
		} {
			assert.Zero(t, wait(nil, evidence, own), "the proxy's own Retry-After is not the target's")
			assert.Equal(t, 7*time.Second, wait(nil, nil, own), "literal")
		}
		zero := 0.0
		assert.Zero(t, wait(func(p *retry.Policy) { p.FailoverDelay = &zero }, nil, answer("")))
		assert.Zero(t, wait(nil, nil, verdict.Facts{Status: 407, FromProxy: true, HasChallenge: true}),
			"another proxy, at once")
		assert.Equal(t, time.Second, wait(nil, func(t *Tuning) {
			t.Backoff = func(string) core.Backoff { return broken{} }
		}, answer("")), "base_delay where the plugin fails")
		assert.Equal(t, time.Second, wait(nil, func(t *Tuning) {
			t.Backoff = func(string) core.Backoff { return nil }
		}, answer("")))
	})
}

func TestTheRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 3, func(t *Tuning) { t.Budget = retry.NewBudget(retry.BudgetConfig{Ratio: 0.1}, time.Now()) })
		retries := 0
		for range 50 {
			x, c := exchange(t, func(p *retry.Policy) { p.BaseDelay, p.RetryStatusCodes = 0.1, []int{500} }),
				&tries{f: statuses(500)}
			b.run(t.Context(), x, c)
			retries += x.Result().Attempts - 1
		}
		assert.LessOrEqual(t, retries, 5, "a tenth of the requests")
		assert.Greater(t, retries, 0)
		spent := 0
		for _, q := range b.rec.Requests() {
			if q.BudgetSpent {
				spent++
			}
		}
		assert.Greater(t, spent, 40)
	})
}

func TestAPanicReleasesThePermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1, nil)
		u := b.pool.Snapshot().All[0]
		for range 5 {
			lease, _ := u.Acquire(time.Now())
			lease.Settle(&core.Outcome{Verdict: core.Failure})
			lease.Release()
		}
		time.Sleep(30 * time.Second)
		require.Equal(t, core.HalfOpen, u.Breaker().State())
		x := exchange(t, nil)
		func() {
			defer func() { require.NotNil(t, recover()); x.Abandon() }()
			Run(t.Context(), b.Executor, &x.Exchange, &x.Request, &tries{f: func(context.Context,
				*Attempt) verdict.Facts {
				panic("bug")
			}})
		}()
		b.idle(t)
		assert.True(t, u.Breaker().Admissible(), "the probe's slot is free again")
		_, ok := b.run(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		assert.True(t, ok)
		assert.Equal(t, core.Closed, u.Breaker().State())
	})
}

func TestTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1, nil)
		u := b.pool.Snapshot().All[0]
		open := func() *Tunnel {
			x := exchange(t, nil)
			x.Request.WantsTunnel = true
			end := Run(t.Context(), b.Executor, &x.Exchange, &x.Request, &tries{f: statuses(200)})
			require.NotNil(t, end.Tunnel)
			return end.Tunnel
		}
		x := open()
		assert.EqualValues(t, 1, u.InFlight(), "in flight as long as it stands")
		x.SettleSuccess()
		assert.Equal(t, 1.0, u.Stats().SuccessRate)
		x.Close(verdict.TunnelEnd{BytesDown: 1}, time.Now())
		b.idle(t)
		x = open()
		x.Close(verdict.TunnelEnd{Err: io.ErrUnexpectedEOF}, time.Now())
		assert.Equal(t, 0.5, u.Stats().SuccessRate, "an early death counts against the proxy")
		b.idle(t)
	})
}

func TestOneFailureOfTheBodyAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1, nil)
		for _, c := range []struct {
			relayed verdict.RelayEnd
			result  core.Result
			samples int
		}{
			{verdict.RelayEnd{}, core.ResultSuccess, 1},
			{verdict.RelayEnd{BodyErr: io.ErrUnexpectedEOF}, core.ResultFailure, 2},
			{verdict.RelayEnd{ClientLeft: true}, core.ResultCancelled, 2},
		} {
			x := exchange(t, nil)
			end := Run(t.Context(), b.Executor, &x.Exchange, &x.Request, &tries{f: statuses(200)})
			require.NotNil(t, end.Relay)
			end.Relay.Close(200, c.relayed, time.Now())
			assert.Equal(t, c.result, b.rec.Attempts()[len(b.rec.Attempts())-1].Outcome.Result)
			assert.Equal(t, c.samples, b.pool.Snapshot().All[0].Stats().Samples)
			b.idle(t)
		}
	})
}

func TestEveryExchangeIsRecordedOnce(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		synctest.Test(outer, func(*testing.T) {
			b := start(t, rapid.IntRange(1, 4).Draw(t, "proxies"), nil)
			made := 0
			for range rapid.IntRange(1, 8).Draw(t, "requests") {
				ctx, cancel := context.WithCancelCause(context.Background())
				x := exchange(t, func(p *retry.Policy) { p.MaxAttempts = rapid.IntRange(1, 5).Draw(t, "max") })
				x.Idempotent = rapid.Bool().Draw(t, "idempotent")
				c := &tries{f: func(context.Context, *Attempt) verdict.Facts {
					made++
					time.Sleep(time.Duration(rapid.IntRange(0, 100).Draw(t, "ms")) * time.Millisecond)
					switch rapid.IntRange(0, 7).Draw(t, "what") {
					case 0, 1:
						return verdict.Facts{Status: 503}
					case 2:
						return verdict.Facts{Status: 407, FromProxy: true, HasChallenge: true}
					case 3:
						return verdict.Facts{Err: &verdict.Error{Cause: verdict.ProxyUnreachable,
							Reason: "connection_refused",
							Err:    errors.New("refused")}}
					case 4:
						return verdict.Facts{Err: &verdict.Error{Cause: verdict.StaleConnection,
							Err: errors.New("stale")}}
					case 5:
						cancel(ErrClientLeft)
						return verdict.Facts{Err: &verdict.Error{Cause: verdict.ConnectionClosed,
							Err: errors.New("gone")}}
					}
					return verdict.Facts{Status: 200}
				}}
				before := len(b.rec.Attempts())
				b.run(ctx, x, c)
				cancel(nil)
				replays := 0
				for _, e := range b.rec.Attempts()[before:] {
					if e.Outcome.Result == core.ResultReplay {
						replays++
					}
				}
				if len(b.rec.Attempts())-before != len(c.at) || x.Result().Attempts != len(c.at)-replays {
					t.Fatalf("%d tries, %d recorded, %d replays, %d counted", len(c.at), len(b.rec.Attempts())-before,
						replays,
						x.Result().Attempts)
				}
				b.idle(t)
			}
			if len(b.rec.Attempts()) != made {
				t.Fatalf("%d attempts, %d recorded", made, len(b.rec.Attempts()))
			}
		})
	})
}

// Ten thousand requests are in flight while the tuning changes. No request is lost, and at the end all
// permits and places are released.
func TestTenThousandInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 8, nil)
		var wg sync.WaitGroup
		var tried atomic.Int64
		for i := range 10_000 {
			wg.Go(func() {
				n := 0
				c := &tries{f: func(context.Context, *Attempt) verdict.Facts {
					tried.Add(1)
					time.Sleep(100 * time.Millisecond)
					if n++; i%10 == 0 && n == 1 {
						return verdict.Facts{Status: 429}
					}
					return verdict.Facts{Status: 200}
				}}
				x := exchange(t, func(p *retry.Policy) { p.RetryStatusCodes = []int{429} })
				if _, ok := b.run(t.Context(), x, c); !ok || x.Result().Final != core.FinalSuccess {
					t.Errorf("%v: %s", x.Result().Final, x.refusal.LastOutcome.Err)
				}
			})
		}
		b.SetTuning(b.Tuning())
		wg.Wait()
		assert.EqualValues(t, 11_000, tried.Load())
		assert.Len(t, b.rec.Requests(), 10_000)
		assert.Len(t, b.rec.Attempts(), 11_000)
		b.idle(t)
	})
}

func TestObserveIsCalledIfItObserves(t *testing.T) {
	observed, observes := 0, false
	b := start(t, 1, func(t *Tuning) {
		t.Observe, t.Observes = func(*core.Observation) { observed++ }, func() bool { return observes }
	})
	for range 2 {
		x := exchange(t, nil)
		Run(t.Context(), b.Executor, &x.Exchange, &x.Request, Sender[string](&tries{f: statuses(200)})).Relay.Close(
			200, verdict.RelayEnd{}, b.now())
		observes = true
	}
	require.Equal(t, 1, observed)
}
