package gateway

import (
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var established = []byte("Connection established")

// connect serves a CONNECT: 200 once a tunnel stands, then bytes.
func (c *conn) connect() (keep bool) {
	c.request.Replayable = true
	c.call.Request.Rest = nil
	c.dial.Authority = c.memo.authority.HostPort
	ending := executor.Run(c.ctx, c.server.Executor, &c.exchange, &c.request, &c.dial)
	c.ran()
	switch tun := ending.Response; {
	case ending.Refusal != nil:
		return c.fail(ending.Refusal)
	case ending.Relay != nil:
		return c.relayReply(ending.Relay, &tun.Refusal)
	default:
		c.serveTunnel(ending.Tunnel, tun)
		return false
	}
}

// serveTunnel tells the client that the tunnel stands, and serves it to its end.
func (c *conn) serveTunnel(x *executor.Tunnel, tun *transport.Tunnel) {
	c.tunnel.Store(tun)
	h := c.newHead(http.StatusOK, established, true)
	h.Length, h.Minor = -1, 1
	c.out = append(h.Append(c.borrowOut()), tun.Early...)
	if !c.write(c.out) {
		c.raw.Close() // the tunnel ends as it begins
	}
	c.raw.SetDeadline(time.Time{})
	c.outLoan.back(&c.out)
	if len(tun.Early) > 0 {
		x.Proven()
	}
	t := tunnel{conn: c, upstream: tun.Conn, exchange: x}
	t.watch(tun.TCP())
	total, died := t.join(int64(len(tun.Early)))
	c.server.Tunnels(total.up, total.down)
	now := c.server.Now()
	x.Close(verdict.TunnelEnd{
		Up: total.up, Down: total.down, Died: died, Direct: tun.Direct, Stopped: c.ctx.Err() != nil,
		Idle: now.After(c.call.Control.Deadline),
	}, now)
}

// relayReply gives the client the last proxy's refusal of a CONNECT.
func (c *conn) relayReply(x *executor.Relay, r *transport.Refusal) (keep bool) {
	c.ended = c.server.Now()
	x.Close(r.Status, verdict.Relayed{}, c.ended)
	keep = c.reusable()
	h := c.newHead(r.Status, []byte(r.Reason), keep)
	h.Fields, h.Framing, h.Length, h.Received = r.Fields, http1.Length, int64(len(r.Body)), r.Status
	b := h.Append(c.borrowOut())
	return c.finishAnswer(append(b, r.Body...), keep)
}
