package gateway

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

// checkLoop returns an error response if the request has passed this gateway before (508), or if it has too many loop
// tokens (400); otherwise nil. It keeps the loop tokens of other gateways, because each attempt sends them on.
func (r *request) checkLoop() (bad *proxyhttp.ErrorResponse) {
	r.forward.Control.LoopTokens = nil
	if !r.head.Has(http1.Via) && !r.head.Has(http1.ProxyLoop) {
		return nil
	}
	for i := range r.head.Fields {
		f := &r.head.Fields[i]
		var err error
		switch {
		case f.Kind == http1.Via:
			err = loop.CheckVia(f.Value)
		case f.Kind == http1.ProxyLoop && r.server.Loop != nil:
			var valid bool
			if valid, err = r.server.Loop.Check(f.Value); valid {
				r.loopTokens = append(r.loopTokens[:0], f.Value...) // the head may be overwritten during the attempts
				r.forward.Control.LoopTokens = r.loopTokens
			}
		}
		if err == nil {
			continue
		}
		if errors.Is(err, loop.ErrTooManyGateways) {
			// The status is 400, not 508. Another gateway that uses this gateway as a proxy would charge a 508 to it as
			// a failure, so any client could cause such failures with invented tokens.
			return badRequestResponse("too_many_gateways", err.Error())
		}
		r.outcome.Final = core.FinalLoopDetected
		r.server.Log.Warn("a request came back", slog.String("request_id", r.outcome.ID.String()),
			slog.String("host", r.cache.authority.Host), slog.String("error", err.Error()))
		return &proxyhttp.ErrorResponse{
			Status: http.StatusLoopDetected, Code: core.FinalLoopDetected.String(), Message: err.Error(),
			Reason: "proxy_loop_detected", Err: err,
		}
	}
	return nil
}
