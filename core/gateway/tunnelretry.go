package gateway

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// maxKeptBytes is the maximum number of the client's bytes that are kept, so that they can be sent again.
const maxKeptBytes = 64 << 10

// tunnelRetry is the state of a tunnel before the target's first byte. It keeps the bytes that the client has sent. If
// the client has sent nothing, a ClientHello, or a part of a ClientHello, a new tunnel can replace the current tunnel,
// usually through another proxy. The current tunnel is replaced if it ends, or if the target does not respond to the
// ClientHello in time.
type tunnelRetry struct {
	mu            sync.Mutex // guards the fields below and, before phaseFinal, the tunnel's fields target and toTarget
	reconnectDone sync.Cond  // signals the end of the phase phaseReconnecting; its lock is mu
	phase         tunnelRetryPhase
	clientBytes   []byte    // the bytes of the client so far
	classifyAt    int       // when the field clientBytes has this length, it must be classified again (classifyHello)
	partialLen    int       // length of the client's incomplete ClientHello; 0 if the ClientHello is complete
	helloSent     time.Time // when the ClientHello was sent; zero if the target's response has no time limit
	helloRefusal  []byte    // refusal of the ClientHello that an earlier tunnel received; nil if there is none

	hedgeWon    bool        // the hedge has the target's first byte, and receiveFirstBytes must take the hedge's tunnel
	hedgedHello hedgedHello // the ClientHello of the hedge
}

type tunnelRetryPhase uint8

const (
	phaseFinal        tunnelRetryPhase = iota // the tunnel cannot be replaced any more
	phaseReplaceable                          // the tunnel can be replaced
	phaseReconnecting                         // the tunnel has failed, and another tunnel is being opened
)

// sendFirstBytes forwards bytes from the client to the target until the phase is final.
func (t *tunnel) sendFirstBytes() (n int64, err error) {
	r := t.client.reader
	if early := r.Buffered(); len(early) > 0 {
		n, err = t.sendToTarget(early)
		r.Discard(len(early))
	}
	r.Release()
	for err == nil && !t.isFinal() {
		var buf *[]byte
		var m int
		var readErr, writeErr error
		if buf, m, readErr = t.buffers.readInto(t.client.netConn, nil); m > 0 {
			var sent int64
			sent, writeErr = t.sendToTarget((*buf)[:m])
			n += sent
		}
		t.buffers.put(buf)
		switch {
		case writeErr != nil:
			err = writeErr
		case readErr == io.EOF:
			return n, nil
		default:
			err = readErr
		}
	}
	return n, err
}

func (t *tunnel) isFinal() bool {
	t.retry.mu.Lock()
	defer t.retry.mu.Unlock()
	return t.retry.phase == phaseFinal
}

// sendToTarget writes p to the target. While the tunnel can be replaced, sendToTarget also keeps p, and ignores write
// errors. After a failed write, the next read from the target fails too, and that failure leads to a new tunnel. When
// the tunnel can no longer be replaced, sendToTarget returns a write error as a *socket.WriteError.
func (t *tunnel) sendToTarget(p []byte) (n int64, err error) {
	if t.keepBytes(p) {
		return int64(len(p)), nil
	}
	m, err := t.toTarget.Write(p)
	if err != nil {
		err = &socket.WriteError{Err: err}
	}
	return int64(m), err
}

// keepBytes stores p for a tunnel that may replace the current tunnel. If the current tunnel is open, the method
// also writes p to it. If the phase is final or becomes final, the method writes nothing and returns false.
func (t *tunnel) keepBytes(p []byte) bool {
	tr := &t.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	full := len(tr.clientBytes)+len(p) > maxKeptBytes
	for full && tr.phase == phaseReconnecting {
		tr.reconnectDone.Wait()
	}
	switch {
	case tr.phase == phaseFinal:
		return false
	case full:
		tr.finalize()
		return false
	}
	all := p // not a copy: usually the client has sent only p
	if len(tr.clientBytes) > 0 {
		all = append(tr.clientBytes, p...)
	}
	kind := partialHello
	if tr.phase == phaseReplaceable && len(all) >= tr.classifyAt {
		if kind, tr.classifyAt = classifyHello(all); kind == notHello {
			tr.finalize()
			return false
		}
	}
	tr.clientBytes = append(tr.clientBytes, p...)
	if tr.phase == phaseReconnecting {
		return true // switchTunnel will classify the bytes
	}
	tr.setPartialLen(kind)
	t.toTarget.Write(p)
	t.startFirstByteLimit(kind)
	return true
}

// setPartialLen sets partialLen: the length of clientBytes if their kind is partialHello, otherwise 0. The caller holds
// mu.
func (tr *tunnelRetry) setPartialLen(kind helloKind) {
	tr.partialLen = 0
	if kind == partialHello {
		tr.partialLen = len(tr.clientBytes)
	}
}

