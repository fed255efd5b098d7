package executor

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// between is a backoff that returns a random delay from 0.1 to 1 s. It adds first to the first delay of a
// request, so that all requests have begun by then.
type between struct{ first float64 }

func (b between) Delay(r *core.BackoffRequest) (float64, error) {
	d := 0.1 + 0.9*r.Random
	if r.Retry == 1 {
		d += b.first
	}
	return d, nil
}

// late is a Sender whose attempts all fail with 429. It records how late each retry began; a negative value
// means too early.
type late struct {
	x    *both
	due  time.Time
	by   []time.Duration
	over func() // called when the first attempt has ended
}

func (l *late) Send(ctx context.Context, a *Attempt, f *verdict.Facts) (response int) {
	response, *f = l.attempt(ctx, a)
	return response
}

func (l *late) attempt(_ context.Context, _ *Attempt) (int, verdict.Facts) {
	now := time.Now()
	if l.due.IsZero() {
		l.over()
	} else {
		l.by = append(l.by, now.Sub(l.due.Add(l.x.retry.delay)))
	}
	l.due = time.Now()
	return 0, verdict.Facts{Status: 429}
}

func (*late) Discard(int) {}

// waiting runs n exchanges at the same time, in real time, each with the given number of retries. It returns
// how late the retries began. It calls whenAll after all first attempts.
func waiting(t testing.TB, n, retries int, whenAll func()) []time.Duration {
	wait := between{first: float64(n) / 25_000}
	b := start(t, 10, func(t *Tuning) {
		t.Backoff = func(string) core.Backoff { return wait }
		t.FirstScorer, t.RetryScorer = none{}, none{}
	})
	b.Executor.recorder, b.Executor.log = nowhere{}, slog.New(slog.DiscardHandler)
	var first, all sync.WaitGroup
	first.Add(n)
	shape := exchange(t, func(p *retry.Policy) { p.MaxAttempts, p.RetryStatusCodes = retries+1, []int{429} })
	calls := make([]late, n)
	for i := range calls {
		all.Go(func() {
			x := &both{Request: shape.Request}
			calls[i] = late{x: x, over: first.Done}
			Run(context.Background(), b.Executor, &x.Exchange, &x.Request, Sender[int](&calls[i]))
		})
	}
	first.Wait()
	if whenAll != nil {
		whenAll()
	}
	all.Wait()
	var by []time.Duration
	for i := range calls {
		require.Len(t, calls[i].by, retries)
		by = append(by, calls[i].by...)
	}
	return by
}

// nowhere is a recorder that discards all events.
type nowhere struct{}

func (nowhere) CountAttempt(*core.AttemptEvent, *core.Slot) {}
func (nowhere) Request(*core.RequestEvent)                  {}

// none is a scorer that fails, so that the rotation decides.
type none struct{}

func (none) Score(core.Candidates, []float64) error { return errors.New("no scorer") }

func TestNoRetryIsEarly(t *testing.T) {
	for _, by := range waiting(t, 2_000, 2, nil) {
		require.GreaterOrEqual(t, by, time.Duration(0))
	}
}

// BenchmarkWaiting measures how late 100,000 waiting retries begin, and the memory of a waiting request.
// The target is that no retry begins early, and that the 99th percentile is at most 10 ms late.
func BenchmarkWaiting(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(map[int]string{1_000: "waiters=1000", 100_000: "waiters=100000"}[n], func(b *testing.B) {
			var by []time.Duration
			var before, during runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				by = append(by, waiting(b, n, 3, func() {
					time.Sleep(50 * time.Millisecond) // until the last of them wait
					runtime.ReadMemStats(&during)
				})...)
			}
			slices.Sort(by)
			if by[0] < 0 {
				b.Fatalf("%v early", -by[0])
			}
			at := func(percent int) float64 { return float64(by[(len(by)-1)*percent/100].Microseconds()) }
			b.ReportMetric(at(50), "p50-us-late")
			b.ReportMetric(at(99), "p99-us-late")
			b.ReportMetric(at(100), "max-us-late")
			b.ReportMetric(float64(during.HeapAlloc-before.HeapAlloc)/float64(n), "heap-B/waiter")
			b.ReportMetric(float64(during.StackInuse-before.StackInuse)/float64(n), "stack-B/waiter")
		})
	}
}
