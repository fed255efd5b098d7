package transport

import (
	"context"
	"net"
	"sync"
	"time"
)

// Interrupt lets another goroutine end an attempt, because the client has left, the gateway shuts down, or another
// attempt has served the same request. The zero value is ready for use. It is safe for concurrent use and is reused for
// the attempts of a client connection.
type Interrupt struct {
	mu            sync.Mutex         // guards the fields below
	conn          net.Conn           // Cancel and Stop end the reads and writes of this connection
	offPollerStop chan<- struct{}    // receives a value at Cancel and Stop while conn is off the poller; otherwise nil
	cancelDial    context.CancelFunc // called by Stop to end dialing; nil if the attempt does not dial
	endedReadsOf  net.Conn           // the connection that this attempt has passed to endReads; nil for none
	cancelled     bool               // Cancel has been called
	stopped       bool               // Stop has been called, and Resume has not been called since
}

// Cancel ends the attempt in flight. Later attempts end as soon as they begin.
func (i *Interrupt) Cancel() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cancelled = true
	i.endIO()
}

// endIO ends the reads and writes of the connection. It also ends a wait of the connection off the poller. The caller
// holds mu.
func (i *Interrupt) endIO() {
	if i.conn != nil {
		i.conn.SetDeadline(aLongTimeAgo)
	}
	if i.offPollerStop != nil {
		select {
		case i.offPollerStop <- struct{}{}:
		default: // the channel has a value already
		}
	}
}

// Stop ends the attempt in flight, including dialing if Control.MayStop is set. Until the call of Resume, later
// attempts end as soon as they begin.
func (i *Interrupt) Stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
	i.endIO()
	if i.cancelDial != nil {
		i.cancelDial()
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
	if i.cancelDial = cancel; i.stopped && cancel != nil {
		cancel()
	}
}

// stopContext returns a context for dialing that Stop cancels. The caller must call the returned function after
// dialing.
func (c *Control) stopContext(ctx context.Context) (dialing context.Context, end func()) {
	if !c.MayStop {
		return ctx, func() {}
	}
	dialing, cancel := context.WithCancel(ctx)
	c.Interrupt.setDialing(cancel)
	return dialing, func() {
		c.Interrupt.setDialing(nil)
		cancel()
	}
}

// isEnded reports whether the attempt must end: after Cancel, or after Stop without a later Resume. The caller holds
// mu.
func (i *Interrupt) isEnded() bool { return i.cancelled || i.stopped }

// attach sets the connection. From then on, Cancel and Stop end the reads and writes of this connection. The method
// returns false if Cancel or Stop has already been called.
func (i *Interrupt) attach(c net.Conn) bool {
	i.mu.Lock() // without defer, because every attempt calls attach and detach
	i.conn, i.endedReadsOf = c, nil
	ended := i.isEnded()
	i.mu.Unlock()
	return !ended
}

// beginOffPoller is called before the connection leaves the runtime's poller (socket.Conn.AwaitOffPoller). From then
// on, Cancel and Stop send a value to the given channel, which has a capacity of 1. The method returns false if Cancel
// or Stop has already been called.
func (i *Interrupt) beginOffPoller(stop chan<- struct{}) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.isEnded() {
		return false
	}
	i.conn, i.offPollerStop = nil, stop
	return true
}

// endOffPoller sets the connection again after beginOffPoller has removed it. If Cancel or Stop has been called, all
// reads and writes of the connection fail.
func (i *Interrupt) endOffPoller(c net.Conn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conn, i.offPollerStop = c, nil
	if i.isEnded() {
		c.SetDeadline(aLongTimeAgo)
	}
}

// detach removes the connection. It returns false if Cancel or Stop has been called.
func (i *Interrupt) detach() bool {
	i.mu.Lock()
	i.conn, i.endedReadsOf = nil, nil
	ended := i.isEnded()
	i.mu.Unlock()
	return !ended
}

// endReads makes the current read of c and all later reads of this attempt fail. It does nothing if Cancel or Stop has
// been called.
func (i *Interrupt) endReads(c net.Conn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.endedReadsOf = c; !i.isEnded() {
		c.SetReadDeadline(aLongTimeAgo)
	}
}

// The next three methods set deadlines of c, but do nothing if Cancel or Stop has been called. After endReads, the
// deadline of reads stays as it is.

func (i *Interrupt) setReadDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.isEnded() && i.endedReadsOf != c {
		c.SetReadDeadline(t)
	}
}

// setDeadlines sets the deadline of reads and the deadline of writes.
func (i *Interrupt) setDeadlines(c net.Conn, read, write time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.isEnded() {
		if i.endedReadsOf != c {
			c.SetReadDeadline(read)
		}
		c.SetWriteDeadline(write)
	}
}

func (i *Interrupt) setWriteDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.isEnded() {
		c.SetWriteDeadline(t)
	}
}

// aLongTimeAgo is a deadline in the past. It ends reads and writes without a wait.
var aLongTimeAgo = time.Unix(1, 0)

// Ended reports whether Cancel has been called, or Stop without a later Resume.
func (i *Interrupt) Ended() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.isEnded()
}
