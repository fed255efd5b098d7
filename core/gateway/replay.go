package gateway

import "sync/atomic"

// replayMemory counts the bytes of all request bodies that are kept for repeats.
type replayMemory struct{ used atomic.Int64 }

// reservation is the part of a replayMemory that one request uses.
type reservation struct {
	memory *replayMemory
	bytes  int64
}

// fits reports whether n more bytes could be reserved now. It reserves nothing.
func (r *reservation) fits(n, limit int64) bool { return r.memory.used.Load()+n <= limit }

// grow reserves n more bytes. It returns false, and reserves nothing, if all requests together would
// exceed limit bytes.
func (r *reservation) grow(n, limit int64) bool {
	if r.memory.used.Add(n) > limit {
		r.memory.used.Add(-n)
		return false
	}
	r.bytes += n
	return true
}

// release ends the reservation.
func (r *reservation) release() {
	if r.bytes > 0 {
		r.memory.used.Add(-r.bytes)
		r.bytes = 0
	}
}
