package coretest

import (
	"sync"
	"testing"
	"time"
)

// MeasureTimerDelay measures how late timers fire on this machine, until the test ends. The returned function returns
// three times the longest delay so far. Tests with real sockets add it to their time limits.
func MeasureTimerDelay(t testing.TB) func() time.Duration {
	const wait = 5 * time.Millisecond
	var mu sync.Mutex
	began, worst := time.Now(), time.Duration(0)
	late := func(again bool) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		worst = max(worst, now.Sub(began)-wait)
		if again {
			began = now
		}
		return 3 * worst
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		for tick := time.NewTimer(wait); ; tick.Reset(wait) {
			select {
			case <-done:
				return
			case <-tick.C:
				late(true)
			}
		}
	}()
	return func() time.Duration { return late(false) }
}
