package socket

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Stall watches over a write that has to wait: one that the other side takes
// nothing of for a time is ended, and one that it takes little by little is
// not. A deadline could not tell them apart: the kernel wakes a writer only when
// a third of its buffer is free, and what its own copy (splice) holds when that
// is called off is lost. The zero value is ready.
//
// Elsewhere than on Linux, where nobody can see what the other side takes, it is
// that deadline.
type Stall struct {
	// While, if not nil, lets the write stand still until the other side of that
	// connection has left.
	While net.Conn

	conn net.Conn
	idle time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	on     atomic.Bool // changed by Start and Stop only, under mu
	acked  uint64      // at the last look
	queued int
	still  int // looks in a row that saw no progress
}

// looks is how often it looks in that time, which may thus be an eighth longer.
const looks = 8

// Start begins to watch conn's write, which is ended with os.ErrDeadlineExceeded
// when it has stood still for idle; a second Start does nothing. It is for
// Conn.Full.
func (s *Stall) Start(conn net.Conn, idle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on.Load() {
		return
	}
	if !seen {
		if s.While != nil {
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

// Stop ends the watch; without one it does nothing, nor does a nil Stall's. It is
// for the goroutine that writes.
func (s *Stall) Stop() {
	if s == nil || !s.on.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on.Store(false)
	s.timer.Stop()
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
	case s.While != nil && !Left(s.While):
		s.still = 0
	case s.stands(acked, queued):
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
