package socket

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Stall watches a write that has to wait. It ends the write when the other side
// has taken nothing at all for some time, but not while it takes something,
// however little. A deadline could not tell the two apart: the kernel wakes a
// writer only when a third of its buffer is free. And where the kernel copies
// (splice), what it holds is lost when it is interrupted. The zero value is ready.
//
// On systems other than Linux, where nobody can see what the other side takes, a
// Stall is a deadline all the same.
type Stall struct {
	// MayStall, if not nil, says that the write may stand still: it is not ended as
	// long as this returns true. It is called from a goroutine of its own.
	MayStall func() bool

	conn net.Conn
	idle time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	on     atomic.Bool // changed by Start and Stop only, under mu
	acked  uint64      // at the last look
	queued int
	still  int  // looks in a row that saw no progress
	ended  bool // look has ended the write
}

// looks is how many times the watch looks within idle. A write may thus stand
// still for an eighth of idle longer before it is ended.
const looks = 8

// Start begins to watch a write to conn. When it has stood still for idle it is
// ended with os.ErrDeadlineExceeded. A second Start does nothing. It is meant to
// be called from Conn.OnFull.
func (s *Stall) Start(conn net.Conn, idle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on.Load() {
		return
	}
	if !seen {
		if s.MayStall != nil {
			return
		}
		conn.SetWriteDeadline(time.Now().Add(idle))
		return
	}
	s.on.Store(true)
	s.conn, s.idle, s.queued, s.still = conn, idle, 0, 0
	if s.timer == nil {
		s.timer = time.AfterFunc(idle/looks, s.look)
	} else {
		s.timer.Reset(idle / looks)
	}
}

// Stop ends the watch, if there is one. Where the watch has just ended a write that
// got through all the same, the next one does not pay for it: Stop takes the
// deadline away. It may be called only by the goroutine that writes.
func (s *Stall) Stop() {
	if !s.on.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on.Store(false)
	s.timer.Stop()
	if s.ended {
		s.ended = false
		s.conn.SetWriteDeadline(time.Time{})
	}
}

// look ends a write that has not moved for long enough.
func (s *Stall) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on.Load() {
		return
	}
	acked, queued := Progress(s.conn)
	switch {
	case queued < 0:
		return // closed: whoever closed it may not know of the watch (TLS says farewell)
	case s.MayStall != nil && s.MayStall():
		s.still = 0
	case s.stands(acked, queued):
		s.ended = true
		s.conn.SetWriteDeadline(time.Unix(1, 0))
		return
	}
	s.timer.Reset(s.idle / looks)
}

// stands reports whether enough looks in a row have seen the same.
func (s *Stall) stands(acked uint64, queued int) bool {
	if queued > 0 && queued == s.queued && acked == s.acked {
		s.still++
	} else {
		s.still = 0
	}
	s.acked, s.queued = acked, queued
	return s.still == looks
}

// WaitAcked waits until the other side of c has acknowledged everything that was
// written to it, or has taken nothing for idle, or c is closed. A reset that follows
// takes nothing away from it then. On systems other than Linux it does not wait.
func WaitAcked(c net.Conn, idle time.Duration) {
	last, moved := uint64(0), time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		acked, queued := Progress(c)
		if acked != last {
			last, moved = acked, time.Now()
		}
		if queued <= 0 || time.Since(moved) >= idle {
			return
		}
		time.Sleep(pause)
	}
}
