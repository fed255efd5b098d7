package breaker_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

func TestTheCountAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		cfg := breaker.Config{FailureThreshold: rapid.IntRange(1, 8).Draw(t, "threshold"),
			WindowDuration: 10 * time.Second, TimeoutDuration: time.Hour}
		opened := 0
		b := breaker.New("p", cfg, func() time.Time { return now }, func(tr core.Transition) {
			opened++
			require.GreaterOrEqual(t, tr.FailureCount, cfg.FailureThreshold)
			require.Equal(t, breaker.ReasonThreshold, tr.Reason)
			require.Equal(t, "5 of 5", tr.Why)
		})
		var failures []time.Time
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 999, 1000, 2500, 10_000}).Draw(t,
				"ms")) * time.Millisecond)
			p, ok := b.Acquire()
			require.True(t, ok)
			v := rapid.SampledFrom([]core.Verdict{core.Success, core.Failure, core.Failure, core.Excluded}).Draw(t,
				"verdict")
			e := breaker.Evidence{IsEnough: rapid.Bool().Draw(t, "enough"), Explanation: "5 of 5"}
			p.Report(v, e)
			if v == core.Failure {
				failures = append(failures, now)
			}
			count := 0
			for _, at := range failures {
				if now.Sub(at) <= cfg.WindowDuration {
					count++
				}
			}
			require.Equal(t, count, b.Snapshot().FailureCount)
			if v == core.Failure && count >= cfg.FailureThreshold && e.IsEnough {
				require.Equal(t, 1, opened)
				require.Equal(t, core.Open, b.State())
				return
			}
			require.Zero(t, opened)
		}
	})
}

func TestTheCountUnderConcurrency(t *testing.T) {
	const goroutines, each = 16, 50
	for _, threshold := range []int{1, goroutines * each / 2, goroutines * each, goroutines*each + 1} {
		for range 20 {
			var opened, count atomic.Int64
			b := breaker.New("p", breaker.Config{FailureThreshold: threshold, WindowDuration: time.Hour,
				TimeoutDuration: time.Hour},
				time.Now, func(tr core.Transition) { opened.Add(1); count.Store(int64(tr.FailureCount)) })
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for range each {
						if p, ok := b.Acquire(); ok {
							p.Report(core.Failure, breaker.AlwaysEnough)
						}
						if p, ok := b.Acquire(); ok {
							p.Report(core.Success, breaker.AlwaysEnough)
						}
					}
				})
			}
			wg.Wait()
			if threshold > goroutines*each {
				require.Zero(t, opened.Load())
				require.Equal(t, goroutines*each, b.Snapshot().FailureCount)
				continue
			}
			require.EqualValues(t, 1, opened.Load())
			require.EqualValues(t, threshold, count.Load())
			require.Equal(t, core.Open, b.State())
		}
	}
}
