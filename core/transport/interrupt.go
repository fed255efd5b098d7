package transport

import (
	"context"
	"net"
	"sync"
	"time"
)

// Interrupt ends an attempt from another goroutine: the client has left, the gateway shuts down, or another attempt
// of the same request has been served. The zero value is ready for use. It is safe for concurrent use and is reused
// for the attempts of a client connection.
type Interrupt struct {
	mu      sync.Mutex
	conn    net.Conn           // Fire and Stop end the reads and writes of this connection
	dialing context.CancelFunc // called by Stop to end dialing; nil if the attempt does not dial
	fired   bool               // Fire has been called
	stopped bool               // Stop has been called
}

// Fire ends the attempt in flight. Later attempts end as soon as they begin.
func (i *Interrupt) Fire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fired = true
	if i.conn != nil {
		i.conn.SetDeadline(aLongTimeAgo)
	}
}

// Stop ends the attempt in flight, including dialing if Control.Stoppable is set. Until Resume, later
// attempts end as soon as they begin.
func (i *Interrupt) Stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
	if i.conn != nil {
		i.conn.SetDeadline(aLongTimeAgo)
	}
	if i.dialing != nil {
		i.dialing()
	}
}

// Resume ends the effect of Stop.
func (i *Interrupt) Resume() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = false
}

// setDialing sets the function with which Stop ends dialing. If Stop has already been called, setDialing
// calls the function.
func (i *Interrupt) setDialing(cancel context.CancelFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.dialing = cancel; i.stopped && cancel != nil {
		cancel()
	}
}

// stoppable returns a context for dialing that Stop cancels. The caller must call end after dialing.
func (c *Control) stoppable(ctx context.Context) (dialing context.Context, end func()) {
	if !c.Stoppable {
		return ctx, func() {}
	}
	dialing, cancel := context.WithCancel(ctx)
	c.Interrupt.setDialing(cancel)
	return dialing, func() {
		c.Interrupt.setDialing(nil)
		cancel()
	}
}

// ended reports whether Fire or Stop has been called. The caller holds mu.
func (i *Interrupt) ended() bool { return i.fired || i.stopped }

// attach sets the connection whose reads and writes Fire and Stop end. It returns false if one of
// them has already been called.
func (i *Interrupt) attach(c net.Conn) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conn = c
	return !i.ended()
}

// detach removes the connection. It returns false if Fire or Stop has been called.
func (i *Interrupt) detach() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conn = nil
	return !i.ended()
}

// The next three methods set deadlines of c, but do nothing if Fire or Stop has been called.

func (i *Interrupt) setReadDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ended() {
		c.SetReadDeadline(t)
	}
}

func (i *Interrupt) setDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ended() {
		c.SetDeadline(t)
	}
}

func (i *Interrupt) setWriteDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ended() {
		c.SetWriteDeadline(t)
	}
}

// aLongTimeAgo is a deadline that ends reads and writes at once.
var aLongTimeAgo = time.Unix(1, 0)

// Fired reports whether Fire has been called, or Stop without Resume.
func (i *Interrupt) Fired() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ended()
}
