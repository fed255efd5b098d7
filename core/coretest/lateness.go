package coretest

import (
	"sync"
	"testing"
	"time"
)

// Lateness measures how late timers end on this machine. A goroutine waits for 5 ms again and again until the
// test ends. The returned function returns three times the longest delay of such a wait so far. Tests with
// real sockets add this time to their time limits.
func Lateness(t testing.TB) func() time.Duration {
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