// isUnused reports whether the target has nothing to respond to, because the client has sent nothing or only a part of
// a ClientHello. The parameter sentBytes is the number of bytes that the client has sent.
func (tr *tunnelRetry) isUnused(sentBytes int64) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return sentBytes == int64(tr.partialLen)
}

// finalize makes the phase phaseFinal. The caller holds mu.
func (tr *tunnelRetry) finalize() {
	tr.phase, tr.clientBytes = phaseFinal, nil
	tr.reconnectDone.Broadcast()
}

// recheckInterval is the interval at which the time limit for the target's response is computed again.
// The limit depends on the latencies of the pool, which may change.
const recheckInterval = 250 * time.Millisecond

// startFirstByteLimit starts the time limit for the target's response if the client has sent a whole
// ClientHello. The caller holds the mutex of t.retry.
func (t *tunnel) startFirstByteLimit(kind helloKind) {
	if kind == wholeHello {
		t.retry.helloSent = t.client.now()
		t.setFirstByteDeadline(t.retry.helloSent)
		executor.HedgeTunnel[*transport.Tunnel](t.client.ctx, t.exchange, t)
	}
}

// maxHelloRefusalDelay is the time that a tunnel gets to reply to the ClientHello if an earlier tunnel of the request
// has received a refusal of the ClientHello, and no other proxy can be used. After this time, the client gets that
// refusal.
const maxHelloRefusalDelay = 2 * time.Second

// setFirstByteDeadline sets the deadline of the next read from the target. It returns false if the time limit for
// the target's response has passed. The caller holds the mutex of t.retry.
func (t *tunnel) setFirstByteDeadline(now time.Time) bool {
	limit := t.exchange.FirstByteTimeout()
	if limit == 0 && t.retry.helloRefusal != nil && !t.exchange.CanChangeProxy() {
		limit = maxHelloRefusalDelay
	}
	if limit == 0 {
		t.target.SetReadDeadline(time.Time{})
		return true
	}
	left := limit - now.Sub(t.retry.helloSent)
	if left <= 0 {
		return false
	}
	t.target.SetReadDeadline(now.Add(min(left, recheckInterval)))
	return true
}

// extendFirstByteWait is called after a read from the target has failed with err. It reports whether the gateway must
// wait longer for the target.
func (t *tunnel) extendFirstByteWait(err error) bool {
	tr := &t.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch {
	case tr.helloSent.IsZero() || !errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case tr.phase == phaseReplaceable && tr.hedgeWon:
		return true
	case tr.phase == phaseReplaceable:
		return t.setFirstByteDeadline(t.client.now())
	}
	t.removeFirstByteLimit()
	return true
}

// removeFirstByteLimit removes the time limit for the target's response. The caller holds the mutex of t.retry.
func (t *tunnel) removeFirstByteLimit() {
	t.retry.helloSent = time.Time{}
	t.target.SetReadDeadline(time.Time{})
	t.setReadDeadline(t.target)
}

// endClientDirection is called when the client has ended its direction. It makes the phase phaseFinal and returns the
// connection to the target.
func (t *tunnel) endClientDirection() (target net.Conn) {
	tr := &t.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.phase == phaseReconnecting {
		t.client.cancel(executor.ErrClientLeft)
	}
	tr.finalize()
	return t.target
}

// receiveFirstBytes forwards the first bytes from the target to the client. If the tunnel fails before these bytes
// arrive, receiveFirstBytes replaces the tunnel if possible. It returns the number of bytes that were written to the
// client, and whether the target has sent bytes. A write error is a *socket.WriteError. If the target closes the tunnel
// without sending a byte, the error is io.ErrUnexpectedEOF.
func (t *tunnel) receiveFirstBytes() (n int64, received bool, err error) {
	tr := &t.retry
	for {
		t.setReadDeadline(t.target)
		buf, m, err := t.buffers.readInto(t.target, nil)
		helloRefused := m > 0 && t.isHelloRefused((*buf)[:m])
		switch {
		case helloRefused && t.exchange.HasUntriedProxy():
			tr.keepHelloRefusal((*buf)[:m])
			err = verdict.ErrHelloRefused
		case m > 0:
			n, err = t.relayFirstBytes((*buf)[:m], helloRefused)
			t.buffers.put(buf)
			return n, true, err
		case err == nil || err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
		t.buffers.put(buf)
		early, ok := t.takeHedge()
		if !ok {
			if t.extendFirstByteWait(err) {
				continue
			}
			early, ok = t.replaceTunnel(err)
		}
		switch {
		case !ok && helloRefused: // there is no new tunnel, so the client gets the refusal
			n, err = t.relayFirstBytes(tr.helloRefusal, true)
			return n, true, err
		case !ok:
			return 0, false, err
		case len(early) > 0:
			n, err = t.relayFirstBytes(early, false)
			return n, true, err
		}
	}
}

func (tr *tunnelRetry) keepHelloRefusal(p []byte) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.helloRefusal = slices.Clone(p)
}

