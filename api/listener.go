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

// Limits on the pause after an error of Accept, for example if no file descriptor is left.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// refusalResponse is the response to a connection beyond a limit.
const refusalResponse = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 91\r\n" +
	"Retry-After: 1\r\nConnection: close\r\n\r\n" +
	`{"error":"too_many_connections","message":"the API is handling as many requests as it can"}`

// reservedConnections is the number of connections that the API accepts even if no file descriptor is left, so that an
// operator can reach the API of a gateway at its limits.
const reservedConnections = 8

// Files are the file descriptors that the API shares with the gateway.
type Files interface {
	Limit() int // 0 for no limit
	Acquire(use budget.Purpose, n int) bool
	AcquireAlways(n int)
	Release(use budget.Purpose, n int)
}

// listener accepts the connections of the API. The number of open connections has a limit, and one client address may
// use at most seven eighths of this limit. At a limit, the listener closes the connection that has waited longest for a
// request, and accepts the new one. If all connections have a request in progress, the new client gets a 503.
type listener struct {
	net.Listener
	files    Files
	maxConns int
	log      *slog.Logger
	now      func() time.Time
	tls      func() *tls.Config // returns nil without TLS

	limits func() Limits

	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
}

func newListener(l net.Listener, files Files, limit int, log *slog.Logger, now func() time.Time, limits func() Limits,
) *listener {
	return &listener{Listener: l, files: files, maxConns: limit, log: log, now: now, conns: map[*conn]struct{}{},
		tls: func() *tls.Config { return nil }, limits: limits}
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
		if c := l.admitConn(raw); c != nil {
			return c, nil
		}
	}
}

// admitConn adds a connection to the listener. At a limit, it first closes a connection that waits for a request. If
// there is none, it refuses the new connection and returns nil.
func (l *listener) admitConn(raw net.Conn) net.Conn {
	tcp, _ := socket.Wrap(raw).(*socket.Conn)
	c := &conn{Conn: raw, tcp: tcp, listener: l, waitStart: l.now(), client: hostOf(raw.RemoteAddr())}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.countConns(c.client) >= l.maxConns-l.maxConns/8:
		if !l.closeOldest(c.client) {
			l.refuseConn(raw)
			return nil
		}
	case len(l.conns) >= l.maxConns:
		if !l.closeOldest("") {
			l.refuseConn(raw)
			return nil
		}
	}
	// Acquire may close connections of the gateway's clients to get a descriptor. It never locks this listener, so
	// there is no deadlock.
	if !l.files.Acquire(budget.ForOthers, 1) {
		if len(l.conns) >= reservedConnections && !l.closeOldest("") {
			l.refuseConn(raw)
			return nil
		}
		l.files.AcquireAlways(1)
	}
	if config := l.tls(); config != nil {
		c.Conn = tls.Server(raw, config)
	}
	c.requestReader = newStrictReader(watchedConn{c.Conn, c}, l.now, l.limits)
	l.conns[c] = struct{}{}
	return c
}

// refuseConn sends a 503, or nothing if the client expects TLS, and closes the connection.
func (l *listener) refuseConn(raw net.Conn) {
	if l.tls() == nil {
		raw.SetWriteDeadline(l.now().Add(time.Second))
		_, _ = io.WriteString(raw, refusalResponse) // does not block: the buffer is empty
	}
	raw.Close()
}

// countConns returns the number of connections from a client's address. The caller holds mu.
func (l *listener) countConns(client string) (n int) {
	for c := range l.conns {
		if c.client == client {
			n++
		}
	}
	return n
}

// closeOldest closes the connection that has waited longest for a request. If the parameter client is not "", it looks
// only at the connections from this address. It returns false if no connection waits. A client that has sent nothing
// yet gets a 503, because it may be about to send its first request. The caller holds mu.
func (l *listener) closeOldest(client string) bool {
	var oldest *conn
	for c := range l.conns {
		if c.isWaiting() && (client == "" || c.client == client) &&
			(oldest == nil || c.waitStart.Before(oldest.waitStart)) {
			oldest = c
		}
	}
	switch {
	case oldest == nil:
		return false
	case oldest.hasReceived.Load():
		rawConn(oldest.Conn).Close()
	default:
		l.refuseConn(rawConn(oldest.Conn))
	}
	l.removeConn(oldest)
	return true
}

