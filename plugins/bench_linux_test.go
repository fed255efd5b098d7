package plugins_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// proxies returns a pool of n proxies, each with other statistics, and a selector.
func proxies(t testing.TB, n int) (*upstream.Pool, *selector.Selector) {
	pool := upstream.NewPool(upstream.PoolConfig{Literal: true, Breaker: breaker.Default(), Now: time.Now})
	specs := make([]upstream.Spec, n)
	for i := range specs {
		specs[i].Address = upstream.Address{Scheme: upstream.HTTP, Host: fmt.Sprintf("10.%d.%d.%d:3128", i>>16,
			i>>8&255, i&255)}
		specs[i].Region = []string{"", "eu", "us"}[i%3]
	}
	require.NoError(t, pool.Apply(specs))
	for i, u := range pool.Snapshot().All {
		for k := range 3 {
			lease, ok := u.Acquire(time.Now())
			require.True(t, ok)
			verdict := core.Success
			if (i+k)%7 == 0 {
				verdict = core.Failure
			}
			lease.Settle(&core.Outcome{Verdict: verdict, Latency: time.Duration(20+i%200) * time.Millisecond})
			lease.Release()
		}
	}
	return pool, selector.New(pool, rand.Uint64, selector.DefaultMaxCandidates)
}

// cpu makes a benchmark report the CPU time of its thread in addition to the elapsed time. Other processes affect the
// CPU time less.
func cpu(b *testing.B) func() {
	runtime.LockOSThread()
	report := cpuOf(b, 1) // RUSAGE_THREAD
	return func() {
		report()
		runtime.UnlockOSThread()
	}
}

func cpuOf(b *testing.B, who int) (report func()) {
	spent := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := spent()
	return func() { b.ReportMetric(float64(spent()-before)/float64(b.N), "cpu-ns/op") }
}

// shut opens the breakers of every k-th proxy.
func shut(t testing.TB, pool *upstream.Pool, k int) {
	for i, u := range pool.Snapshot().All {
		for i%k == 0 && u.Breaker().State() == core.Closed {
			lease, ok := u.Acquire(time.Now())
			require.True(t, ok)
			lease.Settle(&core.Outcome{Verdict: core.Failure})
			lease.Release()
		}
	}
}

// The benchmark makes a choice as a request does: it collects the candidates, calls the scorer, and acquires
// and releases the permit.
func BenchmarkChoice(b *testing.B) {
	r := registry(b)
	choose := func(name string, s *selector.Selector) func(*testing.B) {
		scorer, err := r.Scorer(name, plugins.FallbackFirst)
		require.NoError(b, err)
		return func(b *testing.B) {
			q := selector.Query{}
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				q.Reset()
				q.Idempotent, q.HostHash = true, 12345
				lease, err := s.Select(&q, scorer, time.Now())
				if err != nil {
					b.Fatal(err)
				}
				lease.Release()
			}
		}
	}
	for _, n := range []int{10, 100, 1_000, 10_000, 100_000} {
		pool, s := proxies(b, n)
		for _, name := range []string{"round_robin", "performance"} {
			b.Run(fmt.Sprintf("scorer=%s/proxies=%d", name, n), choose(name, s))
		}
		shut(b, pool, 3)
		b.Run(fmt.Sprintf("scorer=performance/proxies=%d/a-third-open", n), choose("performance", s))
	}
}

