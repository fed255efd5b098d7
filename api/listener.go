package api

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// Limits on reading from a connection that is being closed.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 2 * maxUpload
)

// The shortest and the longest pause after an error of Accept, for example if no file descriptor is
// left.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// noConnection is the response to a client that is not admitted.
const noConnection = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 91\r\n" +
	"Retry-After: 1\r\nConnection: close\r\n\r\n" +
	`{"error":"too_many_connections","message":"the API is handling as many requests as it can"}`

// freeConnections is the number of connections that the API may have even if no file descriptor is left for
// them. They let an operator reach the API of a gateway that has reached its limits.
const freeConnections = 8

// Files are the file descriptors that the API shares with the gateway.
type Files interface {
	Limit() int // 0 for no limit
	Take(use budget.Use, n int) bool
	Force(n int)
	Give(use budget.Use, n int)
}

// listener accepts the connections of the API. The number of open connections has a limit, and one client address may
// have at most seven eighths of this limit. At a limit, the listener closes the connection that has waited longest for
// a request, and accepts the new connection in its place. If all connections have a request in progress, the new client
// gets a 503.
type listener struct {
	net.Listener
	files Files
	limit int
	log   *slog.Logger
	now   func() time.Time
	tls   func() *tls.Config // returns nil without TLS

	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
}

// newListener returns a listener that accepts its connections from l.
func newListener(l net.Listener, files Files, limit int, log *slog.Logger, now func() time.Time) *listener {
	return &listener{Listener: l, files: files, limit: limit, log: log, now: now, conns: map[*conn]struct{}{},
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

// admit returns a new connection as a *conn. If a limit is reached, admit first closes a connection that waits for a
// request. If no connection waits, admit refuses the new connection and returns nil.
func (l *listener) admit(raw net.Conn) net.Conn {
	tcp, _ := socket.Wrap(raw).(*socket.Conn)
	c := &conn{Conn: raw, tcp: tcp, listener: l, since: l.now(), client: host(raw.RemoteAddr())}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.count(c.client) >= l.limit-l.limit/8:
		if !l.closeOldest(c.client) {
			l.refuse(raw)
			return nil
		}
	case len(l.conns) >= l.limit:
		if !l.closeOldest("") {
			l.refuse(raw)
			return nil
		}
	}
	// Take may close connections of the gateway's clients, but it needs no lock of this listener. So mu may be held
	// during the call.
	if !l.files.Take(budget.Other, 1) {
		if len(l.conns) >= freeConnections && !l.closeOldest("") {
			l.refuse(raw)
			return nil
		}
		l.files.Force(1)
	}
	if config := l.tls(); config != nil {
		c.Conn = tls.Server(raw, config)
	}
	c.requests = newStrictReader(watchedConn{c.Conn, c}, l.now)
	l.conns[c] = struct{}{}
	return c
}

// refuse sends a 503 and closes the connection. If the client expects TLS, refuse sends nothing.
func (l *listener) refuse(raw net.Conn) {
	if l.tls() == nil {
		raw.SetWriteDeadline(l.now().Add(time.Second))
		_, _ = io.WriteString(raw, noConnection) // does not block: the buffer is empty
	}
	raw.Close()
}

// count returns the number of connections from a client's address. The caller holds mu.
func (l *listener) count(client string) (n int) {
	for c := range l.conns {
		if c.client == client {
			n++
		}
	}
	return n
}

// closeOldest closes one of the connections from a client's address: the one that has waited longest for a request. If
// the parameter client is "", closeOldest chooses among all connections. It returns false if no connection waits. If
// the client of the chosen connection has sent nothing yet, it gets a 503, because it may be about to send its first
// request. The caller holds mu.
func (l *listener) closeOldest(client string) bool {
	var oldest *conn
	for c := range l.conns {
		if c.waits() && (client == "" || c.client == client) && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	switch {
	case oldest == nil:
		return false
	case oldest.begun.Load():
		below(oldest.Conn).Close()
	default:
		l.refuse(below(oldest.Conn))
	}
	l.remove(oldest)
	return true
}

// remove removes a connection and returns its descriptor to the budget. A second call for the same connection has no
// effect. The caller holds mu.
func (l *listener) remove(c *conn) {
	if _, ok := l.conns[c]; ok {
		delete(l.conns, c)
		l.files.Give(budget.Other, 1)
	}
}

// host returns the address of a client without its port.
func host(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// conn is a connection of a listener. Its Close gives the client time to read the last response. A body that
// is too large, for example, is refused before it has been read. Closing the connection at that point would
// reset it, and the client might not get the response.
type conn struct {
	net.Conn
	tcp      *socket.Conn // shows whether there are bytes to read; nil if the connection is not TCP
	requests *strictReader
	listener *listener
	client   string      // the client's address without its port
	reading  sync.Mutex  // held during a read, because a *socket.Conn (of a passed socket) permits one at a time
	begun    atomic.Bool // bytes of the client have been read
	arrived  atomic.Bool // bytes have been read, and the next read has not begun
	busy     int         // calls of hold without a release; guarded by listener.mu
	since    time.Time   // start of the wait for a request; guarded by listener.mu
}

// waits reports whether the connection waits for bytes of the client. Otherwise it has a request in progress, or the
// gateway is about to read one. The caller holds listener.mu.
func (c *conn) waits() bool { return c.busy == 0 && !c.arrived.Load() && socket.Unread(c.tcp) == 0 }

// watchedConn is the connection from which requests are read. It records whether bytes have arrived.
type watchedConn struct {
	net.Conn // the Conn of conn
	conn     *conn
}

// Read implements net.Conn.
func (w watchedConn) Read(p []byte) (int, error) {
	w.conn.arrived.Store(false)
	w.conn.reading.Lock()
	n, err := w.Conn.Read(p)
	w.conn.reading.Unlock()
	if n > 0 {
		w.conn.begun.Store(true)
		w.conn.arrived.Store(true)
	}
	return n, err
}

// The limits for a client that reads a response slowly. The client must read each piece of the response within
// writeTime. This is possible at a rate of 546 bytes per second.
const (
	writePiece = 16 << 10
	writeTime  = 30 * time.Second
)

// Write implements net.Conn.
func (c *conn) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		c.Conn.SetWriteDeadline(time.Now().Add(writeTime))
		var m int
		m, err = c.Conn.Write(p[:min(len(p), writePiece)])
		n += m
		p = p[m:]
	}
	return n, err
}

// Read returns the requests in canonical form (see strictReader).
func (c *conn) Read(p []byte) (int, error) { return c.requests.Read(p) }

// hold prevents the connection from being closed to make room for another one. It is called when a request on the
// connection begins.
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

// Close immediately ends the direction to the client. The connection ends later, in the background, when the client
// has closed the other direction, or when lingerTime or lingerBytes is reached. Until its end, the connection counts
// as waiting for a request.
func (c *conn) Close() error {
	c.arrived.Store(false)
	half, ok := c.Conn.(interface{ CloseWrite() error }) // TCP or TLS
	if !ok || half.CloseWrite() != nil || c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return c.end()
	}
	go func() {
		c.reading.Lock() // at a shutdown, the server still reads
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
		c.reading.Unlock()
		c.end()
	}()
	return nil
}

// below returns c, or the connection below its TLS. Closing the returned connection never waits for the client.
func below(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}

// end closes the connection.
func (c *conn) end() error {
	c.listener.mu.Lock()
	c.listener.remove(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
