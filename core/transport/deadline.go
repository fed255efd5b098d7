package transport

import (
	"errors"
	"net"
	"os"
	"time"
)

// recheckEvery is the time between two calls of Control.CurrentDeadline during a wait for a response.
const recheckEvery = 100 * time.Millisecond

// nextDeadline returns the deadline of the next read. If CurrentDeadline is set, nextDeadline first sets Deadline to
// its result, and the next read lasts at most recheckEvery. After a read that ended before Deadline, the caller calls
// nextDeadline again and repeats the read.
func (c *Control) nextDeadline(now time.Time) time.Time {
	if c.CurrentDeadline == nil {
		return c.Deadline
	}
	c.Deadline = c.CurrentDeadline()
	if next := now.Add(recheckEvery); next.Before(c.Deadline) {
		return next
	}
	return c.Deadline
}

// setDeadlines sets the read deadline of conn to the given time, and its write deadline to c.Deadline. After the read
// deadline the caller repeats the read, but it never repeats a write. On a busy machine, a write may begin after the
// read deadline, so writes need the later deadline.
func (c *Control) setDeadlines(conn net.Conn, until time.Time) {
	c.Interrupt.setDeadlines(conn, until, c.Deadline)
}

// hasEnded reports whether the deadline has passed or Interrupt has fired.
func (c *Control) hasEnded(now time.Time) bool { return c.Interrupt.Ended() || !now.Before(c.Deadline) }

// recheckedConn is a connection whose read deadline may change during a Read. During a wait, Read calls
// Control.CurrentDeadline repeatedly.
type recheckedConn struct {
	net.Conn
	transport *Transport
	control   *Control
}

// Read implements io.Reader.
func (r *recheckedConn) Read(p []byte) (int, error) {
	for {
		n, err := r.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || r.control.hasEnded(r.transport.cfg.Now()) {
			return n, err
		}
		r.control.setDeadlines(r.Conn, r.control.nextDeadline(r.transport.cfg.Now()))
	}
}
