package gateway

import (
	"net/http"
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// countHop takes one from the Max-Forwards of a TRACE or OPTIONS (RFC 9110
// section 7.6.2) and reports whether none is left: the request goes no further.
// Other methods, and what is no number, go on as they are.
func (c *conn) countHop() (last bool) {
	if c.request.Method != http.MethodTrace && c.request.Method != http.MethodOptions {
		return false
	}
	for i := range c.req.Fields {
		f := &c.req.Fields[i]
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

// answerLastHop answers a request that goes no further as if this were its
// origin: a TRACE with the request itself, but for what is secret (RFC 9110
// section 9.3.8), an OPTIONS with nothing.
func (c *conn) answerLastHop() (keep bool) {
	var echo []byte
	if c.request.Method == http.MethodTrace {
		echo = http1.AppendRequestLine(nil, c.req.Method, c.req.Target)
		for i := range c.req.Fields {
			if f := &c.req.Fields[i]; !secret(f) {
				echo = http1.AppendField(echo, string(f.Name), f.Value)
			}
		}
		echo = append(echo, "\r\n"...)
	}
	c.outcome.Final = core.FinalSuccess
	keep = c.reusable() && c.discardBody()
	h := c.newHead(http.StatusOK, []byte("OK"), keep)
	h.Framing, h.Length = http1.Length, int64(len(echo))
	if echo != nil {
		h.ContentType = "message/http"
	}
	b := h.Append(c.borrowOut())
	return c.finishAnswer(append(b, echo...), keep)
}

// secret reports whether a field is not shown to whoever may read the answer.
func secret(f *http1.Field) bool {
	return f.Kind == http1.ProxyAuthorization || http1.EqualFold(f.Name, "authorization") || http1.EqualFold(f.Name, "cookie")
}
