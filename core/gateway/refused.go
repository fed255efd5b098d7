package gateway

import (
	"context"
	"log/slog"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// refusedRequest describes a request, or a connection without a request, that the gateway itself refuses. It does not
// describe exchanges that the executor refuses: the recorder counts these exchanges by their outcome.
type refusedRequest struct {
	id           core.RequestID
	listener     core.Listener
	code         string // of the error response that an HTTP client gets
	user, target string // "" if the request was refused before the user or the target was known
}

// reportRefused counts and logs a refused request of the client c.
func (s *Server) reportRefused(c *connection, r refusedRequest) {
	if s.OnRefused != nil {
		s.OnRefused(r.listener, r.code)
	}
	level := slog.LevelInfo
	switch r.code {
	case "proxy_authentication_required", "too_many_failed_logins", "invalid_user_option", "loop_detected",
		codeNoPlace: // such refusals have records of their own, or are the usual first response to a client
		level = slog.LevelDebug
	}
	log, ctx := s.Log.Handler(), context.Background()
	if !log.Enabled(ctx, level) {
		return
	}
	record := slog.NewRecord(s.Now(), level, "request refused", 0)
	record.AddAttrs(slog.String("request_id", r.id.String()), slog.String("listener", r.listener.String()),
		slog.Any("client", c.netConn.RemoteAddr()), slog.String("user", r.user), slog.String("target", r.target),
		slog.String("error", r.code))
	log.Handle(ctx, record)
}

// reportRefused counts and logs the request, which is refused with the given code.
func (r *request) reportRefused(code string) {
	r.server.reportRefused(r.conn, refusedRequest{r.input.ID, r.input.Listener, code, r.log.user, r.log.target})
}
