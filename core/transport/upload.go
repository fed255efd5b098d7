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
	case err := <-r.sendDone: // sendDone is nil if no body is being sent
		r.sendDone, r.partlySent = nil, err != nil
		return q.broken()
	default:
		return false
	}
}

// broken reports whether the request's body ended early. Only the goroutine that reads Rest may call it.
func (r *Request) broken() bool {
	return r.Rest != nil && r.Rest.Err() != nil && r.Rest.Err() != io.EOF
}

// discardRest reads the part of the body that the proxy does not read. This is necessary because many clients read
// the response only when they have sent the whole body.
func (r *Request) discardRest() {
	for r.Rest != nil {
		r.BeforeRead()
		p, err := r.Rest.Next()
		r.arrived(int64(len(p)))
		if err != nil {
			return
		}
	}
}

// upload sends a request whose body is not short (Request.inline) or has Rest. It writes pc.out, which holds the head
// and, if prefixSent is set, the body's Prefix. Then it sends the rest of the body. At the same time it reads the
// response's head, because the response may arrive before the body has been sent. The attempt timeout starts when the
// body has been sent. Until then, only the lack of progress and the total timeout end the attempt.
func (t *Transport) upload(c *Control, q *Request, resp *Response, prefixSent bool) *verdict.Error {
	pc := resp.pc
	if _, err := pc.Write(pc.out); err != nil {
		return t.writeFailed(c, q, resp, err)
	}
	headTimeout := c.Deadline.Sub(t.cfg.Now())
	if q.Continue != nil {
		if verr, final := t.awaitContinue(c, q, resp); verr != nil || final {
			return verr
		}
	}
	pc.control = nil
	if pc.slowWrite {
		pc.slowWrite = false
		c.Interrupt.setWriteDeadline(pc.Conn, time.Time{})
	}
	if q.Rest == nil {
		c.callOnSlow() // nothing is read from the client at present, so the caller must watch the client connection
	}
	pc.setReadDeadline(c, c.Total)
	pc.readDeadline = time.Time{} // the field is not valid, because sendRest changes the deadline
	done := make(chan error, 1)
	resp.sendDone, resp.stopSend = done, q.StopRead
	head := &headWait{pc: pc, c: c}
	go func() { t.sendRest(c, q, head, prefixSent, headTimeout, done) }()
	err := resp.readHead(q)
	head.end()
	if err != nil {
		return newError(waiting, readError(err))
	}
	resp.begin()
	return nil
}

// sendRest sends the rest of the request's body and sends the result to the channel done. It sets the deadline for
// the head of the response: headTimeout after the body has been sent.
func (t *Transport) sendRest(c *Control, q *Request, head *headWait, prefixSent bool, headTimeout time.Duration,
	done chan<- error) {
	err := sendBody(head.pc, c, q, prefixSent)
	if q.broken() { // nothing more is needed from the proxy: end the wait for the head or the body of the response
		done <- err
		c.Interrupt.endReads(head.pc.Conn)
		return
	}
	deadline := t.cfg.Now().Add(headTimeout)
	if !c.Total.IsZero() && c.Total.Before(deadline) {
		deadline = c.Total
	}
	if err != nil {
		deadline = t.cfg.Now().Add(time.Second) // the proxy may have sent a response before the error
	}
	head.setDeadline(deadline)
	if err != nil {
		q.discardRest()
	}
	done <- err
}

// headWait holds the read deadline for a response's head while the request's body is being sent.
type headWait struct {
	pc *persistConn
	c  *Control

	mu    sync.Mutex
	ended bool
}

// setDeadline sets the deadline of the wait. After the call of end, it has no effect, because the response's body has
// its own deadlines.
func (h *headWait) setDeadline(deadline time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.c.Interrupt.setReadDeadline(h.pc.Conn, deadline)
	}
}

// end ends the wait.
func (h *headWait) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
}

// awaitContinue waits for the response to a head with Expect: 100-continue. The result final reports whether the
// response is final. If so, the body is not sent, and the connection is not reused.
func (t *Transport) awaitContinue(c *Control, q *Request, resp *Response) (verr *verdict.Error, final bool) {
	until := t.cfg.Now().Add(ContinueWait)
	if c.Deadline.Before(until) {
		until = c.Deadline
	}
	resp.pc.setReadDeadline(c, until)
	err := resp.pc.reader.ReadContinue(&resp.Response, q.Method)
	switch {
	case err == nil && resp.Status != 100:
		resp.begin()
		resp.reusable = false
		return nil, true
	case err != nil:
		if verr := newError(waiting, readError(err)); verr.Cause != verdict.NoAnswerInTime || c.Interrupt.Fired() {
			return verr, false
		}
	}
	if !q.Continue() {
		verr := newError(waiting, errCancelled)
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
			pc.out = http1.AppendChunk(pc.out[:0], p)
			p = pc.out
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
	for q.Rest != nil {
		q.BeforeRead()
		moved, err := moveBody(pc, q)
		if err != nil {
			return err
		}
		if moved {
			continue
		}
		p, err := q.Rest.Next()
		q.arrived(int64(len(p)))
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
		pc.out = http1.AppendLastChunk(pc.out[:0], q.trailers())
		if err := write(pc.out); err != nil {
			return err
		}
	}
	return nil
}

// moveBody moves a part of the body inside the kernel if the rest of the body is large (socket.SpliceMin) and both
// connections are plain TCP. Otherwise it returns false.
func moveBody(pc *persistConn, q *Request) (moved bool, err error) {
	plain, isPlain := pc.Conn.(*socket.Conn)
	left, known := q.Rest.Unread()
	if !isPlain || q.Source == nil || !known || left < socket.SpliceMin {
		return false, nil
	}
	pc.uploading = q
	n, err := q.Pipes.Move(plain, q.Source, left)
	pc.uploading = nil
	pc.stall.Stop()
	q.arrived(n)
	if w := (*socket.WriteError)(nil); errors.As(err, &w) {
		q.Rest.Took(n, nil)
		return true, w.Err
	}
	if q.Rest.Took(n, err); err != nil {
		return true, q.Rest.Err()
	}
	return true, nil
}
