package gateway

import (
	"github.com/whirlpool-proxy/whirlpool/core/access"
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
	if l.Received == 0 {
		l.Received = r.body.Received()
	}
	if l.Sent == 0 {
		l.Sent = r.conn.out.sent
	}
	r.server.logEnded(l, r.conn, r.cache.account, &r.exchange)
}

// logEnded completes l from x, the client's connection and the user's account, and writes it to the access log.
func (s *Server) logEnded(l *accesslog.Record, c *connection, a *access.Account, x *executor.Exchange) {
	l.Client, l.Ended = c.raw.RemoteAddr(), s.Now()
	if l.Started.IsZero() { // the request was refused at once
		l.Started = l.Ended
	}
	if a != nil {
		l.User = a.Name
	}
	if l.Ran {
		result := x.Result()
		l.Final, l.Waited, l.Attempts = result.Final, result.Waited, result.Events
	}
	s.AccessLog.Write(l)
}
