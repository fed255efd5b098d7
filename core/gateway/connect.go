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
	c.x.Replayable = true
	c.call.Request.Rest = nil
	c.dial.Authority = c.memo.authority.HostPort
	tun, ok := executor.Do(c.ctx, c.server.Executor, &c.x, &c.dial)
	c.watch.stop()
	switch {
	case !ok:
		return c.fail()
	case tun.Refusal.Status != 0:
		return c.relayReply(&tun.Refusal)
	}
	c.tunnel.Store(tun)
	c.server.Executor.Finish(&c.x, executor.Ending{Status: http.StatusOK, At: c.server.Now()}) // the request is over, the tunnel begins
	c.entry.Tunnel()
	h := c.newHead(http.StatusOK, established, true)
	h.Length, h.Minor = -1, 1
	c.out = append(h.Append(c.borrowOut()), tun.Early...)
	if !c.write(c.out) {
		c.raw.Close() // the tunnel ends as it begins
	}
	c.raw.SetDeadline(time.Time{})
	c.outLoan.back(&c.out)
	if len(tun.Early) > 0 {
		c.server.Executor.TunnelProven(&c.x)
	}
	t := tunnel{conn: c, upstream: tun.Conn}
	t.watch(tun.TCP())
	total, died := t.join(int64(len(tun.Early)))
	c.server.Tunnels(total.up, total.down)
	c.entry.End(c.x.Final, http.StatusOK, c.server.Now())
	c.server.Executor.EndTunnel(&c.x, verdict.TunnelEnd{
		Up: total.up, Down: total.down, Died: died, Direct: tun.Direct, Stopped: c.ctx.Err() != nil,
		Idle: c.server.Now().After(c.call.Control.Deadline),
	})
	return false
}

// relayReply gives the client the last proxy's refusal of a CONNECT.
func (c *conn) relayReply(r *transport.Refusal) (keep bool) {
	c.finish(executor.Ending{Status: r.Status})
	keep = c.reusable()
	h := c.newHead(r.Status, []byte(r.Reason), keep)
	h.Fields, h.Framing, h.Length, h.Received = r.Fields, http1.Length, int64(len(r.Body)), r.Status
	b := h.Append(c.borrowOut())
	return c.finishAnswer(append(b, r.Body...), keep)
}
