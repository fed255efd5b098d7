package gateway

import (
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// upgrade relays a 101 (Switching Protocols), and then serves the two connections as a tunnel (RFC 9110 section 7.8).
func (r *request) upgrade(relay *executor.Relay, response *transport.Response) {
	var h proxyhttp.Head
	r.startHead(&h, response.Status, response.Reason, true)
	h.Fields, h.Length, h.Upgrade = response.Fields, -1, response.Upgrade()
	if r.settings.Via {
		h.Via = proxyhttp.Via(response.Minor)
	}
	r.responseBuf.buf = h.Append(r.responseBuf.get())
	remote := response.Tunnel(&r.forward.Control)
	r.keptBody.free() // the kept body is not needed any more, and the tunnel may last for days
	r.reserved.Release()
	r.log.status = response.Status
	tunnel := relay.SwitchProtocols(r.server.Now())
	r.log.received, r.conn.writer.bytesSent = r.server.serveTunnel(r.conn, tunnel, &remote, nil, &r.responseBuf)
}
