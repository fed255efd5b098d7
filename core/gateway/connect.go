package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// connectCall is a CONNECT, as the executor tries it.
type connectCall struct{ conn *conn }

// Try implements executor.Call.
func (k connectCall) Try(ctx context.Context, a *executor.Attempt) (*transport.Tunnel, verdict.Facts) {
	c := k.conn
	control := &c.call.control
	control.Started, control.Deadline, control.Total, control.NewConnection = a.Started, a.Deadline, a.Total, true
	tun, f := c.server.Transport.Tunnel(ctx, a.Upstream, control, c.memo.authority)
	if f != nil {
		return nil, verdict.Facts{Err: f, Timing: control.Timing}
	}
	if tun.Refusal.Status != 0 {
		return &tun, tun.Refusal.Verdict(control.Timing)
	}
	return &tun, verdict.Facts{Status: http.StatusOK, Timing: control.Timing}
}

// Discard implements executor.Call.
func (connectCall) Discard(t *transport.Tunnel) {
	if t != nil && t.Refusal.Status == 0 {
		t.Abort()
	}
}

// connect serves a CONNECT: 200 once a tunnel stands, then bytes.
func (c *conn) connect() (keep bool) {
	c.x.Replayable = true
	c.call.request.Rest = nil
	tun, ok := executor.Do(c.ctx, c.server.Executor, &c.x, connectCall{c})
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
	b := append(c.borrowOut(), "HTTP/1.1 200 Connection established\r\n"...)
	b = c.appendOutcome(b)
	b = append(b, "\r\n"...)
	b = append(b, tun.Early...)
	c.out = b
	if !c.write(b) {
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
		Idle: c.server.Now().After(c.call.control.Deadline),
	})
	return false
}

// relayReply gives the client the last proxy's refusal of a CONNECT.
func (c *conn) relayReply(r *transport.Refusal) (keep bool) {
	c.finish(executor.Ending{Status: r.Status})
	keep = c.reusable()
	b := http1.AppendStatusLine(c.borrowOut(), r.Status, []byte(r.Reason))
	b = http1.AppendFields(b, r.Fields)
	b = http1.AppendFraming(b, http1.Length, int64(len(r.Body)))
	b = append(b, "Proxy-Status: whirlpool; received-status="...)
	b = append(b, byte('0'+r.Status/100), byte('0'+r.Status/10%10), byte('0'+r.Status%10))
	b = append(b, "; next-hop="...)
	b = appendString(b, c.x.Proxy.ID())
	b = append(b, "\r\n"...)
	b = c.appendOutcome(b)
	b = appendConnection(b, keep, c.req.Minor)
	b = append(b, "\r\n"...)
	return c.finishAnswer(append(b, r.Body...), keep)
}
