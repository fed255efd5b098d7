package transport

import (
	"errors"
	"net"
	"os"
	"time"
)

// recheckEvery is the time between two calls of Control.CurrentDeadline during a wait for a response.
const recheckEvery = 100 * time.Millisecond

// nextDeadline sets Deadline to the result of CurrentDeadline. It returns the deadline of the next read. If the
// returned deadline is earlier than Deadline, nextDeadline must be called again after the read.
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

// setDeadlines sets the deadlines of conn. Reads end at the time until, writes at c.Deadline. The caller repeats a read
// that ends at its deadline, but not a write. On a busy machine a write may begin after the time until, so writes need
// the later deadline.
func (c *Control) setDeadlines(conn net.Conn, until time.Time) {
	c.Interrupt.setDeadlines(conn, until, c.Deadline)
}

// hasEnded reports whether the deadline has passed or Interrupt has fired.
func (c *Control) hasEnded(now time.Time) bool { return c.Interrupt.Ended() || !now.Before(c.Deadline) }

// recheckedConn is a connection whose reads end at the deadline of Control.CurrentDeadline. During the wait it calls
// CurrentDeadline again.
type recheckedConn struct {
	net.Conn
	t *Transport
	c *Control
}

// Read implements io.Reader.
func (r *recheckedConn) Read(p []byte) (int, error) {
	for {
		n, err := r.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || r.c.hasEnded(r.t.cfg.Now()) {
			return n, err
		}
		r.c.setDeadlines(r.Conn, r.c.nextDeadline(r.t.cfg.Now()))
	}
}
