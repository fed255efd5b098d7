package gateway

import (
	"net"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// stall watches over a write that has to wait: a client that takes nothing for
// as long as a body may stand still counts as gone, and one that takes little
// by little does not. A deadline could not tell them apart: the kernel wakes a
// writer only when a third of its buffer is free, and what its own copy
// (splice) holds when that is called off is lost.
type stall struct {
	conn net.Conn
	idle time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	on     bool   // changed by start and stop only
	acked  uint64 // at the last look
	queued int
	still  int // looks in a row that saw no progress
}

// looks is how often it looks in the time that a body may stand still. A client
// is given up when it has taken nothing for that time; it may be an eighth
// longer.
const looks = 8

// start begins to watch; a second start does nothing.
func (s *stall) start(conn net.Conn, idle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on {
		return
	}
	s.on, s.conn, s.idle, s.queued, s.still = true, conn, idle, 0, 0
	if s.timer == nil {
		s.timer = time.AfterFunc(idle/looks, s.look)
	} else {
		s.timer.Reset(idle / looks)
	}
}

// stop ends the watch; without one it does nothing. It is for the goroutine that
// starts.
func (s *stall) stop() {
	if !s.on {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = false
	s.timer.Stop()
}

// look ends a write that has not moved for long enough.
func (s *stall) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on {
		return
	}
	if s.stands(socket.Progress(s.conn)) {
		s.conn.SetWriteDeadline(aLongTimeAgo)
		return
	}
	s.timer.Reset(s.idle / looks)
}

// stands reports whether enough looks in a row have seen the same.
func (s *stall) stands(acked uint64, queued int) bool {
	if queued > 0 && queued == s.queued && acked == s.acked {
		s.still++
	} else {
		s.still = 0
	}
	s.acked, s.queued = acked, queued
	return s.still == looks
}
