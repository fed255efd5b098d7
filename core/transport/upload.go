package transport

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// RequestBodyBroken reports whether the request's body ended before its time on its
// client's side, not because the attempt had failed. It is to be called before
// Finish.
func (r *Response) RequestBodyBroken(q *Request) bool {
	select {
	case err := <-r.sent: // nil, and never ready, without a body being sent
		r.sent, r.half = nil, err != nil
		return q.broken()
	default:
		return false
	}
}

// broken reports whether the request's body ended before its time. Only the
// goroutine that reads Rest may ask.
func (q *Request) broken() bool {
	return q.Rest != nil && q.Rest.Err() != nil && q.Rest.Err() != io.EOF
}

// skip reads on what the proxy no longer takes: many a client reads its answer
// only once it has sent everything.
func (q *Request) skip() {
	for q.Rest != nil {
		q.BeforeRead()
		if _, err := q.Rest.Next(); err != nil {
			return
		}
	}
}

// upload is exchange for a larger body: it sends pc.out, which holds the head and
// with prefixSent the body's Prefix, and then the body while it waits for the
// answer, which may come before the body is through. The time for the answer's
// head begins when the body has ended; until then the body must only not stand
// still.
func (t *Transport) upload(c *Control, q *Request, resp *Response, prefixSent bool) *verdict.Error {
	pc := resp.pc
	if _, err := pc.Write(pc.out); err != nil {
		return t.unsent(c, q, resp, err)
	}
	patience := c.Deadline.Sub(t.cfg.Now())
	if q.Continue != nil {
		if f, final := t.awaitContinue(c, q, resp); f != nil || final {
			return f
		}
	}
	pc.asking = nil
	if pc.late {
		pc.late = false
		c.Interrupt.setWriteDeadline(pc.Conn, time.Time{})
	}
	if q.Rest == nil {
		c.slow() // nobody else would notice that the client leaves
	}
	pc.setReadDeadline(c, c.Total)
	pc.armed = time.Time{} // not for long
	sent := make(chan error, 1)
	resp.sent, resp.stop = sent, q.StopRead
	var mu sync.Mutex
	headless := true // once the head has come, the answer's body has deadlines of its own
	go func() {
		err := sendBody(pc, c, q, prefixSent)
		if q.broken() { // there will be no answer: whoever waits for one is to find out why
			sent <- err
			c.Interrupt.setReadDeadline(pc.Conn, aLongTimeAgo)
			return
		}
		deadline := t.cfg.Now().Add(patience)
		if !c.Total.IsZero() && c.Total.Before(deadline) {
			deadline = c.Total
		}
		if err != nil {
			deadline = t.cfg.Now().Add(time.Second) // an answer may be on its way
		}
		mu.Lock()
		if headless {
			c.Interrupt.setReadDeadline(pc.Conn, deadline)
		}
		mu.Unlock()
		if err != nil {
			q.skip()
		}
		sent <- err
	}()
	err := pc.reader.ReadResponse(&resp.Response, q.Method)
	mu.Lock()
	headless = false
	mu.Unlock()
	if err != nil {
		return fault(waiting, clearer(err))
	}
	resp.begin()
	return nil
}

// awaitContinue waits for what the other side says to a head with an expectation. If
// that is a final answer, the body is not sent, and the connection not kept.
func (t *Transport) awaitContinue(c *Control, q *Request, resp *Response) (f *verdict.Error, final bool) {
	until := t.cfg.Now().Add(ContinueWait)
	if c.Deadline.Before(until) {
		until = c.Deadline
	}
	resp.pc.setReadDeadline(c, until)
	err := resp.pc.reader.ReadContinue(&resp.Response, q.Method)
	switch {
	case err == nil && resp.Status != 100:
		resp.begin()
		resp.keep = false
		return nil, true
	case err != nil:
		if f := fault(waiting, clearer(err)); f.Cause != verdict.NoAnswerInTime || c.Interrupt.Fired() {
			return f, false
		}
	}
	if !q.Continue() {
		f := fault(waiting, errStopped)
		f.Cause = verdict.RequestBroke
		return f, false
	}
	return nil, false
}

// sendBody sends what has not gone with the head.
func sendBody(pc *persistConn, c *Control, q *Request, prefixSent bool) error {
	pc.bodyIdle = c.BodyIdle
	write := func(p []byte) error {
		_, err := pc.Write(p)
		pc.stall.Stop()
		return err
	}
	piece := func(p []byte) error {
		if q.Framing == http1.Chunked {
			pc.out = http1.AppendChunk(pc.out[:0], p)
			p = pc.out
		}
		return write(p)
	}
	if !prefixSent && len(q.Prefix) > 0 {
		if err := piece(q.Prefix); err != nil {
			return err
		}
	}
	plain, _ := pc.Conn.(*socket.Conn)
	for q.Rest != nil {
		q.BeforeRead()
		if left, ok := q.Rest.Unread(); ok && left >= socket.SpliceMin && plain != nil && q.Source != nil {
			n, err := q.Pipes.Move(plain, q.Source, left)
			pc.stall.Stop()
			if w := (*socket.WriteError)(nil); errors.As(err, &w) {
				q.Rest.Took(n, nil)
				return w.Err
			}
			if q.Rest.Took(n, err); err != nil {
				return q.Rest.Err()
			}
			continue
		}
		p, err := q.Rest.Next()
		if q.Rest.Done() && p == nil {
			break
		}
		if err != nil {
			return err
		}
		if err := piece(p); err != nil {
			return err
		}
	}
	if q.Framing == http1.Chunked {
		if err := write([]byte(http1.LastChunk)); err != nil {
			return err
		}
	}
	return nil
}
