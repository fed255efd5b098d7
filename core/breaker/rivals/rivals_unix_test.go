//go:build unix

// Package rivals compares the breaker with those of failsafe-go and gobreaker in one run: the cost of an
// attempt that a closed breaker admits and that succeeds.
package rivals

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// The settings of all three breakers: 5 failures in 60 s open them for 30 s.
const (
	threshold = 5
	window    = time.Minute
	timeout   = 30 * time.Second
)

// attempts returns, for each library, a function that makes one admitted and successful attempt. The code
// around an attempt uses the functions of the library.
func attempts() map[string]func() bool {
	ours := breaker.New("p", breaker.Config{FailureThreshold: threshold, WindowDuration: window,
		TimeoutDuration: timeout},
		time.Now, func(core.Transition) {})
	failsafe := circuitbreaker.NewBuilder[any]().WithFailureThresholdPeriod(threshold,
		window).WithDelay(timeout).Build()
	sony := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Interval: window, BucketPeriod: window / 10, Timeout: timeout,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.TotalFailures >= threshold },
	})
	return map[string]func() bool{
		"whirlpool": func() bool {
			p, ok := ours.Acquire()
			p.Report(core.Success, breaker.Literal)
			return ok
		},
		"failsafe-go": func() bool {
			ok := failsafe.TryAcquirePermit()
			failsafe.RecordSuccess()
			return ok
		},
		"gobreaker": func() bool {
			done, err := sony.Allow()
			if err != nil {
				return false
			}
			done(nil)
			return true
		},
	}
}

// cpu makes a benchmark also report its CPU time, which depends less on other processes than the elapsed
// time.
func cpu(b *testing.B) func() {
	spent := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := spent()
	return func() { b.ReportMetric(float64(spent()-before)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkAdmitAndSuccess(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		for _, lib := range []string{"whirlpool", "failsafe-go", "gobreaker"} {
			attempt := attempts()[lib]
			b.Run(fmt.Sprintf("lib=%s/goroutines=%d", lib, goroutines), func(b *testing.B) {
				b.ReportAllocs()
				defer cpu(b)()
				if goroutines == 1 {
					for b.Loop() {
						if !attempt() {
							b.Fatal("refused")
						}
					}
					return
				}
				b.SetParallelism(max(goroutines/runtime.GOMAXPROCS(0), 1))
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if !attempt() {
							b.Error("refused")
						}
					}
				})
			})
		}
	}
}
