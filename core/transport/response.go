package transport

import (
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// Response is a response whose head has been read and whose body has not. The caller must call Finish.
type Response struct {
	http1.Response
	Body http1.Body
	Facts

	t      *Transport
	pool   *idlePool
	pc     *persistConn
	stream *stream // the connection of a response over HTTP/2; otherwise nil

	reusable        bool       // the response permits another request on the connection
	uploadDone      chan error // receives the result of sending the request's body; nil if it is not being sent
	uploadFailed    bool       // sending the request's body has ended early
	stopReadingBody func()
	notReceived     bool // the proxy has received no part of the request
}

// init prepares r for the response of an attempt on pc. It assigns the fields one by one, because a composite literal
// with these values would be copied on the stack.
func (r *Response) init(t *Transport, pool *idlePool, pc *persistConn) {
	fields := r.Fields[:0]
	*r = Response{}
	r.Fields, r.t, r.pool, r.pc = fields, t, pool, pc
}

// startBody prepares r to read the body.
func (r *Response) startBody() {
	r.Body.Start(&r.pc.reader, r.Framing, r.Length)
	r.Body.KeepTrailers(r.Fields)
	r.reusable = !r.Response.Close && r.Status != http.StatusSwitchingProtocols
}

// Adopt moves a response from another Response to r, and leaves the other Response empty. The Control of the attempt
// that has received the response (old) is replaced by the Control c, which gets the same deadline.
func (r *Response) Adopt(from *Response, old, c *Control) {
	old.Interrupt.detach()
	c.Deadline, c.CurrentDeadline = old.Deadline, nil
	*r = *from
	*from = Response{}
	if r.pc == nil {
		return
	}
	if r.pc.control != nil {
		r.pc.control = c
	}
	if !c.Interrupt.attach(r.pc.Conn) {
		r.pc.SetDeadline(aLongTimeAgo)
	}
}

// Conn returns the connection that the body is read from.
func (r *Response) Conn() net.Conn { return r.pc.Conn }

// SetReadDeadline sets the deadline for the next read of the body.
func (r *Response) SetReadDeadline(c *Control, deadline time.Time) {
	r.pc.setReadDeadline(c, deadline)
}

// peekWait is the longest wait of Peek for the beginning of a body.
const peekWait = 100 * time.Millisecond

// Peek appends the first n bytes of the body to dst without consuming them. It appends fewer bytes if the body is
// shorter, or if the bytes do not arrive within peekWait. Peek also reports whether the appended bytes are the whole
// body.
func (r *Response) Peek(c *Control, dst []byte, n int) (_ []byte, whole bool) {
	before, waits := len(dst), false
	for {
		if dst, whole = r.Body.Peek(dst[:before], n); whole || len(dst)-before >= n || r.Body.Err() != nil {
			break
		}
		if !waits {
			waits = true
			until := r.t.cfg.Now().Add(peekWait)
			if c.Deadline.Before(until) {
				until = c.Deadline
			}
			r.pc.setReadDeadline(c, until)
		}
		reader := &r.pc.reader
		have := len(reader.Buffered())
		if err := reader.ReadAhead(); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				reader.Fail(err)
			}
			break
		}
		if len(reader.Buffered()) == have {
			break // the buffer is full
		}
	}
	if waits {
		r.pc.setReadDeadline(c, c.Deadline)
	}
	return dst, whole
}

// The limits of Drain: the number of bytes that it reads, and the time that it waits.
const (
	maxDrain  = 64 << 10
	drainWait = 100 * time.Millisecond
)

// Drain reads the remaining body if it is short, so that the connection can be reused. It reports whether it has read
// the whole body.
func (r *Response) Drain(c *Control) bool {
	for r.Body.Remaining() <= maxDrain {
		if p, _ := r.Body.NextBuffered(); p != nil {
			continue // usually the rest has already arrived, so no deadline is needed
		}
		if r.Body.Done() {
			return true
		}
		r.SetReadDeadline(c, r.t.cfg.Now().Add(drainWait))
		return r.Body.Drain(maxDrain)
	}
	return false
}

// Finish ends the attempt. If the response has been read completely and permits reuse, the connection becomes idle;
// otherwise it is closed. The result reports whether the whole request body was sent.
func (r *Response) Finish(c *Control, now time.Time) (sentAll bool) {
	if r.pc == nil {
		return true
	}
	pc := r.pc
	r.pc = nil
	sentAll = !r.uploadFailed
	if r.uploadDone != nil {
		select {
		case err := <-r.uploadDone:
			r.uploadDone, sentAll = nil, err == nil
		default: // the response arrived before the whole request body was sent
			sentAll = false
		}
	}
	keep := c.Interrupt.detach() && r.reusable && r.Body.Done() && sentAll && pc.hasNoExtraBytes()
	if keep {
		r.pool.put(pc, now)
		return sentAll
	}
	closeNow(pc.Conn)
	r.stopUpload()
	return sentAll
}

// stopUpload stops the upload of the request's body, and waits until the upload has ended.
func (r *Response) stopUpload() {
	if r.uploadDone == nil {
		return
	}
	if r.stopReadingBody != nil {
		r.stopReadingBody()
	}
	<-r.uploadDone
	r.uploadDone = nil
}
