package breaker_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

func TestOneProbeAmongMany(t *testing.T) {
	var clock atomic.Int64
	b := breaker.New("p", breaker.Config{FailureThreshold: 1, WindowDuration: time.Minute,
		TimeoutDuration: time.Second},
		func() time.Time { return time.Unix(1000, clock.Load()) }, func(core.Transition) {})
	for round := range 200 {
		p, ok := b.Acquire()
		require.True(t, ok, round)
		p.Report(core.Failure, breaker.AlwaysEnough)
		require.Equal(t, core.Open, b.State())
		clock.Add(int64(time.Second))
		var taken atomic.Int64
		var probe breaker.Permit
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if p, ok := b.Acquire(); ok {
					taken.Add(1)
					probe = p
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, taken.Load())
		probe.Report(core.Success, breaker.AlwaysEnough)
		require.Equal(t, core.Closed, b.State())
	}
}

func BenchmarkClosed(b *testing.B) {
	br := breaker.New("p", breaker.Default(), time.Now, func(core.Transition) {})
	once := func() {
		if p, ok := br.Acquire(); ok {
			p.Report(core.Success, breaker.AlwaysEnough)
		}
	}
	b.Run("goroutines=1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			once()
		}
	})
	b.Run("goroutines=64", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(max(64/runtime.GOMAXPROCS(0), 1))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				once()
			}
		})
	})
}

func BenchmarkChange(b *testing.B) {
	now := time.Unix(1_000_000, 0)
	clock := func() time.Time { return now }
	b.Run("failure", func(b *testing.B) {
		cfg := breaker.Default()
		cfg.FailureThreshold = 1 << 30
		br := breaker.New("p", cfg, clock, func(core.Transition) {})
		b.ReportAllocs()
		for b.Loop() {
			p, _ := br.Acquire()
			p.Report(core.Failure, breaker.AlwaysEnough)
			now = now.Add(time.Second) // the window holds 60 of the failures
		}
	})
	b.Run("cycle", func(b *testing.B) {
		cfg := breaker.Default()
		cfg.FailureThreshold = 1
		events := 0
		br := breaker.New("p", cfg, clock, func(core.Transition) { events++ })
		b.ReportAllocs()
		cycles := 0
		for b.Loop() {
			p, _ := br.Acquire()
			p.Report(core.Failure, breaker.AlwaysEnough)
			now = now.Add(cfg.MaxTimeout)
			p, _ = br.Acquire()
			p.Report(core.Success, breaker.AlwaysEnough)
			cycles++
		}
		if events != 3*cycles {
			b.Fatalf("%d events in %d cycles", events, cycles)
		}
	})
}
