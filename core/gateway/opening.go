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

// opening is the state of a tunnel before the target's first byte. It keeps the bytes that the client has sent. If
// the client has sent nothing, a ClientHello, or a part of a ClientHello, a new tunnel can replace the tunnel,
// usually through another proxy. The tunnel is replaced if it ends, or if the target does not respond to the
// ClientHello in time.
type opening struct {
	mu            sync.Mutex // guards the fields below and, before phaseFinal, the tunnel's fields target and out
	reconnectDone sync.Cond  // signals the end of the phase phaseReconnecting; its lock is mu
	phase         openingPhase
	clientBytes   []byte    // the bytes of the client so far
	classifyAt    int       // when the field clientBytes has this length, it must be classified again (classify)
	partialLen    int       // length of the client's incomplete ClientHello; 0 if the ClientHello is complete
	helloSent     time.Time // when the ClientHello was sent; zero if the target's response has no time limit
	helloRefusal  []byte    // refusal of the ClientHello that an earlier tunnel received; nil if there is none

	hedgeWon    bool        // the hedge has the target's first byte, and receiveFirst must take the hedge's tunnel
	hedgedHello hedgedHello // the ClientHello of the hedge
}

type openingPhase uint8

const (
	phaseFinal        openingPhase = iota // the tunnel cannot be replaced any more
	phaseReplaceable                      // the tunnel can be replaced
	phaseReconnecting                     // the tunnel has failed, and another tunnel is being opened
)

