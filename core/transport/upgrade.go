package transport

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// isUpgrade reports whether the Upgrade field is sent. A request with a long body is sent without this field: a target
// that switches protocols before it has read the whole body would take the rest of the body for bytes of the new
// protocol.
func (r *Request) isUpgrade() bool {
	_, short := r.inlineBody()
	return r.Upgrade != nil && r.Remainder == nil && short
}

func (r *Response) readHead(q *Request) error {
	switch {
	case q.isUpgrade():
	case q.OnInterim != nil:
		return r.relayOrReadFinal(q)
	default:
		return r.pc.reader.ReadResponse(&r.Response, q.Method)
	}
	err := r.pc.reader.ReadUpgrade(&r.Response, q.Method)
	if err == nil && r.Status == http.StatusSwitchingProtocols && !offersProtocol(q.Upgrade, r.Upgrade()) {
		err = &http1.ProtocolError{Detail: "101 Switching Protocols to a protocol that was not asked for", Status: 400}
	}
	return err
}

// maxInterim is the maximum number of interim responses to one request that are relayed.
const maxInterim = 100

// relayOrReadFinal reads the head of the final response, and relays the interim responses before it.
func (r *Response) relayOrReadFinal(q *Request) error {
	for range maxInterim {
		err := r.pc.reader.ReadInterim(&r.Response, q.Method)
		if err != nil || r.Status >= 200 {
			return err
		}
		if r.Status > http.StatusContinue { // the gateway itself responds to Expect
			q.OnInterim(&r.Response)
		}
	}
	return &http1.ProtocolError{Detail: "more than 100 interim (1xx) responses", Status: 400}
}

// Upgrade returns the value of the Upgrade field; nil without one.
func (r *Response) Upgrade() []byte {
	for i := range r.Fields {
		if r.Fields[i].Kind == http1.Upgrade {
			return r.Fields[i].Value
		}
	}
	return nil
}

// offersProtocol reports whether protocol is an element of offer, the value of an Upgrade field.
func offersProtocol(offer, protocol []byte) bool {
	for element := range bytes.SplitSeq(offer, []byte(",")) {
		if len(protocol) > 0 && bytes.EqualFold(bytes.Trim(element, " \t"), protocol) {
			return true
		}
	}
	return false
}

// Tunnel returns the connection of the response r, which is a 101, as a tunnel for the new protocol. Afterwards the
// fields of r are not valid, and Finish does nothing.
func (r *Response) Tunnel(c *Control) Tunnel {
	pc := r.pc
	r.pc = nil
	tun := Tunnel{Conn: pc.Conn, Early: bytes.Clone(pc.reader.Buffered())}
	if e, ok := tun.Conn.(*earlyConn); ok {
		tun.Conn, tun.Early = e.Conn, append(tun.Early, e.early...)
	}
	pc.reader.Discard(len(pc.reader.Buffered()))
	pc.reader.Release()
	if c.Interrupt.detach() { // otherwise the connection keeps a deadline in the past, which ends the tunnel
		tun.Conn.SetDeadline(time.Time{})
	}
	return tun
}

// roundTripUpgrade makes an attempt as roundTripAbsolute does, for a request with an Upgrade field. Many proxies remove
// this field. If the target then responds with 400 or 426, a GET or HEAD without a body is sent once more, through a
// tunnel of the same proxy.
func (t *Transport) roundTripUpgrade(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response) *verdict.Error {
	if u.Abilities().UsesTunnel(u.Elapsed(c.Started), false) {
		verr := t.roundTrip(ctx, u, c, q, resp, q.Authority)
		if verr == nil || !refusedTunnel(verr) {
			return verr
		}
	}
	verr := t.roundTrip(ctx, u, c, q, resp, "")
	if verr == nil && u.LearnsAbilities() && ability.IsUnsupported(resp.Status) {
		if at := u.Elapsed(c.Started); u.Abilities().RecordRefusal(targetHash(q), resp.Status, q.canCompare(), at) {
			t.compareByTunnel(ctx, u, c, q, resp)
		}
		return nil
	}
	if verr != nil || !u.LearnsAbilities() || !q.canCompare() ||
		resp.Status != http.StatusBadRequest && resp.Status != http.StatusUpgradeRequired {
		return verr
	}
	first := t.holdResponse(c, resp)
	second := Response{}
	verr = t.repeatByTunnel(ctx, u, c, q, &second)
	if verr == nil && second.Status == http.StatusSwitchingProtocols {
		closeNow(first.pc.Conn)
		*resp = second
		return nil
	}
	if verr == nil {
		t.discardResponse(c, &second)
	}
	first.restore(c, resp)
	return nil
}
