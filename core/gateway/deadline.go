package gateway

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// readControl sets the read deadline of a client connection; nothing else may set it. The goroutine that reads sets it
// before each read. Other goroutines may call drain and stopBody, which make the pending read return.
type readControl struct {
	conn         net.Conn
	draining     *atomic.Bool // set by the gateway when it drains
	phase        atomic.Int32
	bodyStopped  atomic.Bool
	places       *places       // counts the active connections; nil for a client without a place
	waitBits     atomic.Int64  // what the client must send next, and the beginning of the wait: see currentWait
	headBegun    bool          // awaitHeadRest has been called since the last awaitRequest
	hadUnread    bool          // bytes of the client had arrived before the connection was accepted
	queueTime    time.Duration // see addQueueTime; 0 after the first request
	idleDeadline time.Time     // the deadline that awaitRequest has set; zero if setDeadline has set another one since
}

// The phases of a connection.
const (
	phaseFresh   int32 = iota // no request has been read yet
	phaseBusy                 // a request is in flight
	phaseIdle                 // the connection waits for the next request, or until the client closes the connection
	phaseEvicted              // the connection was evicted in the phase phaseFresh, before its client had sent anything
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

// clientWait states what the client must send next, and the beginning of the wait in Unix nanoseconds.
type clientWait struct {
	awaits, since int64
	isFirst       bool // the client has sent nothing yet, and connects without TLS
}

// evictAfter is the time for which a client may keep the gateway waiting. After that time, the gateway may close the
// client's connection to make room for another connection.
func (a clientWait) evictAfter() time.Duration {
	switch {
	case a.awaits == awaitsBody:
		return minBodyWait
	case a.awaits == awaitsHead:
		return minHeadWait
	case a.isFirst:
		return minFirstWait
	}
	return minWait
}

// currentWait returns what the client must send next, and since when. It may be called from any goroutine.
func (d *readControl) currentWait() clientWait {
	w := d.waitBits.Load()
	what := w & awaitsMask
	phase := d.phase.Load()
	if phase == phaseBusy && what != awaitsBody {
		return clientWait{} // the request has arrived
	}
	_, plain := d.conn.(*socket.Conn)
	return clientWait{what, w &^ awaitsMask, what == awaitsRequest && phase == phaseFresh && plain}
}

// addQueueTime is called before the first wait of a connection that was in the listener's queue. The parameter silent
// is the time since the client's last bytes or, without any bytes, since the connection was made. This time counts as a
// part of the wait. The parameter unread is true if the client has sent something. The time then counts only after an
// incomplete head has been read, so that the connection is not closed while a complete request is read.
func (d *readControl) addQueueTime(silent time.Duration, unread bool) {
	d.queueTime, d.hadUnread = silent, unread
}

func (d *readControl) setCurrentWait(what int64, since time.Time) {
	d.waitBits.Store(since.UnixNano()&^awaitsMask | what)
}

// awaitBody sets the deadline for the next bytes of a request's body. The gateway has waited for them since the given
// time. When these bytes have arrived, the caller must call bodyArrived.
func (d *readControl) awaitBody(since, until time.Time) {
	d.setCurrentWait(awaitsBody, since)
	d.setDeadline(until)
}

// bodyArrived ends the wait that awaitBody has begun.
func (d *readControl) bodyArrived() { d.waitBits.Store(awaitsNothing) }

// awaitRequest sets the deadline for the next request's head. It returns false if the gateway drains. In that case
// the caller must not serve another request.
func (d *readControl) awaitRequest(now time.Time) bool {
	since := now
	if !d.hadUnread {
		since = now.Add(-d.queueTime)
	}
	d.setCurrentWait(awaitsRequest, since)
	d.headBegun = false
	if until := now.Add(idleTimeout); until.Sub(d.idleDeadline) > idleSlack {
		d.idleDeadline = until
		d.applyDeadline(until)
	}
	return !d.draining.Load()
}

// awaitHeadRest sets the deadline for the rest of a head after a part of the head has been read. Only the first call
// for each head has an effect. Otherwise a client could extend the time by sending the head byte by byte.
func (d *readControl) awaitHeadRest(until time.Time) {
	if !d.headBegun {
		d.headBegun = true
		since := d.waitBits.Load()
		if d.hadUnread {
			since -= int64(d.queueTime)
		}
		d.waitBits.Store(since&^awaitsMask | awaitsHead)
		d.setDeadline(until)
	}
}

// setDeadline sets the deadline of any read except the read of the next request (see awaitRequest). The zero time means
// no deadline.
func (d *readControl) setDeadline(until time.Time) {
	d.idleDeadline = time.Time{}
	d.applyDeadline(until)
}

// applyDeadline sets the deadline. Unlike setDeadline, it may be called from any goroutine.
func (d *readControl) applyDeadline(until time.Time) {
	d.conn.SetReadDeadline(until)
	if d.bodyStopped.Load() || d.phase.Load() != phaseBusy && d.draining.Load() {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// setPhase changes the phase. It returns false if the connection was evicted: the client already has a 503, and its
// request must not be sent. setPhase does not check for a drain. If the gateway drains, the next call of the method
// applyDeadline makes the read of an idle connection return.
func (d *readControl) setPhase(phase int32) bool {
	before := d.phase.Load()
	switch {
	case before == phaseEvicted || before == phaseFresh && !d.phase.CompareAndSwap(phaseFresh, phase):
		return false
	case before != phaseFresh:
		d.phase.Store(phase)
	}
	if d.places != nil && (before == phaseIdle) != (phase == phaseIdle) {
		d.places.countActive(phase != phaseIdle)
	}
	d.queueTime, d.hadUnread = 0, false
	return true
}

// evict changes the phase from phaseFresh to phaseEvicted. It returns false if the phase is not phaseFresh.
func (d *readControl) evict() bool { return d.phase.CompareAndSwap(phaseFresh, phaseEvicted) }

// drain makes the pending read return if no request is in flight. The gateway sets the field draining before it calls
// this method.
func (d *readControl) drain() {
	if d.phase.Load() != phaseBusy {
		d.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// stopBody makes the pending read of a request's body return. Until resumeBody is called, reads return immediately.
func (d *readControl) stopBody() {
	d.bodyStopped.Store(true)
	d.conn.SetReadDeadline(aLongTimeAgo)
}

// resumeBody ends the effect of stopBody.
func (d *readControl) resumeBody() {
	d.idleDeadline = time.Time{}
	d.bodyStopped.Store(false)
}

// interruptRead makes another goroutine's pending read return. The next call of setDeadline sets a new deadline.
func (d *readControl) interruptRead() { d.conn.SetReadDeadline(aLongTimeAgo) }
