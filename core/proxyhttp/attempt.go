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
	_ executor.Sender[*transport.Response] = (*RequestSender)(nil)
	_ executor.Hedger[*transport.Response] = (*RequestSender)(nil)
	_ executor.Sender[*transport.Tunnel]   = (*TunnelSender)(nil)
	_ executor.Hedger[*transport.Tunnel]   = (*TunnelSender)(nil)
)

// RequestSender sends one request. Each call of Send makes one attempt. It implements executor.Sender. When a request
// has ended, the RequestSender can be used for another request. The field Response holds the response. If the context
// of Send is cancelled, the caller must call Control.Interrupt.Cancel.
type RequestSender struct {
	Transport *transport.Transport
	Now       func() time.Time
	Control   transport.Control
	Request   transport.Request
	Response  transport.Response
}

// Send implements executor.Sender.
func (s *RequestSender) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Response {
	setControl(&s.Control, a)
	facts.Err = s.Transport.RoundTrip(ctx, a.Upstream, &s.Control, &s.Request, &s.Response)
	facts.Timing = s.Control.Timing
	if facts.Err != nil {
		return nil
	}
	s.Response.AddFacts(facts)
	return &s.Response
}

// Discard implements executor.Sender. It reads the rest of a short body, so that the connection can
// be reused.
func (s *RequestSender) Discard(r *transport.Response) {
	if r != nil {
		r.Drain(&s.Control)
		r.Finish(&s.Control, s.Now())
	}
	if s.Control.MayStop {
		s.Control.Interrupt.Resume()
	}
}

// Close ends the response's body and releases its connection. The caller passes the error that ended the body early, or
// nil if the body was read to its end or its rest is not needed. Close returns the facts about the relay, except
// ClientLeft.
func (s *RequestSender) Close(bodyErr error, now time.Time) verdict.RelayEnd {
	relayed := verdict.RelayEnd{BodyErr: bodyErr}
	if bodyErr != nil {
		relayed.RequestBroke, relayed.Cancelled = s.Response.RequestBodyBroken(&s.Request), s.Control.Interrupt.Ended()
	}
	s.Response.Finish(&s.Control, now)
	return relayed
}

// TunnelSender opens one tunnel. It implements executor.Sender. Each call of Send makes one attempt. If Send returns a
// Tunnel whose Refused.Status is 0, the tunnel is open; with any other status, the proxy has refused the tunnel.
type TunnelSender struct {
	Transport *transport.Transport
	Control   *transport.Control
	Authority string // host:port of the target
}

// Send implements executor.Sender.
func (s *TunnelSender) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Tunnel {
	setControl(s.Control, a)
	s.Control.NewConnection = true
	tunnel, fault := s.Transport.OpenTunnel(ctx, a.Upstream, s.Control, s.Authority)
	facts.Err, facts.Timing = fault, s.Control.Timing
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
func (s *TunnelSender) Discard(t *transport.Tunnel) {
	if t != nil && t.Refused.Status == 0 {
		t.Abort()
	}
	if s.Control.MayStop {
		s.Control.Interrupt.Resume()
	}
}

// setControl copies the settings of the attempt a to c.
func setControl(c *transport.Control, a *executor.Attempt) {
	c.Started, c.Deadline, c.RequestDeadline = a.Started, a.Deadline, a.RequestDeadline
	c.NewConnection, c.CurrentDeadline, c.MayStop = a.NewConnection, a.CurrentDeadline, a.MayStop
	c.Session, c.Region, c.Meters = a.Session, a.Region, a.Meters
}
