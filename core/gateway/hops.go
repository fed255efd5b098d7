package gateway

import (
	"net/http"
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

// decrementMaxForwards subtracts one from the Max-Forwards of a TRACE or OPTIONS (RFC 9110 section 7.6.2). It returns
// true if the value was 0. In that case the request must not be forwarded. It does not change requests with other
// methods, or values that are not numbers.
func (r *request) decrementMaxForwards() (last bool) {
	if r.input.Method != http.MethodTrace && r.input.Method != http.MethodOptions {
		return false
	}
	for i := range r.head.Fields {
		f := &r.head.Fields[i]
		if f.Kind != http1.MaxForwards {
			continue
		}
		switch n := http1.ParseLength(f.Value); {
		case n == 0:
			return true
		case n > 0:
			f.Value = strconv.AppendInt(nil, n-1, 10)
		}
	}
	return false
}

// respondLastHop responds in place of the target to a request whose Max-Forwards is 0. The response to a
// TRACE contains the request itself, without credentials and cookies (RFC 9110 section 9.3.8); the response
// to an OPTIONS has an empty body.
func (r *request) respondLastHop() (keepAlive bool) {
	var trace []byte
	if r.input.Method == http.MethodTrace {
		trace = http1.AppendRequestLine(nil, r.head.Method, r.head.Target)
		for i := range r.head.Fields {
			if f := &r.head.Fields[i]; !isSecret(f) {
				trace = http1.AppendField(trace, string(f.Name), f.Value)
			}
		}
		trace = append(trace, "\r\n"...)
	}
	r.outcome.Final = core.FinalSuccess
	r.log.hasRun, r.log.final, r.log.status = true, core.FinalSuccess, http.StatusOK
	keepAlive = r.canReuse() && r.discardBody()
	var h proxyhttp.Head
	r.startHead(&h, http.StatusOK, []byte("OK"), keepAlive)
	h.Framing, h.Length = http1.Length, int64(len(trace))
	if trace != nil {
		h.ContentType = "message/http"
	}
	return r.respond(append(h.Append(r.responseBuf.get()), trace...), keepAlive)
}

// isSecret reports whether a field holds credentials or cookies.
func isSecret(f *http1.Field) bool {
	return f.Kind == http1.ProxyAuthorization || http1.EqualFold(f.Name, "authorization") ||
		http1.EqualFold(f.Name, "cookie")
}
