package transport

import (
	"errors"
	"net"
	"os"
	"time"
)

// recheckEvery is how often a wait for a response looks whether its deadline has moved.
const recheckEvery = 100 * time.Millisecond

// nextDeadline sets Deadline to NewDeadline and returns until when to wait for a response
// before the deadline is looked at again.
func (c *Control) nextDeadline(now time.Time) time.Time {
	if c.NewDeadline == nil {
		return c.Deadline
	}
	c.Deadline = c.NewDeadline()
	if next := now.Add(recheckEvery); next.Before(c.Deadline) {
		return next
	}
	return c.Deadline
}

// ended reports whether a wait for a response is over: its deadline has passed, or the
// attempt was interrupted.
func (c *Control) ended(now time.Time) bool { return c.Interrupt.Fired() || !now.Before(c.Deadline) }

// recheckedConn is a connection whose reads follow the attempt's deadline when that moves.
type recheckedConn struct {
	net.Conn
	t *Transport
	c *Control
}

func (r *recheckedConn) Read(p []byte) (int, error) {
	for {
		n, err := r.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || r.c.ended(r.t.cfg.Now()) {
			return n, err
		}
		r.c.Interrupt.setDeadline(r.Conn, r.c.nextDeadline(r.t.cfg.Now()))
	}
}