// sendFirst forwards bytes from the client to the target until the phase is final.
func (t *tunnel) sendFirst() (n int64, err error) {
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
		if buf, m, readErr = t.buffers.readInto(t.client.raw, nil); m > 0 {
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
	t.opening.mu.Lock()
	defer t.opening.mu.Unlock()
	return t.opening.phase == phaseFinal
}

// sendToTarget writes p to the target. While the tunnel can be replaced, sendToTarget also keeps p, and ignores write
// errors. After a failed write, the next read from the target fails too, and that failure leads to a new tunnel. When
// the tunnel can no longer be replaced, sendToTarget returns a write error as a *socket.WriteError.
func (t *tunnel) sendToTarget(p []byte) (n int64, err error) {
	if t.keepBytes(p) {
		return int64(len(p)), nil
	}
	m, err := t.out.Write(p)
	if err != nil {
		err = &socket.WriteError{Err: err}
	}
	return int64(m), err
}

// keepBytes stores p for a tunnel that may replace the current tunnel. If the current tunnel is open, the method
// also writes p to it. If the phase is final or becomes final, the method writes nothing and returns false.
func (t *tunnel) keepBytes(p []byte) bool {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	full := len(o.clientBytes)+len(p) > maxKeptBytes
	for full && o.phase == phaseReconnecting {
		o.reconnectDone.Wait()
	}
	switch {
	case o.phase == phaseFinal:
		return false
	case full:
		o.finalize()
		return false
	}
	all := p // no copy: usually p is all that the client has sent
	if len(o.clientBytes) > 0 {
		all = append(o.clientBytes, p...)
	}
	kind := partialHello
	if o.phase == phaseReplaceable && len(all) >= o.classifyAt {
		if kind, o.classifyAt = classify(all); kind == notHello {
			o.finalize()
			return false
		}
	}
	o.clientBytes = append(o.clientBytes, p...)
	if o.phase == phaseReconnecting {
		return true // switchTunnel will classify the bytes
	}
	o.setPartialLen(kind)
	t.out.Write(p)
	t.limitFirstByte(kind)
	return true
}

// setPartialLen sets the field partialLen. The parameter kind is the kind of the bytes in the field clientBytes. The
// caller holds mu.
func (o *opening) setPartialLen(kind helloKind) {
	o.partialLen = 0
	if kind == partialHello {
		o.partialLen = len(o.clientBytes)
	}
}

// isUnused reports whether the target has nothing to respond to, because the client has sent nothing or only a part of
// a ClientHello. The parameter sentBytes is the number of bytes that the client has sent.
func (o *opening) isUnused(sentBytes int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return sentBytes == int64(o.partialLen)
}

// finalize makes the phase phaseFinal. The caller holds mu.
func (o *opening) finalize() {
	o.phase, o.clientBytes = phaseFinal, nil
	o.reconnectDone.Broadcast()
}

// recheckInterval is the interval at which the time limit for the target's response is computed again.
// The limit depends on the latencies of the pool, which may change.
const recheckInterval = 250 * time.Millisecond

// limitFirstByte starts the time limit for the target's response if the client has sent a whole
// ClientHello. The caller holds the opening's mu.
func (t *tunnel) limitFirstByte(kind helloKind) {
	if kind == wholeHello {
		t.opening.helloSent = t.client.now()
		t.setFirstByteDeadline(t.opening.helloSent)
		executor.HedgeTunnel[*transport.Tunnel](t.client.ctx, t.exchange, t)
	}
}

// maxHelloRefusalDelay is the time that a tunnel gets to reply to the ClientHello if the request cannot change its
// proxy and an earlier tunnel has received a helloRefusal. After this time, the client gets that refusal.
const maxHelloRefusalDelay = 2 * time.Second

// setFirstByteDeadline sets the deadline of the next read from the target. It returns false if the time limit for
// the target's response has passed. The caller holds the opening's mu.
func (t *tunnel) setFirstByteDeadline(now time.Time) bool {
	limit := t.exchange.FirstByteTimeout()
	if limit == 0 && t.opening.helloRefusal != nil && !t.exchange.CanChangeProxy() {
		limit = maxHelloRefusalDelay
	}
	if limit == 0 {
		t.target.SetReadDeadline(time.Time{})
		return true
	}
	left := limit - now.Sub(t.opening.helloSent)
	if left <= 0 {
		return false
	}
	t.target.SetReadDeadline(now.Add(min(left, recheckInterval)))
	return true
}

// waitsLonger is called after a read from the target has failed with err. It reports whether the gateway waits longer
// for the target.
func (t *tunnel) waitsLonger(err error) bool {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.helloSent.IsZero() || !errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case o.phase == phaseReplaceable && o.hedgeWon:
		return true
	case o.phase == phaseReplaceable:
		return t.setFirstByteDeadline(t.client.now())
	}
	t.removeFirstByteLimit()
	return true
}

// removeFirstByteLimit removes the time limit for the target's response. The caller holds the opening's mu.
func (t *tunnel) removeFirstByteLimit() {
	t.opening.helloSent = time.Time{}
	t.target.SetReadDeadline(time.Time{})
	t.setReadDeadline(t.target)
}

// endClientBytes is called when the client has ended its direction. It makes the phase phaseFinal and returns the
// connection to the target.
func (t *tunnel) endClientBytes() (target net.Conn) {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.phase == phaseReconnecting {
		t.client.cancel(executor.ErrClientLeft)
	}
	o.finalize()
	return t.target
}

// receiveFirst forwards the first bytes from the target to the client. If the tunnel fails before these bytes arrive,
// receiveFirst replaces the tunnel if possible. It returns the number of bytes that were written to the client, and
// whether the target has sent bytes. A write error is a *socket.WriteError. If the target closes the tunnel without
// sending a byte, the error is io.ErrUnexpectedEOF.
func (t *tunnel) receiveFirst() (n int64, received bool, err error) {
	o := &t.opening
	for {
		t.setReadDeadline(t.target)
		buf, m, err := t.buffers.readInto(t.target, nil)
		helloRefused := m > 0 && t.isHelloRefused((*buf)[:m])
		switch {
		case helloRefused && t.exchange.HasUntriedProxy():
			o.keepHelloRefusal((*buf)[:m])
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
			if t.waitsLonger(err) {
				continue
			}
			early, ok = t.replaceTunnel(err)
		}
		switch {
		case !ok && helloRefused: // the target's own reply, through the proxy that is in use
			n, err = t.relayFirstBytes(o.helloRefusal, true)
			return n, true, err
		case !ok:
			return 0, false, err
		case len(early) > 0:
			n, err = t.relayFirstBytes(early, false)
			return n, true, err
		}
	}
}

