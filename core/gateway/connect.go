package gateway

import (
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var connectReason = []byte("Connection established")

// serveConnect serves a CONNECT to the end of its tunnel. The result keepAlive reports whether the connection can serve
// another request.
func (r *request) serveConnect() (keepAlive bool) {
	r.input.Replayable = true
	r.forward.Request.Remainder = nil
	r.connect.Authority = r.cache.authority.HostPort
	ending := executor.Run(r.conn.ctx, r.server.Executor, &r.exchange, &r.input, &r.connect)
	r.copyResult()
	switch remote := ending.Response; {
	case ending.Refusal != nil:
		return r.respondRefusal(ending.Refusal)
	case ending.Relay != nil:
		return r.relayRefusal(ending.Relay, &remote.Refused)
	default:
		r.prepareConnectResponse()
		r.log.status = http.StatusOK
		r.log.received, r.conn.writer.bytesSent =
			r.server.serveTunnel(r.conn, ending.Tunnel, remote, &r.connect, &r.responseBuf)
		return false
	}
}

// prepareConnectResponse puts the response to a successful CONNECT into r.responseBuf, unless the client already has
// it.
func (r *request) prepareConnectResponse() {
	if r.connectReplied {
		r.responseBuf.buf = r.responseBuf.get()
		return
	}
	var h proxyhttp.Head
	r.startHead(&h, http.StatusOK, connectReason, true)
	h.Length, h.Minor = -1, 1
	r.responseBuf.buf = h.Append(r.responseBuf.get())
}

// relayRefusal relays the response by which the last proxy refused the CONNECT.
func (r *request) relayRefusal(relay *executor.Relay, refusal *transport.RefusedConnect) (keepAlive bool) {
	r.exchangeEnd = r.server.Now()
	relay.Close(refusal.Status, verdict.RelayEnd{}, r.exchangeEnd)
	keepAlive = r.canReuse()
	r.log.status = refusal.Status
	if r.connectReplied {
		return false
	}
	var h proxyhttp.Head
	r.startHead(&h, refusal.Status, []byte(refusal.Reason), keepAlive)
	h.Fields, h.Framing, h.Length = refusal.Fields, http1.Length, int64(len(refusal.Body))
	h.Received = refusal.Status
	return r.respond(append(h.Append(r.responseBuf.get()), refusal.Body...), keepAlive)
}
