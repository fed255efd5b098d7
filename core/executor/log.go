package executor

import (
	"context"
	"log/slog"
)

// say writes a record about x to the log, with err unless that is nil. It goes
// past slog.Logger, which would look up the caller of each record.
func (e *Executor) say(x *Exchange, level slog.Level, msg string, err error, more ...slog.Attr) {
	log, ctx := e.log.Handler(), context.Background()
	if !log.Enabled(ctx, level) {
		return
	}
	var room [10]slog.Attr
	attrs := append(room[:0], slog.String("request_id", x.ID.String()), slog.Int("attempt", x.Attempts),
		slog.String("method", x.Method), slog.String("host", x.Host))
	if x.Proxy != nil {
		attrs = append(attrs, slog.String("proxy_id", x.Proxy.ID()))
	}
	attrs = append(attrs, more...)
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	r := slog.NewRecord(e.now(), level, msg, 0)
	r.AddAttrs(attrs...)
	log.Handle(ctx, r)
}
