package proxyhttp

import (
	"context"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// hedgeRequest sends the request of a RequestSender a second time, while the RequestSender itself sends it.
type hedgeRequest struct{ RequestSender }

// Hedge implements executor.Hedger. A request whose body is streamed cannot be sent twice at the same time.
func (s *RequestSender) Hedge() executor.HedgeSender[*transport.Response] {
	if s.Request.Remainder != nil {
		return nil
	}
	h := &hedgeRequest{RequestSender{Transport: s.Transport, Now: s.Now, Request: s.Request}}
	h.Control.BodyIdle, h.Control.LoopTokens = s.Control.BodyIdle, s.Control.LoopTokens
	return h
}

// Send implements executor.Sender.
func (h *hedgeRequest) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Response {
	defer context.AfterFunc(ctx, h.Control.Interrupt.Cancel)()
	return h.RequestSender.Send(ctx, a, facts)
}

// Stop implements executor.Hedger.
func (s *RequestSender) Stop() { s.Control.Interrupt.Stop() }

// Adopt implements executor.Hedger.
func (s *RequestSender) Adopt(
	hedge executor.HedgeSender[*transport.Response], r *transport.Response,
) *transport.Response {
	if r == nil {
		return nil
	}
	s.Response.Adopt(r, &hedge.(*hedgeRequest).Control, &s.Control)
	return &s.Response
}

// hedgeTunnel opens a second tunnel to the target of a TunnelSender, while the TunnelSender itself opens a tunnel.
type hedgeTunnel struct {
	TunnelSender
	control transport.Control
}

// Hedge implements executor.Hedger.
func (s *TunnelSender) Hedge() executor.HedgeSender[*transport.Tunnel] {
	h := &hedgeTunnel{TunnelSender: TunnelSender{Transport: s.Transport, Authority: s.Authority}}
	h.Control = &h.control
	h.control.LoopTokens = s.Control.LoopTokens
	return h
}

// Send implements executor.Sender.
func (h *hedgeTunnel) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Tunnel {
	defer context.AfterFunc(ctx, h.control.Interrupt.Cancel)()
	return h.TunnelSender.Send(ctx, a, facts)
}

// Stop implements executor.Hedger.
func (s *TunnelSender) Stop() { s.Control.Interrupt.Stop() }

// Adopt implements executor.Hedger. It returns t unchanged, because a tunnel does not depend on its Sender.
func (s *TunnelSender) Adopt(_ executor.HedgeSender[*transport.Tunnel], t *transport.Tunnel) *transport.Tunnel {
	return t
}
