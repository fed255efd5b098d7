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

// RequestBodyBroken reports whether the request body from the client ended early, for a reason other than the failure
// of the attempt. It must be called before Finish.
func (r *Response) RequestBodyBroken(q *Request) bool {
	select {
	case err := <-r.uploadDone: // nil if no body is being sent
		r.uploadDone, r.uploadFailed = nil, err != nil
		return q.isBroken()
	default:
		return false
	}
}

// isBroken reports whether the request's body ended early. Only the goroutine that reads Remainder may call it.
func (r *Request) isBroken() bool {
	return r.Remainder != nil && r.Remainder.Err() != nil && r.Remainder.Err() != io.EOF
}

// discardRemainder reads the part of the body that the proxy does not read. This is necessary because many clients read
// the response only when they have sent the whole body.
func (r *Request) discardRemainder() {
	for r.Remainder != nil {
		r.BeforeRead()
		p, err := r.Remainder.Next()
		r.notifyRead(int64(len(p)))
		if err != nil {
			return
		}
	}
}

// upload sends a request whose body does not fit into one write with the head, and reads the response's head at the
// same time. It first writes pc.requestBytes: the head and, if prefixSent is set, the body's Prefix. The attempt
// timeout starts when the body has been sent.
func (t *Transport) upload(c *Control, q *Request, resp *Response, prefixSent bool) *verdict.Error {
	pc := resp.pc
	if _, err := pc.Write(pc.requestBytes); err != nil {
		return t.writeFailed(c, q, resp, err)
	}
	headTimeout := c.Deadline.Sub(t.cfg.Now())
	if q.SendContinue != nil {
		if verr, final := t.awaitContinue(c, q, resp); verr != nil || final {
			return verr
		}
	}
	pc.control = nil
	if pc.writeBlocked {
		pc.writeBlocked = false
		c.Interrupt.setWriteDeadline(pc.Conn, time.Time{})
	}
	if q.Remainder == nil {
		c.callOnSlow() // nothing is read from the client at present, so the caller must watch the client connection
	}
	pc.setReadDeadline(c, c.RequestDeadline)
	pc.readDeadline = time.Time{} // not valid, because runUpload changes the deadline
	done := make(chan error, 1)
	resp.uploadDone, resp.stopReadingBody = done, q.StopRead
	head := &headWait{pc: pc, c: c}
	go func() { t.runUpload(c, q, head, prefixSent, headTimeout, done) }()
	err := resp.readHead(q)
	head.endWait()
	if err != nil {
		return newError(stepWait, readError(err))
	}
	resp.startBody()
	return nil
}

// runUpload sends the rest of the request's body, then sets the deadline for the response's head, and sends the result
// to the channel done.
func (t *Transport) runUpload(c *Control, q *Request, head *headWait, prefixSent bool, headTimeout time.Duration,
	done chan<- error) {
	err := sendBody(head.pc, c, q, prefixSent)
	if q.isBroken() { // nothing more is needed from the proxy: end the wait for the head or the body of the response
		done <- err
		c.Interrupt.endReads(head.pc.Conn)
		return
	}
	deadline := t.cfg.Now().Add(headTimeout)
	if !c.RequestDeadline.IsZero() && c.RequestDeadline.Before(deadline) {
		deadline = c.RequestDeadline
	}
	if err != nil {
		deadline = t.cfg.Now().Add(time.Second) // the proxy may have sent a response before the error
	}
	head.setDeadline(deadline)
	if err != nil {
		q.discardRemainder()
	}
	done <- err
}

// headWait holds the read deadline for a response's head while the request's body is being sent.
type headWait struct {
	pc *persistConn
	c  *Control

	mu    sync.Mutex // guards ended
	ended bool
}

// setDeadline sets the read deadline. It has no effect after endWait, because the response's body has its own
// deadlines.
func (h *headWait) setDeadline(deadline time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.c.Interrupt.setReadDeadline(h.pc.Conn, deadline)
	}
}

func (h *headWait) endWait() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
}

// awaitContinue waits for the response to a head with Expect: 100-continue. If the response is final, awaitContinue
// returns true. The body is then not sent, and the connection is not reused.
func (t *Transport) awaitContinue(c *Control, q *Request, resp *Response) (verr *verdict.Error, final bool) {
	until := t.cfg.Now().Add(ContinueWait)
	if c.Deadline.Before(until) {
		until = c.Deadline
	}
	resp.pc.setReadDeadline(c, until)
	err := resp.pc.reader.ReadContinue(&resp.Response, q.Method)
	switch {
	case err == nil && resp.Status != 100:
		resp.startBody()
		resp.reusable = false
		return nil, true
	case err != nil:
		if verr := newError(stepWait, readError(err)); verr.Cause != verdict.NoAnswerInTime || c.Interrupt.Ended() {
			return verr, false
		}
	}
	if !q.SendContinue() {
		verr := newError(stepWait, errCancelled)
		verr.Cause = verdict.RequestBroke
		return verr, false
	}
	return nil, false
}

// sendBody sends the part of the body that was not sent with the head.
func sendBody(pc *persistConn, c *Control, q *Request, prefixSent bool) error {
	pc.bodyIdle = c.BodyIdle
	write := func(p []byte) error {
		_, err := pc.Write(p)
		pc.stall.Stop()
		return err
	}
	piece := func(p []byte) error {
		if q.Framing == http1.Chunked {
			pc.requestBytes = http1.AppendChunk(pc.requestBytes[:0], p)
			p = pc.requestBytes
		}
		return write(p)
	}
	for _, p := range q.Prefix {
		if prefixSent {
			break
		}
		if err := piece(p); err != nil {
			return err
		}
	}
	for q.Remainder != nil {
		q.BeforeRead()
		moved, err := moveBody(pc, q)
		if err != nil {
			return err
		}
		if moved {
			continue
		}
		p, err := q.Remainder.Next()
		q.notifyRead(int64(len(p)))
		if q.Remainder.Done() && p == nil {
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
		pc.requestBytes = http1.AppendLastChunk(pc.requestBytes[:0], q.trailers())
		if err := write(pc.requestBytes); err != nil {
			return err
		}
	}
	return nil
}

// moveBody moves a part of the body inside the kernel if the rest of the body is large (socket.SpliceMin) and both
// connections are plain TCP. Otherwise it returns false.
func moveBody(pc *persistConn, q *Request) (moved bool, err error) {
	plain, isPlain := pc.Conn.(*socket.Conn)
	left, known := q.Remainder.DirectlyReadable()
	if !isPlain || q.Source == nil || !known || left < socket.SpliceMin {
		return false, nil
	}
	pc.uploadRequest = q
	n, err := q.Pipes.Move(plain, q.Source, left)
	pc.uploadRequest = nil
	pc.stall.Stop()
	q.notifyRead(n)
	if w := (*socket.WriteError)(nil); errors.As(err, &w) {
		q.Remainder.RecordRead(n, nil)
		return true, w.Err
	}
	if q.Remainder.RecordRead(n, err); err != nil {
		return true, q.Remainder.Err()
	}
	return true, nil
}
