package api

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Limits on reading from a connection that is being closed.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 2 * maxUpload
)

// The pauses after an error of Accept, for example if no file descriptor is left.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// noConnection is the response to a client that gets no connection.
const noConnection = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 91\r\n" +
	"Retry-After: 1\r\nConnection: close\r\n\r\n" +
	`{"error":"too_many_connections","message":"the API is handling as many requests as it can"}`

// listener accepts the API's connections, at most limit at a time. At the limit it closes the connection that
// has waited longest for a request, to make room for a new one. If all connections have a request in
// progress, the new client gets a 503.
type listener struct {
	net.Listener
	limit int
	log   *slog.Logger
	now   func() time.Time
	tls   func() *tls.Config // returns nil without TLS

	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
}

// newListener returns a listener that uses l.
func newListener(l net.Listener, limit int, log *slog.Logger, now func() time.Time) *listener {
	return &listener{Listener: l, limit: limit, log: log, now: now, conns: map[*conn]struct{}{},
		tls: func() *tls.Config { return nil }}
}

// Accept implements net.Listener. It returns an error only after Close.
func (l *listener) Accept() (net.Conn, error) {
	var pause time.Duration
	for {
		raw, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			l.log.Error("the API cannot accept a client; trying again", slog.Any("error", err), slog.Duration("pause",
				pause))
			time.Sleep(pause)
			continue
		}
		if c := l.admit(raw); c != nil {
			return c, nil
		}
	}
}

// admit makes room for a new connection. It returns nil if there is none.
func (l *listener) admit(raw net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.limit {
		oldest := l.oldestWaiting()
		if oldest == nil {
			if l.tls() == nil {
				raw.SetWriteDeadline(l.now().Add(time.Second))
				_, _ = io.WriteString(raw, noConnection) // fits into the empty buffer of a new connection
			}
			raw.Close()
			return nil
		}
		delete(l.conns, oldest)
		below(oldest.Conn).Close()
	}
	if config := l.tls(); config != nil {
		raw = tls.Server(raw, config)
	}
	c := &conn{Conn: raw, listener: l, since: l.now()}
	l.conns[c] = struct{}{}
	return c
}

// oldestWaiting returns the connection that has waited longest for a request, or nil. The caller holds mu.
func (l *listener) oldestWaiting() (oldest *conn) {
	for c := range l.conns {
		if c.busy == 0 && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	return oldest
}

// conn is a connection of a listener. Close does not close the connection until the client has read the
// response. A body that is too large is refused before it has been read. Closing the connection at that point
// would reset it, and the client might not get the response.
type conn struct {
	net.Conn
	listener *listener
	busy     int       // calls of hold without a release; guarded by listener.mu
	since    time.Time // start of the wait for a request; guarded by listener.mu
}

// hold prevents that the connection is closed to make room for another one. It is called when the connection
// has a request in progress.
func (c *conn) hold() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.busy++
}

// release ends the effect of one call of hold.
func (c *conn) release() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.busy--
	c.since = c.listener.now()
}

// Close ends the direction to the client at once. The connection ends later, in the background, when the
// client has closed the other direction or a limit is reached. Until then it counts as waiting for a request.
func (c *conn) Close() error {
	half, ok := c.Conn.(interface{ CloseWrite() error }) // TCP or TLS
	if !ok || half.CloseWrite() != nil || c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return c.end()
	}
	go func() {
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
		c.end()
	}()
	return nil
}

// below returns c, or the connection below its TLS. To close that takes no time, whatever the client does.
func below(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}

// end closes the connection.
func (c *conn) end() error {
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
