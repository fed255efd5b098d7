package executor

import (
	"context"
	"log/slog"
)

// log writes a log record about ex. It adds err unless err is nil. It calls the handler without slog.Logger,
// which would look up the calling function for each record.
func (ex *Exchange) log(level slog.Level, msg string, err error, extra ...slog.Attr) {
	log, ctx := ex.executor.log.Handler(), context.Background()
	if !log.Enabled(ctx, level) {
		return
	}
	var room [10]slog.Attr
	q := ex.request
	attrs := append(room[:0], slog.String("request_id", q.ID.String()), slog.Int("attempt", ex.result.Attempts),
		slog.String("method", q.Method), slog.String("host", q.Host))
	if ex.proxy != nil {
		attrs = append(attrs, slog.String("proxy_id", ex.proxy.ID()))
	}
	attrs = append(attrs, extra...)
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	r := slog.NewRecord(ex.executor.now(), level, msg, 0)
	r.AddAttrs(attrs...)
	log.Handle(ctx, r)
}
