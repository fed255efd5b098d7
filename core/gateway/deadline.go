package gateway

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// readDeadline sets the read deadline of a client connection; nothing else may set this deadline. The goroutine that
// reads sets the deadline before each read. Other goroutines may call the methods drain and stop, which make the
// pending read return. They call drain when the gateway shuts down and the connection is idle. They call stop when the
// rest of a request's body is not needed any more. The effect of these calls is not lost if the method set runs at the
// same time: after setting the deadline, it checks the fields draining and stopped.
type readDeadline struct {
	conn     net.Conn
	draining *atomic.Bool // set by the gateway when it drains
	phase    atomic.Int32
	stopped  atomic.Bool
	places   *places       // counts the active connections; nil for a client without a place
	waiting  atomic.Int64  // what the client must send next, and the beginning of the wait: see awaited
	partial  bool          // awaitRest has been called since the last awaitRequest
	unread   bool          // bytes of the client had arrived before the connection was accepted
	silent   time.Duration // see queue; 0 after the first request
	idle     time.Time     // the deadline that awaitRequest has set; zero if await has set another deadline since
}

// The phases of a connection.
const (
	fresh   int32 = iota // no request has been read yet
	busy                 // a request is in flight
	idle                 // the connection waits for the next request, or until the client closes the connection
	evicted              // the connection was evicted in the phase fresh, before its client had sent anything
)

const (
	// idleTimeout is the time within which a client must begin the next request.
	idleTimeout = 3 * time.Minute
	// idleSlack is the time by which the actual idle timeout may be shorter than idleTimeout. Because of this
	// tolerance, a busy connection sets the deadline only once in idleSlack, not for each request.
	idleSlack = 30 * time.Second
)

// aLongTimeAgo is a deadline in the past. It ends a blocked read or write immediately.
var aLongTimeAgo = time.Unix(1, 0)

// What the client must send next.
const (
	awaitsNothing int64 = iota
	awaitsRequest       // a request: nothing of it has arrived
	awaitsHead          // the rest of a head
	awaitsBody          // the next bytes of a request's body
	awaitsMask    = 3
)

// awaitedSince states what the client must send next, and the beginning of the wait in Unix nanoseconds.
type awaitedSince struct {
	what, since int64
	first       bool // the client has sent nothing yet, and connects without TLS
}

// patience is the time for which a client may keep the gateway waiting. After that time, the gateway may close the
// client's connection to make room for another connection.
func (a awaitedSince) patience() time.Duration {
	switch {
	case a.what == awaitsBody:
		return minBodyWait
	case a.what == awaitsHead:
		return minHeadWait
	case a.first:
		return minFirstWait
	}
	return minWait
}

// awaited returns what the client must send next, and since when. It may be called from any goroutine.
func (d *readDeadline) awaited() awaitedSince {
	w := d.waiting.Load()
	what := w & awaitsMask
	phase := d.phase.Load()
	if phase == busy && what != awaitsBody {
		return awaitedSince{} // the request has arrived
	}
	_, plain := d.conn.(*socket.Conn)
	return awaitedSince{what, w &^ awaitsMask, what == awaitsRequest && phase == fresh && plain}
}

// queue is called before the first wait of a connection that was in the listener's queue, for the time silent since its
// client's last bytes, or since it was made. This time counts for the wait. If the client has sent something (unread),
// it counts only when an incomplete head has been read: otherwise the connection might be closed while a complete
// request is read.
func (d *readDeadline) queue(silent time.Duration, unread bool) { d.silent, d.unread = silent, unread }

func (d *readDeadline) setAwaited(what int64, since time.Time) {
	d.waiting.Store(since.UnixNano()&^awaitsMask | what)
}

// awaitBody sets the deadline for the next bytes of a request's body. The gateway has waited for them since the given
// time. When these bytes have arrived, the caller must call gotBody.
func (d *readDeadline) awaitBody(since, until time.Time) {
	d.setAwaited(awaitsBody, since)
	d.await(until)
}

// gotBody ends the wait that awaitBody has begun.
func (d *readDeadline) gotBody() { d.waiting.Store(awaitsNothing) }

// awaitRequest sets the deadline for the next request's head. It returns false if the gateway drains. In that case
// the caller must not serve another request.
func (d *readDeadline) awaitRequest(now time.Time) bool {
	since := now
	if !d.unread {
		since = now.Add(-d.silent)
	}
	d.setAwaited(awaitsRequest, since)
	d.partial = false
	if until := now.Add(idleTimeout); until.Sub(d.idle) > idleSlack {
		d.idle = until
		d.set(until)
	}
	return !d.draining.Load()
}

// awaitRest sets the deadline for the rest of a head after a part of the head has been read. Only the first call for
// each head has an effect. Otherwise a client could extend the time by sending the head byte by byte.
func (d *readDeadline) awaitRest(until time.Time) {
	if !d.partial {
		d.partial = true
		since := d.waiting.Load()
		if d.unread {
			since -= int64(d.silent)
		}
		d.waiting.Store(since&^awaitsMask | awaitsHead)
		d.await(until)
	}
}

// await sets the deadline of any read except the read of the next request (see awaitRequest). The zero time means no
// deadline.
func (d *readDeadline) await(until time.Time) {
	d.idle = time.Time{}
	d.set(until)
}

// set sets the deadline. Unlike await, it may be called from any goroutine.
func (d *readDeadline) set(until time.Time) {
	d.conn.SetReadDeadline(until)
	if d.stopped.Load() || d.phase.Load() != busy && d.draining.Load() {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// enter changes the phase. It does not check for a drain: if the gateway drains, the next call of the method set makes
// the read of an idle connection return. It returns false if the connection was evicted. The client then has a 503
// already, and its request must not be sent.
func (d *readDeadline) enter(phase int32) bool {
	before := d.phase.Load()
	switch {
	case before == evicted || before == fresh && !d.phase.CompareAndSwap(fresh, phase):
		return false
	case before != fresh:
		d.phase.Store(phase)
	}
	if d.places != nil && (before == idle) != (phase == idle) {
		d.places.enter(phase != idle)
	}
	d.silent, d.unread = 0, false
	return true
}

// evict changes the phase from fresh to evicted. It returns false if the phase is not fresh.
func (d *readDeadline) evict() bool { return d.phase.CompareAndSwap(fresh, evicted) }

// drain makes the pending read return if no request is in flight. The gateway sets the field draining before it calls
// this method.
func (d *readDeadline) drain() {
	if d.phase.Load() != busy {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// stop makes the pending read of a request's body return. Until the call of resume, each read returns immediately.
func (d *readDeadline) stop() {
	d.stopped.Store(true)
	d.conn.SetReadDeadline(aLongTimeAgo)
}

// resume ends the effect of the method stop.
func (d *readDeadline) resume() {
	d.idle = time.Time{}
	d.stopped.Store(false)
}

// interrupt makes another goroutine's pending read return. The next await sets a new deadline.
func (d *readDeadline) interrupt() { d.conn.SetReadDeadline(aLongTimeAgo) }