// The benchmark computes a delay with a backoff plugin.
func BenchmarkDelay(b *testing.B) {
	r := registry(b)
	for _, name := range []string{"exponential", "decorrelated_jitter"} {
		b.Run("backoff="+name, func(b *testing.B) {
			p, err := r.Backoff(name)
			require.NoError(b, err)
			q := core.BackoffRequest{Retry: 2, BaseDelay: 1, Multiplier: 2, Cap: 30, Random: 0.5, Remaining: -1,
				MaxAttempts: 3}
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				if _, err := p.Delay(&q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// answers is a Sender that responds at once.
type answers struct{ status int }

func (a answers) Send(_ context.Context, _ *executor.Attempt, f *verdict.Facts) int {
	*f = verdict.Facts{Status: a.status}
	return a.status
}

func (answers) Discard(int) {}

// request is one request through an executor with all its parts: scorer, breaker, retry budget, metrics and
// tracker.
type request struct {
	e       *executor.Executor
	q       executor.Request
	x       executor.Exchange
	tracker *metrics.Tracker
	entry   *metrics.Entry
	call    executor.Sender[int]
	own     *retry.Policy
}

// another returns a request of another client of the same gateway.
func (r *request) another() *request {
	return &request{e: r.e, tracker: r.tracker, entry: r.tracker.Track(), call: r.call, own: r.own}
}

func newRequest(t testing.TB, pool *upstream.Pool, s *selector.Selector, first string) *request {
	reg := registry(t)
	scorer, err := reg.Scorer(first, plugins.FallbackFirst)
	require.NoError(t, err)
	backoff, err := reg.Backoff("exponential")
	require.NoError(t, err)
	policy := retry.DefaultPolicy()
	policy.Hash()
	tracker := metrics.NewTracker()
	return &request{
		e: executor.New(s, metrics.New(metrics.Config{}), executor.Tuning{
			FirstScorer: scorer, RetryScorer: scorer, Backoff: func(string) core.Backoff { return backoff },
			Budget:         retry.NewBudget(retry.BudgetConfig{Ratio: 0.2, MinPerSecond: 10}, time.Now()),
			AttemptTimeout: 10 * time.Second,
		}, slog.New(slog.DiscardHandler), time.Now, rand.Uint64),
		tracker: tracker, entry: tracker.Track(), call: answers{200}, own: &policy,
	}
}

var target = upstream.Target("example.com:80")

func (r *request) run() bool {
	now := time.Now()
	r.q = executor.Request{
		Policy: r.own, GlobalPolicy: r.own, Method: "GET", Host: "example.com", Target: target, Idempotent: true,
		Replayable: true,
		Progress:   r.entry, Started: now,
	}
	r.entry.Begin(r.q.ID, r.q.Method, r.q.Host, now)
	end := executor.Run(context.Background(), r.e, &r.x, &r.q, r.call)
	if end.Refusal != nil {
		end.Refusal.Close(502, time.Now())
		return false
	}
	end.Relay.Close(200, verdict.RelayEnd{}, time.Now())
	return true
}

// The benchmark measures the cost of all decisions and records of a request. The Sender responds at once. The
// case "off" calls the Sender without any of them.
func BenchmarkRequest(b *testing.B) {
	b.Run("off", func(b *testing.B) {
		call := executor.Sender[int](answers{200})
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			if status := call.Send(context.Background(), nil, &verdict.Facts{}); status != 200 {
				b.Fatal(status)
			}
		}
	})
	for _, n := range []int{10, 100} {
		b.Run(fmt.Sprintf("on/proxies=%d", n), func(b *testing.B) {
			pool, s := proxies(b, n)
			r := newRequest(b, pool, s, plugins.FallbackFirst)
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				if !r.run() {
					b.Fatal(r.x.Result().Final)
				}
			}
		})
		b.Run(fmt.Sprintf("on/proxies=%d/goroutines=64", n), func(b *testing.B) {
			pool, s := proxies(b, n)
			first := newRequest(b, pool, s, plugins.FallbackFirst)
			b.ReportAllocs()
			b.SetParallelism(max(64/runtime.GOMAXPROCS(0), 1))
			defer cpuOf(b, syscall.RUSAGE_SELF)()
			b.RunParallel(func(pb *testing.PB) {
				for r := first.another(); pb.Next(); {
					if !r.run() {
						b.Error(r.x.Result().Final)
					}
				}
			})
		})
	}
}

// healthyPool returns a pool, and a selector for it. Its breakers use evidence, and each proxy has served a
// hundred requests.
func healthyPool(t testing.TB, n int) (*upstream.Pool, *selector.Selector) {
	pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	specs := make([]upstream.Spec, n)
	for i := range specs {
		specs[i].Address = upstream.Address{Scheme: upstream.HTTP, Host: fmt.Sprintf("10.0.0.%d:3128", i+1)}
	}
	require.NoError(t, pool.Apply(specs))
	for _, u := range pool.Snapshot().All {
		for range 100 {
			lease, ok := u.Acquire(time.Now())
			require.True(t, ok)
			lease.Settle(&core.Outcome{Verdict: core.Success, Latency: 20 * time.Millisecond})
			lease.Release()
		}
	}
	return pool, selector.New(pool, rand.Uint64, selector.DefaultMaxCandidates)
}

// BenchmarkDefaultRequest measures a request through a pool without failures, with the parts that are on by
// default: evidence, adaptive timeouts, slow start, and the scorer.
func BenchmarkDefaultRequest(b *testing.B) {
	for _, n := range []int{8, 100} {
		for _, name := range []string{"exploring", plugins.FallbackFirst} {
			b.Run(fmt.Sprintf("scorer=%s/proxies=%d", name, n), func(b *testing.B) {
				pool, s := healthyPool(b, n)
				r := newRequest(b, pool, s, name)
				tuning := r.e.Tuning()
				tuning.Budget, tuning.Adaptive = nil, true
				tuning.Targets, tuning.Epoch = pool.Ledger(), pool.Epoch()
				r.e.SetTuning(tuning)
				b.ReportAllocs()
				defer cpu(b)()
				for b.Loop() {
					if !r.run() {
						b.Fatal(r.x.Result().Final)
					}
				}
			})
		}
	}
}

// The benchmark measures the 503 of a pool whose breakers are all open.
func BenchmarkRefusal(b *testing.B) {
	for _, n := range []int{10, 100, 1_000} {
		b.Run(fmt.Sprintf("proxies=%d", n), func(b *testing.B) {
			pool, s := proxies(b, n)
			shut(b, pool, 1)
			r := newRequest(b, pool, s, plugins.FallbackFirst)
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				if r.run() || r.x.Result().Final != core.FinalAllBreakersOpen {
					b.Fatal(r.x.Result().Final)
				}
			}
		})
	}
}
