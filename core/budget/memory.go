package budget

import "sync/atomic"

// Memory counts reserved bytes of memory. The zero value is ready for use. It is safe for concurrent use.
type Memory struct{ used atomic.Int64 }

// Used returns the number of bytes that are reserved.
func (m *Memory) Used() int64 { return m.used.Load() }

// HasRoom reports whether n more bytes could be reserved now, if at most limit bytes may be reserved in all.
func (m *Memory) HasRoom(n, limit int64) bool { return m.used.Load()+n <= limit }

// Reservation counts the bytes of a Memory that one holder has reserved. It is not safe for concurrent use.
type Reservation struct {
	memory *Memory
	bytes  int64
}

// Reservation returns an empty reservation.
func (m *Memory) Reservation() Reservation { return Reservation{memory: m} }

// Grow reserves n more bytes, unless all reservations together would exceed limit bytes: then it returns false.
func (r *Reservation) Grow(n, limit int64) bool {
	if r.memory.used.Add(n) > limit {
		r.memory.used.Add(-n)
		return false
	}
	r.bytes += n
	return true
}

// Shrink returns n bytes of the reservation, which must have them.
func (r *Reservation) Shrink(n int64) {
	r.memory.used.Add(-n)
	r.bytes -= n
}

// Release returns all bytes of the reservation, which can then be used again.
func (r *Reservation) Release() {
	if r.bytes > 0 {
		r.memory.used.Add(-r.bytes)
		r.bytes = 0
	}
}
