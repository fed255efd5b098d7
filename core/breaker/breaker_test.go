package breaker_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// Whatever happens in whatever order: a legal chain of events, one probe at a
// time, and no say for a permit of an earlier generation.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		last := core.Closed
		events := 0
		cfg := breaker.Config{FailureThreshold: 3, WindowDuration: 10 * time.Second, TimeoutDuration: 5 * time.Second, Lease: time.Hour}
		b := breaker.New("p", cfg, func() time.Time { return now }, func(tr core.Transition) {
			events++
			require.Equal(t, last, tr.From)
			require.NotEqual(t, tr.From, tr.To)
			if tr.From == core.Open && tr.Reason != breaker.ReasonManualReset {
				require.Equal(t, core.HalfOpen, tr.To)
			}
			last = tr.To
		})
		type out struct {
			permit breaker.Permit
			events int // so many when it was taken
		}
		var outstanding []out
		probe := -1 // events when the probe that is out was taken
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				state := b.State()
				p, ok := b.Acquire()
				switch state {
				case core.Open:
					require.False(t, ok)
				case core.Closed:
					require.True(t, ok)
				case core.HalfOpen:
					require.Equal(t, probe != events, ok, "one probe at a time")
					if ok {
						probe = events
					}
				}
				if ok {
					outstanding = append(outstanding, out{p, events})
				}
			},
			"report": func(t *rapid.T) {
				if len(outstanding) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(outstanding)-1).Draw(t, "which")
				o := outstanding[i]
				outstanding = append(outstanding[:i], outstanding[i+1:]...)
				b.State() // what time has done is done before
				before, state := events, b.State()
				v := rapid.SampledFrom([]core.Verdict{core.Success, core.Failure, core.Excluded}).Draw(t, "verdict")
				o.permit.Report(v, 0)
				switch {
				case o.events != before:
					require.Equal(t, before, events, "a late result changes nothing")
				case state == core.HalfOpen && v == core.Success:
					require.Equal(t, core.Closed, b.State())
				case state == core.HalfOpen && v == core.Failure:
					require.Equal(t, core.Open, b.State())
				case state == core.HalfOpen:
					probe = -1
				}
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 6000).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) { require.Equal(t, b.State(), last) },
		})
	})
}

func TestOneProbeAmongMany(t *testing.T) {
	var clock atomic.Int64
	b := breaker.New("p", breaker.Config{FailureThreshold: 1, WindowDuration: time.Minute, TimeoutDuration: time.Second, Lease: time.Minute},
		func() time.Time { return time.Unix(1000, clock.Load()) }, func(core.Transition) {})
	for round := range 200 {
		p, ok := b.Acquire()
		require.True(t, ok, round)
		p.Report(core.Failure, 0)
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
		probe.Report(core.Success, 0)
		require.Equal(t, core.Closed, b.State())
	}
}

func BenchmarkClosed(b *testing.B) {
	br := breaker.New("p", breaker.Default(), time.Now, func(core.Transition) {})
	once := func() {
		if p, ok := br.Acquire(); ok {
			p.Report(core.Success, 0)
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

// A failure counted, and the whole way round: open, half-open, probe, closed.
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
			p.Report(core.Failure, 0)
			now = now.Add(time.Second) // 60 of them are in the window
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
			p.Report(core.Failure, 0)
			now = now.Add(cfg.TimeoutDuration)
			p, _ = br.Acquire()
			p.Report(core.Success, 0)
			cycles++
		}
		if events != 3*cycles {
			b.Fatalf("%d events in %d cycles", events, cycles)
		}
	})
}
