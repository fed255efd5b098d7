package gateway

import (
	"net"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// stall watches over the writes of an answer that streams: a client that takes
// nothing for as long as a body may stand still counts as gone, and one that
// takes little by little does not. A deadline could not tell them apart: the
// kernel wakes a writer only when a third of its buffer is free, and what its
// own copy (splice) holds when that is called off is lost.
type stall struct {
	conn net.Conn
	idle time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	on     bool
	over   bool   // it has ended a write
	acked  uint64 // at the last look
	queued int
}

// start begins to watch; a second start does nothing.
func (s *stall) start(conn net.Conn, idle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on {
		return
	}
	s.on, s.conn, s.idle, s.queued = true, conn, idle, 0
	if s.timer == nil {
		s.timer = time.AfterFunc(idle, s.look)
	} else {
		s.timer.Reset(idle)
	}
}

func (s *stall) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on {
		s.on = false
		s.timer.Stop()
	}
}

// gone reports whether the client has been given up.
func (s *stall) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// look ends a write that has not moved since the last look.
func (s *stall) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on {
		return
	}
	acked, queued := socket.Progress(s.conn)
	if queued > 0 && queued == s.queued && acked == s.acked {
		s.over = true
		s.conn.SetWriteDeadline(aLongTimeAgo)
		return
	}
	s.acked, s.queued = acked, queued
	s.timer.Reset(s.idle)
}
