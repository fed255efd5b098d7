package socket

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Stall ends a write if the peer has stopped reading, but not if the peer still reads, even very slowly. A write
// deadline cannot distinguish the two cases, because the kernel wakes a writer only when a third of its buffer is
// free. Also, a deadline during splice(2) would lose the bytes in the pipe. The zero value is ready for use.
//
// Systems other than Linux do not report what the peer has received. There, a Stall is a write deadline.
type Stall struct {
	// MayStall, if not nil, is called at each check. As long as it returns true, the write is not ended. It is called
	// on a goroutine of the Stall.
	MayStall func() bool

	// MinRate is the minimum number of bytes per second that the peer must acknowledge; 0 for no limit. It applies to
	// a write only after Grace.
	MinRate int64
	Grace   time.Duration

	conn net.Conn
	idle time.Duration

	mu         sync.Mutex // guards the fields below
	timer      *time.Timer
	running    atomic.Bool // changed by Start and Stop only, under mu
	acked      uint64      // bytes acknowledged at the last check
	queued     int
	unchanged  int    // number of successive checks without progress
	rateChecks int    // number of checks since rateStart was set; 0 if it is not set
	rateStart  uint64 // bytes acknowledged at the check at which the measurement of the rate began
	ended      bool   // the write has been ended by a write deadline, which the connection still has
}

// checksPerIdle is the number of checks of a write within its idle time (see Start). A write without progress may last
// longer than the idle time, by the time between two checks: an eighth of the idle time.
const checksPerIdle = 8

// Start begins to check a write to conn. If the write makes no progress for the given idle time, it fails with
// os.ErrDeadlineExceeded. A second Start before Stop has no effect. Start is meant to be called from
// Conn.OnWriteBlocked.
func (s *Stall) Start(conn net.Conn, idle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running.Load() {
		return
	}
	if !progressVisible {
		if s.MayStall != nil {
			return
		}
		s.conn, s.ended = conn, true
		s.running.Store(true)
		conn.SetWriteDeadline(time.Now().Add(idle))
		return
	}
	s.running.Store(true)
	s.conn, s.idle, s.queued, s.unchanged, s.rateChecks = conn, idle, 0, 0, 0
	if s.timer == nil {
		s.timer = time.AfterFunc(idle/checksPerIdle, s.check)
	} else {
		s.timer.Reset(idle / checksPerIdle)
	}
}

// Stop ends the checks. A check may have set a deadline, although the write then succeeded. Stop removes this
// deadline, so that the next write does not fail. Only the goroutine that writes may call Stop.
func (s *Stall) Stop() {
	if !s.running.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running.Store(false)
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.ended {
		s.ended = false
		s.conn.SetWriteDeadline(time.Time{})
	}
}

// check ends the write if it has made no progress for the idle time, or is slower than MinRate.
func (s *Stall) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running.Load() {
		return
	}
	acked, queued := Progress(s.conn)
	switch {
	case queued < 0:
		return // the connection was closed without Stop, for example by TLS
	case s.MayStall != nil && s.MayStall():
		s.unchanged, s.rateChecks = 0, 0
	case s.isStalled(acked, queued) || s.isTooSlow(acked):
		s.ended = true
		s.conn.SetWriteDeadline(time.Unix(1, 0))
		return
	}
	s.timer.Reset(s.idle / checksPerIdle)
}

// isStalled reports whether this check and the checks before it have found no progress for the idle time.
func (s *Stall) isStalled(acked uint64, queued int) bool {
	if queued > 0 && queued == s.queued && acked == s.acked {
		s.unchanged++
	} else {
		s.unchanged = 0
	}
	s.acked, s.queued = acked, queued
	return s.unchanged == checksPerIdle
}

// isTooSlow reports whether the peer has acknowledged fewer than MinRate bytes per second. While the peer acknowledges
// nothing, it returns false, because isStalled limits such a pause. After the pause, the rate includes the time of the
// pause.
func (s *Stall) isTooSlow(acked uint64) bool {
	if s.rateChecks == 0 {
		s.rateStart = acked
	}
	passed := time.Duration(s.rateChecks) * (s.idle / checksPerIdle)
	s.rateChecks++
	return s.MinRate > 0 && s.unchanged == 0 && passed >= s.Grace &&
		float64(acked-s.rateStart) < float64(s.MinRate)*passed.Seconds()
}

// WaitAcked waits until the peer of c has acknowledged all bytes that were written. It also returns if the peer has
// acknowledged nothing for the given idle time, or if c is closed. When all bytes are acknowledged, a reset cannot
// destroy bytes on their way to the peer. On systems other than Linux WaitAcked does not wait.
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
