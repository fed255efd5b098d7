package breaker_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// The count of failures beside a list of all of them: those no older than the
// window count, one aged exactly so as well, successes clear nothing, and
// the breaker opens with the one that reaches the threshold, not before; with a
// ratio, with the first that reaches both.
func TestTheCountAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		cfg := breaker.Config{FailureThreshold: rapid.IntRange(1, 8).Draw(t, "threshold"), WindowDuration: 10 * time.Second, TimeoutDuration: time.Hour, Lease: time.Minute,
			MinFailureRatio: rapid.SampledFrom([]float64{0, 0, 0.3, 0.5, 0.75, 1}).Draw(t, "ratio")}
		opened := 0
		b := breaker.New("p", cfg, func() time.Time { return now }, func(tr core.Transition) {
			opened++
			require.GreaterOrEqual(t, tr.FailureCount, cfg.FailureThreshold)
			require.Equal(t, breaker.ReasonThreshold, tr.Reason)
		})
		var failures []time.Time
		var ended []bool // whether they failed
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 999, 1000, 2500, 10_000}).Draw(t, "ms")) * time.Millisecond)
			p, ok := b.Acquire()
			require.True(t, ok)
			v := rapid.SampledFrom([]core.Verdict{core.Success, core.Failure, core.Failure, core.Excluded}).Draw(t, "verdict")
			if v != core.Excluded {
				ended = append(ended, v == core.Failure)
			}
			p.Report(v, int64(len(ended)))
			if v == core.Failure {
				failures = append(failures, now)
			}
			live := 0
			for _, at := range failures {
				if now.Sub(at) <= cfg.WindowDuration {
					live++
				}
			}
			require.Equal(t, live, b.Snapshot().FailureCount)
			attempts := 0 // back to the first of so many failures
			for left := cfg.FailureThreshold; left > 0 && attempts < len(ended); attempts++ {
				if ended[len(ended)-1-attempts] {
					left--
				}
			}
			if v == core.Failure && live >= cfg.FailureThreshold && float64(cfg.FailureThreshold) >= cfg.MinFailureRatio*float64(attempts) {
				require.Equal(t, 1, opened)
				require.Equal(t, core.Open, b.State())
				return
			}
			require.Zero(t, opened)
		}
	})
}

// Many report at once: the breaker opens once, with the failure that reaches
// the threshold, and no failure is lost or counted twice.
func TestTheCountUnderConcurrency(t *testing.T) {
	const goroutines, each = 16, 50
	for _, threshold := range []int{1, goroutines * each / 2, goroutines * each, goroutines*each + 1} {
		for range 20 {
			var opened, count atomic.Int64
			b := breaker.New("p", breaker.Config{FailureThreshold: threshold, WindowDuration: time.Hour, TimeoutDuration: time.Hour, Lease: time.Minute},
				time.Now, func(tr core.Transition) { opened.Add(1); count.Store(int64(tr.FailureCount)) })
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for range each {
						if p, ok := b.Acquire(); ok {
							p.Report(core.Failure, 0)
						}
						if p, ok := b.Acquire(); ok {
							p.Report(core.Success, 0)
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

// With a ratio a proxy that fails once in a hundred stays in use, at any rate of
// requests; one that dies then is out after as many failures as ever.
func TestARatioTellsAFewFailuresFromTheDead(t *testing.T) {
	for _, ratio := range []float64{0, 0.5} {
		now, opened := time.Unix(1_000_000, 0), 0
		cfg := breaker.Default()
		cfg.MinFailureRatio = ratio
		b := breaker.New("p", cfg, func() time.Time { return now }, func(tr core.Transition) { opened++ })
		chance := rand.New(rand.NewPCG(1, 2))
		nth := int64(0)
		attempt := func(failing float64) {
			now = now.Add(time.Millisecond)
			if p, ok := b.Acquire(); ok {
				nth++
				v := core.Success
				if chance.Float64() < failing {
					v = core.Failure
				}
				p.Report(v, nth)
			}
		}
		for range 100_000 {
			attempt(0.01)
		}
		if ratio == 0 {
			require.NotZero(t, opened, "five failures within a minute are soon there")
			continue
		}
		require.Zero(t, opened)
		for range cfg.FailureThreshold {
			attempt(1)
		}
		require.Equal(t, 1, opened)
	}
}
