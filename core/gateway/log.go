package gateway

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/trace"
)

// logEntry is the part of a request's access log record that is collected while the request is served. It is separate
// from accesslog.Record, because it is cleared for each request, even if the access log is off.
type logEntry struct {
	target, user, code string
	clientID           string // value of the client's field X-Request-Id; "" without a valid one
	trace              trace.Context
	received           int64
	status             int
	final              core.Final
	hasRun, clientLeft bool
}

// maxClientID is the maximum length of a client's X-Request-Id for the log and the tracker.
const maxClientID = 128

// readClientID returns the value of the field X-Request-Id: an id that the client or a proxy before the gateway has
// given the request. The head must have this field. It returns "" unless the value is one word of visible ASCII
// characters.
func readClientID(fields []http1.Field) string {
	var value []byte
	for i := range fields {
		if fields[i].Kind == http1.RequestID {
			if value != nil {
				return ""
			}
			value = fields[i].Value
		}
	}
	if len(value) > maxClientID {
		return ""
	}
	for _, c := range value {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return string(value)
}

// logsRequests reports whether requests are written to the access log.
func (s *Server) logsRequests() bool { return s.AccessLog != nil && s.AccessLog.On() }

// logRequest counts the bytes of the request, which has ended, and writes the request to the access log.
func (r *request) logRequest() {
	if r.log.hasRun {
		r.server.countBytes(r.input.Host, r.log.received+r.body.Received()+r.conn.writer.bytesSent, r.exchangeEnd)
	}
	if !r.server.logsRequests() {
		return
	}
	if r.record == nil {
		r.record = &accesslog.Record{}
	}
	e, l := &r.log, r.record
	*l = accesslog.Record{
		ID: r.input.ID, ClientID: e.clientID, User: e.user, Listener: r.input.Listener, Method: r.input.Method,
		Target: e.target, Minor: r.head.Minor,
		HTTP2: r.conn.isStream, Status: e.status, Code: e.code, Final: e.final, Executed: e.hasRun,
		ClientLeft: e.clientLeft, Received: e.received + r.body.Received(), Sent: r.conn.writer.bytesSent,
		Started: r.input.Started, Rules: r.input.Route.Labels(), Trace: e.trace,
	}
	if l.Executed && l.Final == 0 {
		addResult(l, &r.exchange)
	}
	r.server.logEnded(l, r.conn)
}

// countBytes counts the bytes of a request for the target with the given host. The parameter at is the end of the
// request; the zero time stands for the current time.
func (s *Server) countBytes(host string, bytes int64, at time.Time) {
	if s.TargetBytes == nil || bytes <= 0 || host == "" {
		return
	}
	if at.IsZero() {
		at = s.Now()
	}
	s.TargetBytes(host, bytes, at)
}

// logEnded completes l and writes it to the access log.
func (s *Server) logEnded(l *accesslog.Record, c *connection) {
	l.Client, l.Ended = c.netConn.RemoteAddr(), s.Now()
	if l.Started.IsZero() { // the request was refused before its start was recorded
		l.Started = l.Ended
	}
	s.AccessLog.Write(l)
}

// addResult copies the result of the exchange ex to the record l.
func addResult(l *accesslog.Record, ex *executor.Exchange) {
	result := ex.Result()
	l.Final, l.WaitTime, l.Attempts = result.Final, result.BackoffTime, result.Events
}
