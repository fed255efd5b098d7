package gateway

import (
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
)

// logs reports whether requests are written to the access log.
func (s *Server) logs() bool { return s.AccessLog != nil && s.AccessLog.On() }

// logRequest writes the request, which has ended, to the access log.
func (r *request) logRequest() {
	if !r.server.logs() {
		return
	}
	l := &r.log
	l.Listener, l.Method, l.Minor, l.Started = r.input.Listener, r.input.Method, r.head.Minor, r.input.Started
	l.Received += r.body.Received()
	l.Sent = r.conn.out.sent
	if l.Ran && l.Final == 0 {
		addResult(l, &r.exchange)
	}
	r.server.logEnded(l, r.conn)
}

// logEnded completes l and writes it to the access log.
func (s *Server) logEnded(l *accesslog.Record, c *connection) {
	l.Client, l.Ended = c.raw.RemoteAddr(), s.Now()
	if l.Started.IsZero() { // the request was refused at once
		l.Started = l.Ended
	}
	s.AccessLog.Write(l)
}

// addResult adds the result of x to l.
func addResult(l *accesslog.Record, x *executor.Exchange) {
	result := x.Result()
	l.Final, l.Waited, l.Attempts = result.Final, result.Waited, result.Events
}
