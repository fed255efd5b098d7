package gateway

import (
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var established = []byte("Connection established")

// serveConnect serves a CONNECT to the end of its tunnel. The result keep reports whether the connection can serve
// another request.
func (r *request) serveConnect() (keep bool) {
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
		r.establish()
		r.log.status = http.StatusOK
		r.log.received, r.conn.writer.sent =
			r.server.serveTunnel(r.conn, ending.Tunnel, remote, &r.connect, &r.responseBuf)
		return false
	}
}

// establish puts the response to a successful CONNECT into r.responseBuf, unless the client already has it.
func (r *request) establish() {
	if r.connectReplied {
		r.responseBuf.buf = r.responseBuf.borrow()
		return
	}
	var h proxyhttp.Head
	r.startHead(&h, http.StatusOK, established, true)
	h.Length, h.Minor = -1, 1
	r.responseBuf.buf = h.Append(r.responseBuf.borrow())
}

// relayRefusal relays the response by which the last proxy refused the CONNECT.
func (r *request) relayRefusal(x *executor.Relay, refusal *transport.RefusedConnect) (keep bool) {
	r.exchangeEnd = r.server.Now()
	x.Close(refusal.Status, verdict.RelayEnd{}, r.exchangeEnd)
	keep = r.canReuse()
	r.log.status = refusal.Status
	if r.connectReplied {
		return false
	}
	var h proxyhttp.Head
	r.startHead(&h, refusal.Status, []byte(refusal.Reason), keep)
	h.Fields, h.Framing, h.Length = refusal.Fields, http1.Length, int64(len(refusal.Body))
	h.Received = refusal.Status
	return r.respond(append(h.Append(r.responseBuf.borrow()), refusal.Body...), keep)
}
