package gateway

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// readControl sets the read deadline of a client connection; nothing else may set it. The goroutine that reads sets it
// before each read. Other goroutines may call interruptIdleRead and stopBodyReads, which make the pending read return.
type readControl struct {
	conn         net.Conn
	draining     *atomic.Bool // set by the gateway when it drains
	phase        atomic.Int32
	bodyStopped  atomic.Bool
	places       *places       // counts the active connections; nil for a client without a place
	waitBits     atomic.Int64  // what the client must send next, and the beginning of the wait: see currentWait
	inHandshake  atomic.Bool   // the client speaks SOCKS5, so it waits for replies before it sends its whole request
	headBegun    bool          // beginHeadWait has been called since the last beginRequestWait
	hadUnread    bool          // bytes of the client had arrived before the connection was accepted
	queueTime    time.Duration // see addQueueTime; 0 after the first request
	idleDeadline time.Time     // set by beginRequestWait; zero if setDeadline has set another deadline since
}

// The phases of a connection.
const (
	phaseFresh   int32 = iota // no request has been read yet
	phaseSilent               // no request has been read for longer than clientWait.evictAfter (places.markSilent)
	phaseBusy                 // a request is in flight
	phaseIdle                 // the connection waits for the next request, or until the client closes the connection
	phaseEvicted              // the connection was evicted before its client had sent anything
)

// isActive reports whether places counts a connection in this phase as active: it has a request, or may soon have one.
func isActive(phase int32) bool { return phase == phaseFresh || phase == phaseBusy }

const (
	// idleTimeout is the time within which a client must begin the next request.
	idleTimeout = 3 * time.Minute
	// idleSlack is the time by which the actual idle timeout may be shorter than idleTimeout. Because of this
	// tolerance, a busy connection sets the deadline only once in idleSlack, not for each request.
	idleSlack = 30 * time.Second
)

// aLongTimeAgo is a deadline in the past. It ends a blocked read or write immediately.
var aLongTimeAgo = time.Unix(1, 0)

// The values of clientWait.kind: what the client must send next.
const (
	noWait       int64 = iota
	requestWait        // a request: nothing of it has arrived
	headWait           // the rest of a head
	bodyWait           // the next bytes of a request's body
	waitKindMask = 3
)

// clientWait states what the client must send next, and the beginning of the wait in Unix nanoseconds.
type clientWait struct {
	kind, start int64
	isFirst     bool // the client has sent nothing yet, and connects without TLS
	inHandshake bool // see readControl.inHandshake
}

// evictAfter returns the time for which a client may keep the gateway waiting. After that time, the gateway may close
// the client's connection to make room for another connection. If ready is set, the whole request head of that other
// client has arrived, and the time is shorter.
func (w clientWait) evictAfter(ready bool) time.Duration {
	switch {
	case w.kind == bodyWait:
		return minBodyWait
	case ready && !w.inHandshake && (w.kind == headWait || w.isFirst):
		return minReadyWait
	case w.kind == headWait:
		return minHeadWait
	case w.isFirst:
		return minFirstWait
	}
	return minWait
}

// mayEvict reports whether the client has kept the gateway waiting for longer than evictAfter.
func (w clientWait) mayEvict(now time.Time, ready bool) bool {
	return w.kind != noWait && now.UnixNano()-w.start >= int64(w.evictAfter(ready))
}

// currentWait returns what the client must send next, and since when. It may be called from any goroutine.
func (rc *readControl) currentWait() clientWait {
	w := rc.waitBits.Load()
	what := w & waitKindMask
	phase := rc.phase.Load()
	if phase == phaseBusy && what != bodyWait {
		return clientWait{} // the request has arrived
	}
	_, plain := rc.conn.(*socket.Conn)
	isFirst := what == requestWait && (phase == phaseFresh || phase == phaseSilent) && plain
	return clientWait{what, w &^ waitKindMask, isFirst, rc.inHandshake.Load()}
}

// addQueueTime adds the time that a connection has spent in the listener's queue to its first wait. The parameter
// silent is the time since the client's last bytes or, without any bytes, since the connection was made. If the client
// has sent something (unread is true), the time counts only after an incomplete head has been read. Otherwise the
// connection could be closed while a complete request is read.
func (rc *readControl) addQueueTime(silent time.Duration, unread bool) {
	rc.queueTime, rc.hadUnread = silent, unread
}

func (rc *readControl) setCurrentWait(kind int64, start time.Time) {
	rc.waitBits.Store(start.UnixNano()&^waitKindMask | kind)
}

