package coretest

import (
	"sync"
	"testing"
	"time"
)

// Lateness measures how late the machine is from now on: a goroutine waits 5 ms over and over until the test ends.
// The function that is returned gives three times the longest delay beyond that so far. Tests with real sockets add it
// to the time that something may take.
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
