package proxyhttp

import (
	"context"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// hedgeForward sends the request of a Forward a second time, while the Forward itself sends the request.
type hedgeForward struct{ Forward }

// Hedge implements executor.Hedger. A request whose body is streamed cannot be sent twice at the same time.
func (f *Forward) Hedge() executor.HedgeSender[*transport.Response] {
	if f.Request.Remainder != nil {
		return nil
	}
	h := &hedgeForward{Forward{Transport: f.Transport, Now: f.Now, Request: f.Request}}
	h.Control.BodyIdle, h.Control.LoopTokens = f.Control.BodyIdle, f.Control.LoopTokens
	return h
}

// Send implements executor.Sender.
func (h *hedgeForward) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Response {
	defer context.AfterFunc(ctx, h.Control.Interrupt.Cancel)()
	return h.Forward.Send(ctx, a, facts)
}

// Stop implements executor.Hedger.
func (f *Forward) Stop() { f.Control.Interrupt.Stop() }

// Adopt implements executor.Hedger.
func (f *Forward) Adopt(hedge executor.HedgeSender[*transport.Response], r *transport.Response) *transport.Response {
	if r == nil {
		return nil
	}
	f.Response.Adopt(r, &hedge.(*hedgeForward).Control, &f.Control)
	return &f.Response
}

// hedgeConnect opens a second tunnel to the target of a Connect, while the Connect itself opens a tunnel.
type hedgeConnect struct {
	Connect
	control transport.Control
}

// Hedge implements executor.Hedger.
func (c *Connect) Hedge() executor.HedgeSender[*transport.Tunnel] {
	h := &hedgeConnect{Connect: Connect{Transport: c.Transport, Authority: c.Authority}}
	h.Control = &h.control
	h.control.LoopTokens = c.Control.LoopTokens
	return h
}

// Send implements executor.Sender.
func (h *hedgeConnect) Send(ctx context.Context, a *executor.Attempt, facts *verdict.Facts) *transport.Tunnel {
	defer context.AfterFunc(ctx, h.control.Interrupt.Cancel)()
	return h.Connect.Send(ctx, a, facts)
}

// Stop implements executor.Hedger.
func (c *Connect) Stop() { c.Control.Interrupt.Stop() }

// Adopt implements executor.Hedger. It returns t unchanged, because a tunnel does not depend on its Sender.
func (c *Connect) Adopt(_ executor.HedgeSender[*transport.Tunnel], t *transport.Tunnel) *transport.Tunnel {
	return t
}