// beginBodyWait sets the deadline for the next bytes of a request's body. The gateway has waited for them since the
// given time. When these bytes have arrived, the caller must call endBodyWait.
func (rc *readControl) beginBodyWait(since, until time.Time) {
	rc.setCurrentWait(bodyWait, since)
	rc.setDeadline(until)
}

// endBodyWait ends the wait that beginBodyWait has begun.
func (rc *readControl) endBodyWait() { rc.waitBits.Store(noWait) }

// beginRequestWait sets the deadline for the next request's head. It returns false if the gateway drains. In that case
// the caller must not serve another request.
func (rc *readControl) beginRequestWait(now time.Time) bool {
	since := now
	if !rc.hadUnread {
		since = now.Add(-rc.queueTime)
	}
	rc.setCurrentWait(requestWait, since)
	rc.headBegun = false
	if until := now.Add(idleTimeout); until.Sub(rc.idleDeadline) > idleSlack {
		rc.idleDeadline = until
		rc.applyDeadline(until)
	}
	return !rc.draining.Load()
}

// beginHeadWait sets the deadline for the rest of a head after a part of the head has been read. Only the first call
// for each head has an effect. Otherwise a client could extend the time by sending the head byte by byte.
func (rc *readControl) beginHeadWait(until time.Time) {
	if !rc.headBegun {
		rc.headBegun = true
		since := rc.waitBits.Load()
		if rc.hadUnread {
			since -= int64(rc.queueTime)
		}
		rc.waitBits.Store(since&^waitKindMask | headWait)
		rc.setDeadline(until)
	}
}

// setDeadline sets the deadline of any read except the read of the next request (see beginRequestWait). The zero time
// means no deadline.
func (rc *readControl) setDeadline(until time.Time) {
	rc.idleDeadline = time.Time{}
	rc.applyDeadline(until)
}

// applyDeadline sets the deadline. Unlike setDeadline, it may be called from any goroutine.
func (rc *readControl) applyDeadline(until time.Time) {
	rc.conn.SetReadDeadline(until)
	if rc.bodyStopped.Load() || rc.phase.Load() != phaseBusy && rc.draining.Load() {
		rc.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// setPhase changes the phase. It returns false if the connection was evicted: the client already has a 503, and its
// request must not be sent. setPhase does not check for a drain. If the gateway drains, the next call of the method
// applyDeadline makes the read of an idle connection return.
func (rc *readControl) setPhase(phase int32) bool {
	before := rc.phase.Load()
	for before == phaseFresh || before == phaseSilent {
		if rc.phase.CompareAndSwap(before, phase) {
			break
		}
		before = rc.phase.Load()
	}
	if before == phaseEvicted {
		return false
	}
	rc.phase.Store(phase)
	rc.countActive(before, phase)
	rc.queueTime, rc.hadUnread = 0, false
	return true
}

// countActive updates the number of active connections after a change of the phase.
func (rc *readControl) countActive(before, after int32) {
	if rc.places != nil && isActive(before) != isActive(after) {
		rc.places.countActive(isActive(after))
	}
}

// markEvicted changes the phase of a connection without a request to phaseEvicted. It returns false if a request has
// been read.
func (rc *readControl) markEvicted() bool {
	return rc.replacePhase(phaseFresh, phaseEvicted) || rc.replacePhase(phaseSilent, phaseEvicted)
}

// markSilent changes the phase from phaseFresh to phaseSilent. It returns false if the phase is not phaseFresh.
func (rc *readControl) markSilent() bool { return rc.replacePhase(phaseFresh, phaseSilent) }

func (rc *readControl) replacePhase(before, after int32) bool {
	if !rc.phase.CompareAndSwap(before, after) {
		return false
	}
	rc.countActive(before, after)
	return true
}

// interruptIdleRead makes the pending read return if no request is in flight. The gateway sets the field draining
// before it calls this method.
func (rc *readControl) interruptIdleRead() {
	if rc.phase.Load() != phaseBusy {
		rc.conn.SetReadDeadline(aLongTimeAgo)
	}
}

// stopBodyReads makes the pending read of a request's body return. Until resumeBodyReads is called, reads return
// immediately.
func (rc *readControl) stopBodyReads() {
	rc.bodyStopped.Store(true)
	rc.conn.SetReadDeadline(aLongTimeAgo)
}

// resumeBodyReads ends the effect of stopBodyReads.
func (rc *readControl) resumeBodyReads() {
	rc.idleDeadline = time.Time{}
	rc.bodyStopped.Store(false)
}

// interruptRead makes another goroutine's pending read return. The next call of setDeadline sets a new deadline.
func (rc *readControl) interruptRead() { rc.conn.SetReadDeadline(aLongTimeAgo) }