func (o *opening) keepHelloRefusal(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.helloRefusal = slices.Clone(p)
}

// isHelloRefused reports whether p, the target's first bytes, refuse the client's ClientHello. Either the target has no
// TLS or refuses the ClientHello with an alert, or the proxy itself has responded. Such a proxy is, for example, a web
// server that responds to CONNECT with 200 and to the ClientHello with an error page.
func (t *tunnel) isHelloRefused(p []byte) bool {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	return refusesHello(p) && o.phase == phaseReplaceable && len(o.clientBytes) > 0 && o.partialLen == 0 && !o.hedgeWon
}

// relayFirstBytes is called with p, the target's first bytes. It forwards p to the client. After that, the tunnel is
// not replaced any more.
func (t *tunnel) relayFirstBytes(p []byte, helloRefused bool) (n int64, err error) {
	o := &t.opening
	o.mu.Lock()
	sentHello := len(o.clientBytes) > 0 && o.partialLen == 0
	o.finalize()
	if !o.helloSent.IsZero() {
		t.removeFirstByteLimit()
	}
	o.mu.Unlock()
	if helloRefused {
		t.exchange.SettleHelloRefused()
	} else {
		if sentHello && t.exchange.Follow() {
			t.followed, t.records.following = true, true
			t.records.read(p)
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
	o := &t.opening
	o.mu.Lock()
	unused := len(o.clientBytes) == o.partialLen && t.client.now().After(t.exchange.UnusedAfter())
	ok = o.phase == phaseReplaceable && !unused && t.client.ctx.Err() == nil && t.exchange.CanRetry()
	var silence time.Duration
	if ok {
		o.phase = phaseReconnecting
		if errors.Is(err, os.ErrDeadlineExceeded) {
			silence = t.client.now().Sub(o.helloSent)
		}
	}
	o.mu.Unlock()
	if !ok {
		return nil, false
	}
	t.target.Close()
	ending := executor.RetryTunnel(t.client.ctx, t.exchange, err, silence, t.dial)
	o.mu.Lock()
	defer o.mu.Unlock()
	if remote := ending.Response; ending.Tunnel != nil && o.phase == phaseReconnecting {
		t.switchTunnel(remote)
		return remote.Early, true
	}
	t.closeUnusedEnding(&ending)
	o.finalize()
	return nil, false
}

// switchTunnel replaces the current tunnel by newTunnel, and sends the client's bytes through newTunnel. If newTunnel
// is the tunnel of the hedge, switchTunnel leaves out the ClientHello, because the hedge has already sent it. The
// caller holds the opening's mu.
func (t *tunnel) switchTunnel(newTunnel *transport.Tunnel) {
	o := &t.opening
	t.client.tunnel.Store(newTunnel)
	t.target = newTunnel.Conn
	t.out.init(newTunnel.Conn, newTunnel.TCP())
	unsent := o.clientBytes
	if newTunnel == o.hedgedHello.remote {
		unsent = o.clientBytes[o.hedgedHello.size:]
	}
	if len(unsent) > 0 {
		t.out.Write(unsent)
	}
	o.helloSent = time.Time{}
	kind, needed := classify(o.clientBytes)
	o.classifyAt = needed
	o.setPartialLen(kind)
	if len(newTunnel.Early) > 0 || kind == notHello {
		o.finalize()
		return
	}
	o.phase = phaseReplaceable
	o.reconnectDone.Broadcast()
	t.limitFirstByte(kind)
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
