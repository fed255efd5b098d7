package queue

import (
	"testing"
	"time"
)

// BenchmarkNobodyWaits measures what the queue costs a request while none waits.
func BenchmarkNobodyWaits(b *testing.B) {
	q := New[int](time.Now)
	for b.Loop() {
		if q.Empty() {
			q.ServeOne()
		}
	}
}
