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

// Forward sends one request; each call of Send makes one attempt. It implements executor.Sender. A Forward
// can be used for further requests. The field Response holds the response. If the context of Send is
// cancelled, the caller must call Control.Interrupt.Fire.
type Forward struct {
	Transport *transport.Transport
	Now       func() time.Time
	Control   transport.Control
	Request   transport.Request
	Response  transport.Response
}

// Send implements executor.Sender.
func (f *Forward) Send(ctx context.Context, a *executor.Attempt) (*transport.Response, verdict.Facts) {
	control(&f.Control, a)
	if fault := f.Transport.RoundTrip(ctx, a.Upstream, &f.Control, &f.Request, &f.Response); fault != nil {
		return nil, verdict.Facts{Err: fault, Timing: f.Control.Timing}
	}
	return &f.Response, f.Response.Verdict(f.Control.Timing)
}

// Discard implements executor.Sender. It reads the rest of a short body, so that the connection can
// be reused.
func (f *Forward) Discard(r *transport.Response) {
	if r != nil {
		r.Drain(&f.Control)
		r.Finish(&f.Control, f.Now())
	}
	if f.Control.Stoppable {
		f.Control.Interrupt.Resume()
	}
}

// Close ends the response's body and releases its connection. broke is the error that ended the body early;
// nil if it was read to its end or is not needed any more. It returns the facts about the relay, without
// ClientLeft.
func (f *Forward) Close(broke error, now time.Time) verdict.Relayed {
	relayed := verdict.Relayed{Broke: broke}
	if broke != nil {
		relayed.RequestBroke, relayed.Stopped = f.Response.RequestBodyBroken(&f.Request), f.Control.Interrupt.Fired()
	}
	f.Response.Finish(&f.Control, now)
	return relayed
}

// Connect opens one tunnel; each call of Send makes one attempt. It implements executor.Sender. The Tunnel
// that Send returns is open if Refused.Status is 0; otherwise the proxy has refused it.
type Connect struct {
	Transport *transport.Transport
	Control   *transport.Control
	Authority string // host:port of the target
}

// Send implements executor.Sender.
func (c *Connect) Send(ctx context.Context, a *executor.Attempt) (*transport.Tunnel, verdict.Facts) {
	control(c.Control, a)
	c.Control.NewConnection = true
	tunnel, fault := c.Transport.Tunnel(ctx, a.Upstream, c.Control, c.Authority)
	if fault != nil {
		return nil, verdict.Facts{Err: fault, Timing: c.Control.Timing}
	}
	if tunnel.Refused.Status != 0 {
		return &tunnel, tunnel.Refused.Verdict(c.Control.Timing)
	}
	return &tunnel, verdict.Facts{Status: http.StatusOK, Timing: c.Control.Timing}
}

// Discard implements executor.Sender.
func (c *Connect) Discard(t *transport.Tunnel) {
	if t != nil && t.Refused.Status == 0 {
		t.Abort()
	}
	if c.Control.Stoppable {
		c.Control.Interrupt.Resume()
	}
}

// control copies the settings of the attempt a to c.
func control(c *transport.Control, a *executor.Attempt) {
	c.Started, c.Deadline, c.Total, c.NewConnection = a.Started, a.Deadline, a.Total, a.NewConnection
	c.NewDeadline, c.Stoppable = a.NewDeadline, a.Hedged
	c.Session, c.Region = a.Session, a.Region
}
