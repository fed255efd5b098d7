package gateway

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var _ executor.Hedger[*transport.Tunnel] = (*tunnel)(nil)

// hedgedHello holds the ClientHello that a hedge has sent.
type hedgedHello struct {
	way  *transport.Tunnel // the hedge's tunnel; nil without a hedge
	size int
}

// Hedge implements executor.Hedger.
func (t *tunnel) Hedge() executor.HedgeSender[*transport.Tunnel] {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.phase != replaceable || o.since.IsZero() {
		return nil
	}
	return &helloSender{HedgeSender: t.dial.Hedge(), tunnel: t, hello: slices.Clone(o.sent)}
}

// Stop implements executor.Hedger. It is called when the hedge has the target's first byte. The goroutine
// that reads from the target then takes over the hedge's tunnel.
func (t *tunnel) Stop() {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.phase == replaceable {
		o.hedgeWon = true
		t.target.SetReadDeadline(aLongTimeAgo)
	}
}

// Adopt implements executor.Hedger.
func (t *tunnel) Adopt(_ executor.HedgeSender[*transport.Tunnel], way *transport.Tunnel) *transport.Tunnel {
	return way
}

// takeHedge replaces the tunnel by the hedge's tunnel if the hedge has won. early holds the target's
// first bytes. ok is false if the hedge has not won, or the tunnel can no longer be used.
func (t *tunnel) takeHedge() (early []byte, ok bool) {
	o := &t.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	won := o.hedgeWon
	o.hedgeWon = false
	if !won || o.phase != replaceable { // the client has sent more bytes, which the hedge has not sent
		return nil, false
	}
	o.phase = reconnecting
	o.mu.Unlock()
	way, ok := executor.TakeHedge[*transport.Tunnel](t.exchange)
	o.mu.Lock()
	t.target.Close()
	if !ok || o.phase != reconnecting { // the client has left
		if ok {
			way.Abort()
		}
		o.finalize()
		return nil, false
	}
	t.reconnected(way)
	return way.Early, true
}

// helloSender opens a tunnel, sends the ClientHello and waits for the target's first bytes, which are in
// the Early field of its response.
type helloSender struct {
	executor.HedgeSender[*transport.Tunnel]
	tunnel *tunnel
	hello  []byte
}

// Send implements executor.Sender.
func (h *helloSender) Send(ctx context.Context, a *executor.Attempt) (*transport.Tunnel, verdict.Facts) {
	way, facts := h.HedgeSender.Send(ctx, a)
	if way == nil || way.Refused.Status != 0 || len(way.Early) > 0 {
		return way, facts
	}
	now := h.tunnel.client.now()
	facts.Latency = now.Sub(a.Started)
	until := now.Add(executor.LeastSilence)
	if a.Deadline.After(until) {
		until = a.Deadline
	}
	if err := h.exchange(ctx, way, until); err != nil {
		way.Abort()
		return nil, verdict.Facts{Err: silenceError(err), Timing: facts.Timing}
	}
	o := &h.tunnel.opening
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hedged = hedgedHello{way, len(h.hello)}
	return way, facts
}

// exchange sends the ClientHello through way and reads the target's first bytes into way.Early. It
// returns an error if none arrive before until, or if ctx ends.
func (h *helloSender) exchange(ctx context.Context, way *transport.Tunnel, until time.Time) error {
	way.Conn.SetDeadline(until)
	stop := context.AfterFunc(ctx, func() { way.Conn.SetDeadline(aLongTimeAgo) })
	if _, err := way.Conn.Write(h.hello); err != nil {
		stop()
		return err
	}
	buf := make([]byte, smallChunk)
	n, err := way.Conn.Read(buf)
	stop()
	switch {
	case n > 0:
	case err == nil:
		return io.ErrUnexpectedEOF
	default:
		return err
	}
	way.Early = buf[:n]
	return way.Conn.SetDeadline(time.Time{})
}

// silenceError converts err, with which a tunnel ended before the target's first byte, to the error
// of the attempt.
func silenceError(err error) *verdict.Error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &verdict.Error{Cause: verdict.NoAnswerInTime, Reason: "http_response_timeout", Err: err}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &verdict.Error{Cause: verdict.TunnelDied, Reason: "connection_terminated", Err: err}
}
