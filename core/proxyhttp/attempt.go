package proxyhttp

import (
	"context"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var (
	_ executor.Sender[*transport.Response] = (*Forward)(nil)
	_ executor.Hedger[*transport.Response] = (*Forward)(nil)
	_ executor.Sender[*transport.Tunnel]   = (*Connect)(nil)
	_ executor.Hedger[*transport.Tunnel]   = (*Connect)(nil)
)

// Forward sends one request. Each call of Send makes one attempt. It implements executor.Sender. When a request has
// ended, its Forward can be used for another request. The field Response holds the response. If the context of Send
// is cancelled, the caller must call Control.Interrupt.Cancel.
type Forward struct {
	Transport *transport.Transport
	Now       func() time.Time
	Control   transport.Control
	Request   transport.Request
	Response  transport.Response
}

// Send implements executor.Sender.
func (f *Forward) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Response {
	setControl(&f.Control, a)
	facts.Err = f.Transport.RoundTrip(ctx, a.Upstream, &f.Control, &f.Request, &f.Response)
	facts.Timing = f.Control.Timing
	if facts.Err != nil {
		return nil
	}
	f.Response.AddFacts(facts)
	return &f.Response
}

// Discard implements executor.Sender. It reads the rest of a short body, so that the connection can
// be reused.
func (f *Forward) Discard(r *transport.Response) {
	if r != nil {
		r.Drain(&f.Control)
		r.Finish(&f.Control, f.Now())
	}
	if f.Control.MayStop {
		f.Control.Interrupt.Resume()
	}
}

// Close ends the response's body and releases its connection. The caller passes the error that ended the body early, or
// nil if the body was read to its end or its rest is not needed. Close returns the facts about the relay, except
// ClientLeft.
func (f *Forward) Close(bodyErr error, now time.Time) verdict.RelayEnd {
	relayed := verdict.RelayEnd{BodyErr: bodyErr}
	if bodyErr != nil {
		relayed.RequestBroke, relayed.Cancelled = f.Response.RequestBodyBroken(&f.Request), f.Control.Interrupt.Ended()
	}
	f.Response.Finish(&f.Control, now)
	return relayed
}

// Connect opens one tunnel. It implements executor.Sender. Each call of Send makes one attempt. If Send returns a
// Tunnel whose Refused.Status is 0, the tunnel is open; with any other status, the proxy has refused the tunnel.
type Connect struct {
	Transport *transport.Transport
	Control   *transport.Control
	Authority string // host:port of the target
}

// Send implements executor.Sender.
func (c *Connect) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Tunnel {
	setControl(c.Control, a)
	c.Control.NewConnection = true
	tunnel, fault := c.Transport.OpenTunnel(ctx, a.Upstream, c.Control, c.Authority)
	facts.Err, facts.Timing = fault, c.Control.Timing
	switch {
	case fault != nil:
		return nil
	case tunnel.Refused.Status != 0:
		tunnel.Refused.AddFacts(facts)
	default:
		facts.Status = http.StatusOK
	}
	return &tunnel
}

// Discard implements executor.Sender.
func (c *Connect) Discard(t *transport.Tunnel) {
	if t != nil && t.Refused.Status == 0 {
		t.Abort()
	}
	if c.Control.MayStop {
		c.Control.Interrupt.Resume()
	}
}

// setControl copies the settings of the attempt a to c.
func setControl(c *transport.Control, a *executor.Attempt) {
	c.Started, c.Deadline, c.RequestDeadline = a.Started, a.Deadline, a.RequestDeadline
	c.NewConnection, c.CurrentDeadline, c.MayStop = a.NewConnection, a.CurrentDeadline, a.MayStop
	c.Session, c.Region, c.Meters = a.Session, a.Region, a.Meters
}