// isHelloRefused reports whether p, the target's first bytes, refuse the client's ClientHello. Either the target has no
// TLS or refuses the ClientHello with an alert, or the proxy itself has responded. Such a proxy is, for example, a web
// server that responds to CONNECT with 200 and to the ClientHello with an error page.
func (t *tunnel) isHelloRefused(p []byte) bool {
	tr := &t.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return refusesHello(p) && tr.phase == phaseReplaceable && len(tr.clientBytes) > 0 && tr.partialLen == 0 &&
		!tr.hedgeWon
}

// relayFirstBytes is called with p, the target's first bytes. It forwards p to the client. After that, the tunnel is
// not replaced any more.
func (t *tunnel) relayFirstBytes(p []byte, helloRefused bool) (n int64, err error) {
	tr := &t.retry
	tr.mu.Lock()
	sentHello := len(tr.clientBytes) > 0 && tr.partialLen == 0
	tr.finalize()
	if !tr.helloSent.IsZero() {
		t.removeFirstByteLimit()
	}
	tr.mu.Unlock()
	if helloRefused {
		t.exchange.SettleHelloRefused()
	} else {
		if sentHello && t.exchange.FollowRecords() {
			t.recordsFollowed, t.recordFollower.active = true, true
			t.recordFollower.follow(p)
		}
		t.exchange.SettleSuccess()
	}
	m, err := t.client.writer.Write(p)
	if err != nil {
		err = &socket.WriteError{Err: err}
	}
	return int64(m), err
}

// replaceTunnel opens a new tunnel after the current tunnel has failed with err. It returns the bytes that the target
// has already sent through the new tunnel. It returns false if the phase is final, the client has left, no retry is
// possible, or no proxy opens a tunnel. It also returns false if the tunnel counts as unused (Tunnel.UnusedAfter) and
// the client has sent nothing that the target can respond to.
func (t *tunnel) replaceTunnel(err error) (early []byte, ok bool) {
	tr := &t.retry
	tr.mu.Lock()
	unused := len(tr.clientBytes) == tr.partialLen && t.client.now().After(t.exchange.UnusedAfter())
	ok = tr.phase == phaseReplaceable && !unused && t.client.ctx.Err() == nil && t.exchange.CanRetry()
	var silence time.Duration
	if ok {
		tr.phase = phaseReconnecting
		if errors.Is(err, os.ErrDeadlineExceeded) {
			silence = t.client.now().Sub(tr.helloSent)
		}
	}
	tr.mu.Unlock()
	if !ok {
		return nil, false
	}
	t.target.Close()
	ending := executor.RetryTunnel(t.client.ctx, t.exchange, err, silence, t.dial)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if remote := ending.Response; ending.Tunnel != nil && tr.phase == phaseReconnecting {
		t.switchTunnel(remote)
		return remote.Early, true
	}
	t.closeUnusedEnding(&ending)
	tr.finalize()
	return nil, false
}

// switchTunnel replaces the current tunnel by newTunnel, and sends the client's bytes through newTunnel. If newTunnel
// is the tunnel of the hedge, switchTunnel leaves out the ClientHello, because the hedge has already sent it. The
// caller holds the mutex of t.retry.
func (t *tunnel) switchTunnel(newTunnel *transport.Tunnel) {
	tr := &t.retry
	t.client.tunnel.Store(newTunnel)
	t.target = newTunnel.Conn
	t.toTarget.init(newTunnel.Conn, newTunnel.TCP())
	unsent := tr.clientBytes
	if newTunnel == tr.hedgedHello.remote {
		unsent = tr.clientBytes[tr.hedgedHello.size:]
	}
	if len(unsent) > 0 {
		t.toTarget.Write(unsent)
	}
	tr.helloSent = time.Time{}
	kind, needed := classifyHello(tr.clientBytes)
	tr.classifyAt = needed
	tr.setPartialLen(kind)
	if len(newTunnel.Early) > 0 || kind == notHello {
		tr.finalize()
		return
	}
	tr.phase = phaseReplaceable
	tr.reconnectDone.Broadcast()
	t.startFirstByteLimit(kind)
}

// closeUnusedEnding closes an ending that is not used because the tunnel cannot be replaced any more. It closes a relay
// or a refusal with status 200, because the client has already received this status.
func (t *tunnel) closeUnusedEnding(ending *executor.Ending[*transport.Tunnel]) {
	now := t.client.now()
	switch {
	case ending.Tunnel != nil:
		t.dial.Discard(ending.Response)
		ending.Tunnel.Close(verdict.TunnelEnd{StoppedByGateway: true}, now)
	case ending.Relay != nil:
		ending.Relay.Close(http.StatusOK, verdict.RelayEnd{}, now)
	default:
		ending.Refusal.Close(http.StatusOK, now)
	}
}
