package gateway

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// maxFlight bounds the client's first bytes that are kept to be sent again.
const maxFlight = 64 << 10

// opening is the time of a tunnel before the target's first byte. What the client has sent
// is kept. As long as that is a TLS ClientHello or nothing, a tunnel that ends, or lets the
// ClientHello wait for too long, is replaced by one through another proxy.
type opening struct {
	mu     sync.Mutex // of the following, and of the tunnel's target and out until the phase is final
	ended  sync.Cond  // of mu: the phase is not reconnecting any more
	phase  phase
	sent   []byte    // by the client
	needed int       // as long as sent is shorter, it is a part of a ClientHello
	part   int       // length of the incomplete ClientHello that the client has sent; 0 after a complete one
	since  time.Time // when the ClientHello was sent; zero if the target's silence is not limited
}

type phase uint8

const (
	final        phase = iota // the tunnel is not replaced any more
	replaceable               // what the client has sent may be sent again
	reconnecting              // the tunnel has failed, and there is no new one yet
)

// sendFirst passes on what the client sends until the tunnel is final.
func (t *tunnel) sendFirst() (n int64, err error) {
	r := t.client.reader
	if early := r.Buffered(); len(early) > 0 {
		n, err = t.forward(early)
		r.Discard(len(early))
	}
	r.Release()
	for err == nil && !t.isFinal() {
		var buf *[]byte
		var m int
		var readErr, writeErr error
		if buf, m, readErr = t.buffers.read(t.client.raw, nil); m > 0 {
			var sent int64
			sent, writeErr = t.forward((*buf)[:m])
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
	return t.opening.phase == final
}

// forward passes p on to the target and keeps it while the tunnel may be replaced. Its
// error is a *socket.WriteError. While the tunnel may be replaced a write error is ignored: the
// read from the target then fails too, and replaces the tunnel.
func (t *tunnel) forward(p []byte) (n int64, err error) {
	if t.keep(p) {
		return int64(len(p)), nil
	}
	m, err := t.out.Write(p)
	if err != nil {
		err = &socket.WriteError{Err: err}
	}
	return int64(m), err
}

// keep keeps p, and passes it on if there is a tunnel. It returns false if the tunnel is
// final; p has not been passed on then.
func (t *tunnel) keep(p []byte) bool {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	full := len(o.sent)+len(p) > maxFlight
	for full && o.phase == reconnecting {
		o.ended.Wait()
	}
	switch {
	case o.phase == final:
		return false
	case full:
		o.finalize()
		return false
	}
	all := p // most often the client has sent nothing before
	if len(o.sent) > 0 {
		all = append(o.sent, p...)
	}
	kind := partialHello
	if o.phase == replaceable && len(all) >= o.needed {
		if kind, o.needed = classify(all); kind == notHello {
			o.finalize()
			return false
		}
	}
	o.sent = append(o.sent, p...)
	if o.phase == reconnecting {
		return true // reconnected classifies the bytes
	}
	o.setPart(kind)
	t.out.Write(p)
	t.limitSilence(kind)
	return true
}

// setPart sets part; kind is the kind of the bytes in sent. It requires mu.
func (o *opening) setPart(kind hello) {
	o.part = 0
	if kind == partialHello {
		o.part = len(o.sent)
	}
}

// unused reports whether the client has sent nothing, or only a part of a ClientHello, among
// the up bytes that it has sent: the target has nothing to answer.
func (o *opening) unused(up int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return up == int64(o.part)
}

// finalize makes the tunnel final. It requires mu.
func (o *opening) finalize() {
	o.phase, o.sent = final, nil
	o.ended.Broadcast()
}

// recheckEvery is how often the limit of a silence is looked at: it depends on what the
// pool's proxies take.
const recheckEvery = 250 * time.Millisecond

// limitSilence begins to limit the time in which the target has to send something, if the
// ClientHello is whole. It requires the opening's mu.
func (t *tunnel) limitSilence(kind hello) {
	if kind == wholeHello {
		t.opening.since = t.client.now()
		t.extend(t.opening.since)
	}
}

// extend lets the target be silent until the next look at the limit. It returns false if
// the limit has passed. It requires the opening's mu.
func (t *tunnel) extend(now time.Time) bool {
	limit := t.exchange.Silence()
	if limit == 0 {
		t.target.SetReadDeadline(time.Time{})
		return true
	}
	left := limit - now.Sub(t.opening.since)
	if left <= 0 {
		return false
	}
	t.target.SetReadDeadline(now.Add(min(left, recheckEvery)))
	return true
}

// waitOn reports whether the target may go on being silent after a read ended with err.
func (t *tunnel) waitOn(err error) bool {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.since.IsZero() || !errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case o.phase == replaceable:
		return t.extend(t.client.now())
	}
	t.unlimit()
	return true
}

// unlimit ends the limit of the target's silence. It requires the opening's mu.
func (t *tunnel) unlimit() {
	t.opening.since = time.Time{}
	t.target.SetReadDeadline(time.Time{})
	t.await(t.target)
}

// clientEnded is called when nothing more comes from the client. It returns the connection
// that was written to.
func (t *tunnel) clientEnded() (target net.Conn) {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.phase == reconnecting {
		t.client.cancel(executor.ErrClientLeft)
	}
	o.finalize()
	return t.target
}

// receiveFirst passes on the first bytes from the target, and replaces the tunnel while it
// may. heard is set if there were any; n is how many of them the client has got. An error of
// the client's connection is a *socket.WriteError. A target that ended without a byte is
// io.ErrUnexpectedEOF.
func (t *tunnel) receiveFirst() (n int64, heard bool, err error) {
	for {
		t.await(t.target)
		buf, m, err := t.buffers.read(t.target, nil)
		if m > 0 {
			n, err = t.first((*buf)[:m])
			t.buffers.put(buf)
			return n, true, err
		}
		t.buffers.put(buf)
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if t.waitOn(err) {
			continue
		}
		early, ok := t.replace(err)
		switch {
		case !ok:
			return 0, false, err
		case len(early) > 0:
			n, err = t.first(early)
			return n, true, err
		}
	}
}

// first passes on p, the first bytes from the target: the tunnel stays.
func (t *tunnel) first(p []byte) (n int64, err error) {
	t.opening.mu.Lock()
	t.opening.finalize()
	if !t.opening.since.IsZero() {
		t.unlimit()
	}
	t.opening.mu.Unlock()
	t.exchange.Proven()
	m, err := t.client.out.Write(p)
	if err != nil {
		err = &socket.WriteError{Err: err}
	}
	return int64(m), err
}

// replace replaces a tunnel that failed with err. It returns the bytes that the target has
// already sent through the new tunnel. ok is false if the tunnel is final or unused, if the
// client has left, or if there is no other proxy or none opens a tunnel.
func (t *tunnel) replace(err error) (early []byte, ok bool) {
	o := &t.opening
	o.mu.Lock()
	unused := len(o.sent) == o.part && t.client.now().After(t.exchange.UnusedAfter())
	ok = o.phase == replaceable && !unused && t.client.ctx.Err() == nil && t.exchange.CanRetry()
	if ok {
		o.phase = reconnecting
	}
	o.mu.Unlock()
	if !ok {
		return nil, false
	}
	t.target.Close()
	silent := errors.Is(err, os.ErrDeadlineExceeded)
	ending := executor.RetryTunnel(t.client.ctx, t.exchange, err, silent, t.dial)
	o.mu.Lock()
	defer o.mu.Unlock()
	if way := ending.Response; ending.Tunnel != nil && o.phase == reconnecting {
		t.reconnected(way)
		return way.Early, true
	}
	t.drop(&ending)
	o.finalize()
	return nil, false
}

// reconnected makes way the tunnel, and sends again what the client has sent. It requires
// the opening's mu.
func (t *tunnel) reconnected(way *transport.Tunnel) {
	o := &t.opening
	t.client.tunnel.Store(way)
	t.target = way.Conn
	t.out.init(way.Conn, way.TCP())
	if len(o.sent) > 0 {
		t.out.Write(o.sent)
	}
	o.since = time.Time{}
	kind, needed := classify(o.sent)
	o.needed = needed
	o.setPart(kind)
	if len(way.Early) > 0 || kind == notHello {
		o.finalize()
		return
	}
	o.phase = replaceable
	o.ended.Broadcast()
	t.limitSilence(kind)
}

// drop ends an exchange that is of no use for the client any more. The client has got its 200.
func (t *tunnel) drop(ending *executor.Ending[*transport.Tunnel]) {
	now := t.client.now()
	switch {
	case ending.Tunnel != nil:
		t.dial.Discard(ending.Response)
		ending.Tunnel.Close(verdict.TunnelEnd{Stopped: true}, now)
	case ending.Relay != nil:
		ending.Relay.Close(http.StatusOK, verdict.Relayed{}, now)
	default:
		ending.Refusal.Close(http.StatusOK, now)
	}
}
