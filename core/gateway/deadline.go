package gateway

import (
	"net"
	"sync/atomic"
	"time"
)

// readDeadline is the only owner of a client connection's read deadline. The goroutine
// that reads sets it for each wait; two others may end a wait: drain, when the gateway
// stops and the connection is idle, and stop, when the rest of a request's body is of
// no use any more. A wait that one of them has ended stays ended, whatever order the
// calls come in: each setter looks again after it has set the deadline.
type readDeadline struct {
	conn     net.Conn
	draining *atomic.Bool // the gateway's
	phase    atomic.Int32
	stopped  atomic.Bool
	idle     time.Time // what the deadline was set to for an idle connection; zero if another was set since
}

// The phases of a connection.
const (
	fresh int32 = iota // its first request has not come
	busy               // a request is in flight
	idle               // it waits for another request, or for its client to close
)

const (
	// idleTimeout closes a client connection that sends no request; it also bounds how
	// long the head of a request may take.
	idleTimeout = 3 * time.Minute
	// idleSlack is how much shorter that time may be: the deadline of a busy connection
	// is set once in idleSlack, not for each request.
	idleSlack = 30 * time.Second
)

// aLongTimeAgo as a deadline ends a blocked read or write at once.
var aLongTimeAgo = time.Unix(1, 0)

// awaitRequest sets the deadline for the next head. It returns false if none may come,
// as the gateway drains.
func (d *readDeadline) awaitRequest(now time.Time) bool {
	if until := now.Add(idleTimeout); until.Sub(d.idle) > idleSlack {
		d.idle = until
		d.set(until)
	}
	return !d.draining.Load()
}

// await sets the deadline for anything else; zero is none.
func (d *readDeadline) await(until time.Time) {
	d.idle = time.Time{}
	d.set(until)
}

// set sets the deadline and leaves the fields that belong to one goroutine alone.
func (d *readDeadline) set(until time.Time) {
	d.conn.SetReadDeadline(until)
	if d.stopped.Load() || d.phase.Load() != busy && d.draining.Load() {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// enter begins a phase. An idle connection that drains is closed by the next wait.
func (d *readDeadline) enter(phase int32) { d.phase.Store(phase) }

// drain ends the wait of a connection without a request in flight. The gateway
// sets draining before it calls drain.
func (d *readDeadline) drain() {
	if d.phase.Load() != busy {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// stop ends the wait for a request's body and each later one, until resume.
func (d *readDeadline) stop() {
	d.stopped.Store(true)
	d.conn.SetReadDeadline(aLongTimeAgo)
}

// resume allows waits again after stop.
func (d *readDeadline) resume() {
	d.idle = time.Time{}
	d.stopped.Store(false)
}

// interrupt ends the wait of another goroutine. The next await allows waits again.
func (d *readDeadline) interrupt() { d.conn.SetReadDeadline(aLongTimeAgo) }
