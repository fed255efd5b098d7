package gateway

import (
	"net"
	"sync/atomic"
	"time"
)

// readDeadline sets a client connection's read deadline; nothing else may set it. The goroutine that reads
// sets it before each read. Two methods make the pending read return, and may be called from other
// goroutines: drain, when the gateway shuts down and the connection is idle, and stop, when the rest of a
// request's body is not needed any more. They also have an effect if they are called at the same time as set,
// because set checks for them after it has set the deadline.
type readDeadline struct {
	conn     net.Conn
	draining *atomic.Bool // set by the gateway when it drains
	phase    atomic.Int32
	stopped  atomic.Bool
	waiting  atomic.Int64 // start of the wait for a request, in Unix nanoseconds; 0 before the first
	partial  bool         // awaitRest has been called since the last awaitRequest
	idle     time.Time    // the deadline that awaitRequest set; zero if await has set another one after it
}

// The phases of a connection.
const (
	fresh int32 = iota // no request has been read yet
	busy               // a request is in flight
	idle               // the connection waits for the next request, or for the client to close it
)

const (
	// idleTimeout is the time within which a client must begin the next request.
	idleTimeout = 3 * time.Minute
	// idleSlack is the maximum by which the idle timeout may be shorter. Because of it, the deadline of a busy
	// connection is set only once in idleSlack, and not for each request.
	idleSlack = 30 * time.Second
)

// aLongTimeAgo is a deadline that ends a blocked read or write at once.
var aLongTimeAgo = time.Unix(1, 0)

// awaitRequest sets the deadline for the next request's head. It returns false if the gateway
// drains, so that no further request is served.
func (d *readDeadline) awaitRequest(now time.Time) bool {
	d.waiting.Store(now.UnixNano())
	d.partial = false
	if until := now.Add(idleTimeout); until.Sub(d.idle) > idleSlack {
		d.idle = until
		d.set(until)
	}
	return !d.draining.Load()
}

// awaitRest sets the deadline for the rest of a head of which a part has been read. Only the first call
// for each head has an effect, so that a client cannot extend the time by sending byte by byte.
func (d *readDeadline) awaitRest(until time.Time) {
	if !d.partial {
		d.partial = true
		d.await(until)
	}
}

// await sets the deadline for all other reads; the zero time means none.
func (d *readDeadline) await(until time.Time) {
	d.idle = time.Time{}
	d.set(until)
}

// set sets the deadline. Unlike await it may be called from any goroutine.
func (d *readDeadline) set(until time.Time) {
	d.conn.SetReadDeadline(until)
	if d.stopped.Load() || d.phase.Load() != busy && d.draining.Load() {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// enter changes the phase. If the gateway drains, an idle connection is closed by its next read.
func (d *readDeadline) enter(phase int32) { d.phase.Store(phase) }

// drain makes the pending read return if no request is in flight. The gateway sets draining before
// it calls drain.
func (d *readDeadline) drain() {
	if d.phase.Load() != busy {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// stop makes the pending read of a request's body return, and each later one, until resume is
// called.
func (d *readDeadline) stop() {
	d.stopped.Store(true)
	d.conn.SetReadDeadline(aLongTimeAgo)
}

// resume ends the effect of stop.
func (d *readDeadline) resume() {
	d.idle = time.Time{}
	d.stopped.Store(false)
}

// interrupt makes another goroutine's pending read return. The next await sets a new deadline.
func (d *readDeadline) interrupt() { d.conn.SetReadDeadline(aLongTimeAgo) }