// removeConn removes a connection and returns its descriptor to the budget. A second call has no effect. The caller
// holds mu.
func (l *listener) removeConn(c *conn) {
	if _, ok := l.conns[c]; ok {
		delete(l.conns, c)
		l.files.Release(budget.ForOthers, 1)
	}
}

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// conn is a connection of a listener. Its Close gives the client time to read the last response. An immediate close
// would reset a connection with unread bytes, such as the rest of a body that is too large. The client might then not
// get the response.
type conn struct {
	net.Conn
	tcp           *socket.Conn // shows whether there are bytes to read; nil if the connection is not TCP
	requestReader *strictReader
	listener      *listener
	client        string      // the client's address without its port
	readMu        sync.Mutex  // held during a read, because a *socket.Conn (of a passed socket) permits one at a time
	hasReceived   atomic.Bool // bytes of the client have been read
	hasInput      atomic.Bool // bytes have been read, and the next read has not begun
	closing       atomic.Bool // Close has been called
	stall         socket.Stall
	uses          int       // calls of beginUse without an endUse; guarded by listener.mu
	waitStart     time.Time // start of the wait for a request; guarded by listener.mu
}

// isWaiting reports whether the connection waits for bytes of the client. If it returns false, a request is in progress
// or has arrived. The caller holds listener.mu.
func (c *conn) isWaiting() bool {
	return c.uses == 0 && !c.hasInput.Load() && socket.Unread(c.tcp) == 0
}

// watchedConn records in conn whether bytes have arrived.
type watchedConn struct {
	net.Conn // the Conn of conn
	conn     *conn
}

// Read implements net.Conn.
func (w watchedConn) Read(p []byte) (int, error) {
	w.conn.hasInput.Store(false)
	w.conn.readMu.Lock()
	n, err := w.Conn.Read(p)
	w.conn.readMu.Unlock()
	if n > 0 {
		w.conn.hasReceived.Store(true)
		w.conn.hasInput.Store(true)
	}
	return n, err
}

// SetReadDeadline implements net.Conn. After a call of Close, it ignores the given deadline, and sets a deadline of
// lingerTime from now.
func (w watchedConn) SetReadDeadline(deadline time.Time) error {
	err := w.Conn.SetReadDeadline(deadline)
	if w.conn.closing.Load() {
		return w.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	}
	return err
}

// Write implements net.Conn. It fails if the client stops reading, or is slower than the minimum rate. It also fails if
// strictReader has already sent an error response, because fasthttp would send a second one.
func (c *conn) Write(p []byte) (n int, err error) {
	if c.requestReader.hasResponded.Load() {
		return 0, net.ErrClosed
	}
	if c.tcp != nil {
		limits := c.listener.limits()
		c.stall.MinRate, c.stall.Grace = limits.MinBodyRate, socket.RateGrace
		c.stall.Start(c.tcp, limits.BodyIdle)
		defer c.stall.Stop()
	}
	return c.Conn.Write(p)
}

// Read returns the requests in canonical form (see strictReader).
func (c *conn) Read(p []byte) (int, error) { return c.requestReader.Read(p) }

// beginUse is called when a request begins. Until endUse is called, closeOldest does not close the connection.
func (c *conn) beginUse() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.uses++
}

func (c *conn) endUse() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.uses--
	c.waitStart = c.listener.now()
}

// Close immediately ends the stream to the client. A goroutine closes the connection when the client has ended its own
// stream, has sent lingerBytes, or has used up lingerTime. Until then, the connection counts as waiting for a request.
func (c *conn) Close() error {
	c.hasInput.Store(false)
	c.closing.Store(true)
	closer, ok := c.Conn.(interface{ CloseWrite() error }) // TCP or TLS
	if !ok || closer.CloseWrite() != nil || c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return c.closeNow()
	}
	go func() {
		c.readMu.Lock() // in a shutdown, the server may still read
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
		c.readMu.Unlock()
		c.closeNow()
	}()
	return nil
}

// rawConn returns the connection below c if c is a TLS connection; otherwise it returns c. Closing the result never
// waits for the client.
func rawConn(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}

func (c *conn) closeNow() error {
	c.listener.mu.Lock()
	c.listener.removeConn(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
