package queue

import (
	"testing"
	"time"
)

// BenchmarkNobodyWaits measures the cost of the queue for a request while no request waits.
func BenchmarkNobodyWaits(b *testing.B) {
	q := New[int](time.Now)
	for b.Loop() {
		if q.Empty() {
			q.ServeOne()
		}
	}
}
