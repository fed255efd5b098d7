package transport

import (
	"context"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// roundTripAbsolute makes an attempt for an http:// target through an HTTP or HTTPS proxy: in absolute form or, if the
// proxy cannot forward, through a tunnel to the target. It records the abilities of the proxy that the responses show
// (package ability).
func (t *Transport) roundTripAbsolute(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response) *verdict.Error {
	if q.isUpgrade() {
		return t.roundTripUpgrade(ctx, u, c, q, resp)
	}
	a, at := u.Abilities(), u.Elapsed(c.Started)
	var refused *verdict.Error // the error of the refused tunnel; the request is then sent in absolute form
	if a.UsesTunnel(at, q.canCompare()) {
		verr := t.roundTrip(ctx, u, c, q, resp, q.Authority)
		if verr == nil || !refusedTunnel(verr) {
			return verr
		}
		refused = verr
	}
	verr := t.roundTrip(ctx, u, c, q, resp, "")
	if verr != nil || !u.LearnsAbilities() {
		return verr
	}
	switch {
	case resp.Status < 400:
		u.RecordForwarded(q.Target, at)
	case refused != nil && ability.IsUnsupported(resp.Status):
		a.RecordRefusedForward(ability.TunnelTo(q.Authority), targetHash(q), at)
		if q.canCompare() && u.HasPeers() {
			t.discardResponse(c, resp)
			refused.Cause = verdict.TunnelUnsupported // retried through another proxy; the attempt is excluded
			return refused
		}
	case refused == nil && resp.InnerOutcome == "" &&
		a.RecordRefusal(targetHash(q), resp.Status, q.canCompare(), at):
		t.compareByTunnel(ctx, u, c, q, resp)
	}
	return nil
}

// canCompare reports whether the request can be sent both in absolute form and through a tunnel to compare the
// responses. It must be a GET or HEAD without a body.
func (r *Request) canCompare() bool {
	return r.Framing == http1.NoBody && (string(r.Method) == http.MethodGet || string(r.Method) == http.MethodHead)
}

func targetHash(q *Request) uint64 { return upstream.Target(q.Authority).Hash }

// refusedTunnel reports whether the proxy refused to open a tunnel, or closed the connection instead.
func refusedTunnel(verr *verdict.Error) bool {
	switch verr.Cause {
	case verdict.TunnelRefused, verdict.TunnelUnsupported, verdict.TunnelBroke:
		return true
	}
	return false
}

// compareWait limits the time of a comparison.
const compareWait = 2 * time.Second

// compareByTunnel repeats a request to which the proxy has responded with an error status: it sends the request through
// a tunnel of the same proxy. If the two responses show that the proxy cannot forward, the second response replaces
// resp.
func (t *Transport) compareByTunnel(ctx context.Context, u *upstream.Upstream, c *Control, q *Request, resp *Response) {
	first := t.holdResponse(c, resp)
	second := Response{}
	verr := t.repeatByTunnel(ctx, u, c, q, &second)
	if verr != nil && !c.Interrupt.detach() { // the attempt was interrupted, which permits no conclusion
		first.restore(c, resp)
		return
	}
	status := 0
	if verr == nil {
		status = second.Status
	}
	if u.Abilities().RecordComparison(targetHash(q), first.Status, status, u.Elapsed(t.cfg.Now())) {
		closeNow(first.pc.Conn)
		*resp = second
		return
	}
	switch {
	case verr == nil:
		t.discardResponse(c, &second)
	case ability.IsUnsupported(first.Status):
		u.ForwardRefused(q.Target, first.Status, u.Elapsed(t.cfg.Now()))
	}
	first.restore(c, resp)
}

// heldResponse is a response that is kept while the request is sent a second time.
type heldResponse struct {
	Response
	timing core.Timing
}

// holdResponse copies resp to a heldResponse, and detaches the connection of resp from c.Interrupt.
func (t *Transport) holdResponse(c *Control, resp *Response) heldResponse {
	c.Interrupt.detach()
	return heldResponse{Response: *resp, timing: c.Timing}
}

// restore copies the held response back to resp, and attaches its connection to c.Interrupt again.
func (h *heldResponse) restore(c *Control, resp *Response) {
	*resp, c.Timing = h.Response, h.timing
	if !c.Interrupt.attach(h.pc.Conn) {
		h.pc.SetDeadline(aLongTimeAgo)
	}
}

// repeatByTunnel sends q again through a tunnel. It takes at most compareWait.
func (t *Transport) repeatByTunnel(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	second *Response) *verdict.Error {
	deadline, newDeadline := c.Deadline, c.CurrentDeadline
	if end := t.cfg.Now().Add(compareWait); end.Before(deadline) {
		c.Deadline, c.CurrentDeadline = end, nil
	}
	verr := t.roundTrip(ctx, u, c, q, second, q.Authority)
	c.Deadline, c.CurrentDeadline = deadline, newDeadline
	return verr
}

// discardResponse ends an attempt whose response resp is not used.
func (t *Transport) discardResponse(c *Control, resp *Response) {
	resp.reusable = false
	resp.Finish(c, t.cfg.Now())
}

// recordTunnelAbility records the ability that a proxy's response to a CONNECT shows.
func (t *Transport) recordTunnelAbility(u *upstream.Upstream, authority string, r *RefusedConnect) {
	if !u.LearnsAbilities() {
		return
	}
	switch at := u.Elapsed(t.cfg.Now()); {
	case r.Status == 0:
		u.TunnelOpened(authority, at)
	case r.Status == http.StatusProxyAuthRequired || r.InnerOutcome != "":
	case r.ErrorPage == nil || r.ErrorPage.Kind == verdict.ErrorPageForbids ||
		r.ErrorPage.Kind == verdict.ErrorPageUnclear:
		u.RecordTunnelRefused(authority, r.Status, at)
	}
}
