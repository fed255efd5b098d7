package transport

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// SlowAfter is the minimum time without a response after which OnSlow is called. The maximum is 2*SlowAfter, so a
// client that leaves is detected within 0.1 s.
const SlowAfter = 50 * time.Millisecond

// readHead reads the response's head. If no head arrives within SlowAfter to 2*SlowAfter, readSlowHead continues the
// wait. Setting a deadline is expensive, so the first wait may use the deadline that an earlier response has left on
// the connection. If writeFailed is set, readHead waits only once, until the attempt's deadline.
func (t *Transport) readHead(c *Control, q *Request, resp *Response, writeFailed bool) *verdict.Error {
	pc := resp.pc
	began := c.Started
	if !pc.reused {
		began = t.cfg.Now()
	}
	waited := writeFailed || c.Deadline.Sub(began) <= 2*SlowAfter
	if waited {
		pc.setReadDeadline(c, c.Deadline)
	} else if d := pc.readDeadline.Sub(began); d < SlowAfter || d > 2*SlowAfter {
		pc.setReadDeadline(c, began.Add(2*SlowAfter))
	}
	err := resp.readHead(q)
	if err == nil {
		resp.startBody()
		return nil
	}
	verr := newError(stepWait, readError(err))
	if verr.Cause != verdict.NoAnswerInTime || writeFailed || c.hasEnded(t.cfg.Now()) {
		return verr
	}
	if !waited {
		c.callOnSlow()
	}
	return t.readSlowHead(c, q, resp)
}

// readSlowHead reads the response's head until the deadline. If more than Config.MaxPolledWaits attempts are in
// readSlowHead, it takes the connection off the runtime's poller after pollerWait.
func (t *Transport) readSlowHead(c *Control, q *Request, resp *Response) *verdict.Error {
	defer t.slowAttempts.Add(-1)
	now := t.cfg.Now()
	slow := t.slowAttempts.Add(1)
	leavesPoller, leaveAt := slow > int64(t.cfg.MaxPolledWaits), now.Add(pollerWait(slow-t.offPollerAttempts.Load()))
	for {
		next := c.nextDeadline(now)
		if leavesPoller && leaveAt.Before(next) {
			next = leaveAt
		}
		resp.pc.setReadDeadline(c, next)
		err := resp.readHead(q)
		if err == nil {
			resp.startBody()
			return nil
		}
		verr := newError(stepWait, readError(err))
		if now = t.cfg.Now(); verr.Cause != verdict.NoAnswerInTime || c.hasEnded(now) {
			return verr
		}
		if leavesPoller && !now.Before(leaveAt) {
			leavesPoller = false
			if c.OnLongWait != nil {
				c.OnLongWait()
			}
			if err := t.waitOffPoller(c, resp.pc); err != nil {
				return newError(stepWait, err)
			}
			now = t.cfg.Now()
		}
	}
}

const (
	// maxPollerWait is the longest pollerWait. Leaving the poller saves memory (see socket.Conn.LeavePoller) and costs
	// about 30 µs of processor time, which is worth it only for long waits.
	maxPollerWait = 500 * time.Millisecond
	// With maxPolled slow connections in the poller, pollerWait is 0.
	maxPolled = 2048
)

// pollerWait returns the time after which an attempt takes its connection off the poller. The parameter polled is the
// number of slow connections in the poller. The time decreases as this number grows, to limit the memory of the
// runtime's poller.
func pollerWait(polled int64) time.Duration {
	return maxPollerWait / maxPolled * time.Duration(max(maxPolled-polled, 0))
}

// waitOffPoller waits outside of the runtime's poller until a response begins, or the connection or the attempt ends.
// If the connection is not plain TCP, it returns at once.
func (t *Transport) waitOffPoller(c *Control, pc *persistConn) error {
	plain, ok := pc.Conn.(*socket.Conn)
	stop := make(chan struct{}, 1)
	if !ok || !c.Interrupt.beginOffPoller(stop) {
		return nil
	}
	defer c.Interrupt.endOffPoller(plain)
	t.offPollerAttempts.Add(1)
	defer t.offPollerAttempts.Add(-1)
	return plain.AwaitOffPoller(&t.watcher, func() time.Duration {
		now := t.cfg.Now()
		return c.nextDeadline(now).Sub(now)
	}, stop)
}
