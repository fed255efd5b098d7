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

// hedgedHello states which bytes of the client a hedge has sent.
type hedgedHello struct {
	remote *transport.Tunnel // the hedge's tunnel; nil without a hedge
	size   int               // length of the ClientHello that the hedge has sent
}

// Hedge implements executor.Hedger.
func (t *tunnel) Hedge() executor.HedgeSender[*transport.Tunnel] {
	tr := &t.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.phase != phaseReplaceable || tr.helloSent.IsZero() {
		return nil
	}
	return &helloSender{HedgeSender: t.dial.Hedge(), tunnel: t, hello: slices.Clone(tr.clientBytes)}
}

// Stop implements executor.Hedger. It is called when the hedge has the target's first byte. It makes the pending read
// from the target return; the goroutine that reads then calls takeHedge.
func (t *tunnel) Stop() {
	tr := &t.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.phase == phaseReplaceable {
		tr.hedgeWon = true
		t.target.SetReadDeadline(aLongTimeAgo)
	}
}

// Adopt implements executor.Hedger.
func (t *tunnel) Adopt(_ executor.HedgeSender[*transport.Tunnel], remote *transport.Tunnel) *transport.Tunnel {
	return remote
}

// takeHedge replaces the tunnel by the hedge's tunnel if the hedge has won, and returns the target's first bytes. A
// hedge has won if it has the target's first byte. takeHedge returns false if the hedge has not won, or if the hedge's
// tunnel can no longer be used.
func (t *tunnel) takeHedge() (early []byte, ok bool) {
	tr := &t.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	won := tr.hedgeWon
	tr.hedgeWon = false
	if !won || tr.phase != phaseReplaceable { // not replaceable: the client has sent bytes that the hedge has not sent
		return nil, false
	}
	tr.phase = phaseReconnecting
	tr.mu.Unlock()
	remote, ok := executor.TakeHedge[*transport.Tunnel](t.exchange)
	tr.mu.Lock()
	t.target.Close()
	if !ok || tr.phase != phaseReconnecting { // the client has left
		if ok {
			remote.Abort()
		}
		tr.finalize()
		return nil, false
	}
	t.switchTunnel(remote)
	return remote.Early, true
}

// helloSender opens a tunnel, sends the ClientHello and waits for the target's first bytes. These bytes are in the
// field Early of the tunnel that Send returns.
type helloSender struct {
	executor.HedgeSender[*transport.Tunnel]
	tunnel *tunnel
	hello  []byte
}

// Send implements executor.Sender.
func (h *helloSender) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Tunnel {
	remote := h.HedgeSender.Send(ctx, a, facts)
	if remote == nil || remote.Refused.Status != 0 || len(remote.Early) > 0 {
		return remote
	}
	now := h.tunnel.client.now()
	facts.Latency = now.Sub(a.Started)
	until := now.Add(executor.MinFirstByteTimeout)
	if a.Deadline.After(until) {
		until = a.Deadline
	}
	if err := h.sendHello(ctx, remote, until); err != nil {
		remote.Abort()
		*facts = verdict.Facts{Err: silenceError(err), Timing: facts.Timing}
		return nil
	}
	tr := &h.tunnel.retry
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.hedgedHello = hedgedHello{remote, len(h.hello)}
	return remote
}

// sendHello sends the ClientHello through remote and reads the first bytes of the target into remote.Early. It returns
// an error if no byte arrives before the time until, if ctx ends first, or if the reply refuses the ClientHello.
func (h *helloSender) sendHello(ctx context.Context, remote *transport.Tunnel, until time.Time) error {
	remote.Conn.SetDeadline(until)
	stop := context.AfterFunc(ctx, func() { remote.Conn.SetDeadline(aLongTimeAgo) })
	if _, err := remote.Conn.Write(h.hello); err != nil {
		stop()
		return err
	}
	buf := make([]byte, smallChunk)
	n, err := remote.Conn.Read(buf)
	stop()
	switch {
	case n > 0:
	case err == nil:
		return io.ErrUnexpectedEOF
	default:
		return err
	}
	if refusesHello(buf[:n]) {
		return verdict.ErrHelloRefused
	}
	remote.Early = buf[:n]
	return remote.Conn.SetDeadline(time.Time{})
}

// silenceError returns the error of an attempt whose tunnel was ended by err before the target's first byte.
func silenceError(err error) *verdict.Error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &verdict.Error{Cause: verdict.NoAnswerInTime, Reason: "http_response_timeout", Err: err}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &verdict.Error{Cause: verdict.TunnelDied, Reason: "connection_terminated", Err: err}
}
