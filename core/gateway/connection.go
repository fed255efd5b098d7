package gateway

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// connection is one client connection with its deadlines. A front speaks a protocol on it. Any goroutine may call the
// methods abort, drain and hasUnread. Only the goroutine that serves the connection may call the other methods.
type connection struct {
	pollerMu sync.Mutex // held by leavePoller, rejoinPoller and the methods that any goroutine may call

	base        net.Conn      // the connection that the listener accepted; it does not change
	netConn     net.Conn      // base, or the TLS connection above base; only the goroutine that serves c uses netConn
	reader      *http1.Reader // read buffer; only a front that speaks HTTP uses its HTTP parser
	readControl readControl
	writer      stallWriter
	clientWatch clientWatch
	now         func() time.Time
	ctx         context.Context // cancelled when the client leaves or the gateway stops
	cancel      context.CancelCauseFunc
	tunnel      atomic.Pointer[transport.Tunnel] // closed with the connection; nil without a tunnel
	certNames   []string                         // the names in the client's certificate; nil without a certificate

	client        netip.Addr // see clientOf
	refusalReason *string    // the reason why the client was refused a place; nil if the client has a place
	placeIndex    int32      // the index of the connection in places.conns, plus 1; 0 for none; guarded by places.mu
	closeAtOnce   bool       // the connection must be closed without a delay
	isStream      bool       // the connection carries the streams of an HTTP/2 connection, one at a time
}

// newConnection wraps a connection that a listener has accepted. The caller must call its method end.
func newConnection(ctx context.Context, accepted net.Conn, now func() time.Time, draining *atomic.Bool) *connection {
	accepted = socket.Wrap(accepted)
	c := &connection{
		base: accepted, netConn: accepted, reader: http1.NewReader(accepted), now: now,
		client: clientOf(accepted.RemoteAddr()),
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.readControl.conn, c.readControl.draining = accepted, draining
	c.writer.init(accepted, tcpBelow(accepted))
	c.clientWatch.conn = c
	return c
}

// tcpBelow returns c itself if c is a TCP connection, or the TCP connection below the TLS of c. It returns nil if there
// is no TCP connection.
func tcpBelow(c net.Conn) *socket.Conn {
	for {
		switch above := c.(type) {
		case *socket.Conn:
			return above
		case *tls.Conn:
			c = above.NetConn()
		case *rereadConn:
			c = above.Conn
		default:
			return nil
		}
	}
}

// leavePoller removes the connection from the runtime's poller, if it is plain TCP. Until the call of rejoinPoller,
// nothing may be read or written, and deadlines have no effect.
func (c *connection) leavePoller() {
	c.pollerMu.Lock()
	defer c.pollerMu.Unlock()
	if tcp, plain := c.netConn.(*socket.Conn); plain {
		tcp.LeavePoller()
	}
}

// rejoinPoller returns the connection to the runtime's poller. If the poller does not accept the connection, the
// connection is closed, and the next read or write fails.
func (c *connection) rejoinPoller() {
	c.pollerMu.Lock()
	defer c.pollerMu.Unlock()
	if tcp, plain := c.netConn.(*socket.Conn); plain {
		_ = tcp.RejoinPoller() // after an error, the next read or write fails as well
	}
}

func (c *connection) endServing() {
	c.writer.stall.Stop()
	c.cancel(executor.ErrClientLeft)
	c.netConn.Close()
}

// abort closes the connection and its tunnel. Reads and writes that are in progress return an
// error.
func (c *connection) abort() {
	c.pollerMu.Lock()
	defer c.pollerMu.Unlock()
	if tcp := tcpBelow(c.base); tcp != nil {
		tcp.Close() // without the close_notify of TLS, which may take seconds
	}
	c.base.Close()
	if t := c.tunnel.Load(); t != nil {
		t.Abort()
	}
}

// drain closes the connection if it has no request in flight. The gateway sets its draining flag
// before the call.
func (c *connection) drain() {
	c.pollerMu.Lock()
	defer c.pollerMu.Unlock()
	c.readControl.interruptIdleRead()
}

// hasUnread reports whether bytes of the client have arrived that have not been read from the socket.
func (c *connection) hasUnread() bool {
	c.pollerMu.Lock()
	defer c.pollerMu.Unlock()
	tcp := tcpBelow(c.base)
	return tcp != nil && socket.Unread(tcp) > 0
}

// draining reports whether the gateway is shutting down.
func (c *connection) draining() bool { return c.readControl.draining.Load() }

// write writes b and reports whether the write succeeded.
func (c *connection) write(b []byte) bool {
	_, err := c.writer.Write(b)
	return err == nil
}

const (
	lingerRefused = 100 * time.Millisecond // for a client that is refused
	lingerShort   = 500 * time.Millisecond // read timeout if the request has been read completely
	lingerWait    = 5 * time.Second        // read timeout if the client is still sending a request
	lingerTime    = 30 * time.Second       // maximum duration of linger
)

// linger closes the sending direction, and discards the client's bytes until the client closes the connection, a
// timeout passes or the gateway drains. Closing at once would reset the connection, and a client that is still sending
// would lose the response. The parameter unfinished is set if a part of the request's body is unread.
func (c *connection) linger(unfinished bool) {
	closeWrite(c.netConn)
	wait, limit := lingerShort, lingerTime
	switch {
	case c.closeAtOnce:
		c.discardUnread()
		return
	case c.refusalReason != nil:
		wait, limit = lingerRefused, lingerRefused
	case c.draining(): // the phase stays busy, so that a drain does not end the short wait
		limit = lingerShort
	case unfinished:
		wait = lingerWait
		fallthrough
	default:
		c.readControl.setCurrentWait(requestWait, c.now())
		c.readControl.setPhase(phaseIdle)
	}
	c.readControl.resumeBodyReads()
	for end := c.now().Add(limit); ; {
		c.reader.Discard(len(c.reader.Buffered()))
		c.reader.Release() // because ReadAhead does nothing if the buffer is full
		until := c.now().Add(wait)
		if until.After(end) {
			until = end
		}
		c.readControl.setDeadline(until)
		if c.reader.ReadAhead() != nil {
			return
		}
	}
}

// discardUnread discards bytes that have arrived, up to a limit, and does not wait. If a connection with unread bytes
// is closed, the system resets it, and the client may not get the response.
func (c *connection) discardUnread() {
	c.readControl.setDeadline(time.Time{}) // the deadline of the wait for the request may have passed
	for range 16 {
		c.reader.Discard(len(c.reader.Buffered()))
		c.reader.Release() // because ReadAhead does nothing if the buffer is full
		if !c.hasUnread() || c.reader.ReadAhead() != nil {
			return
		}
	}
}

// prepareReset prepares the connection for a TCP reset: when the connection is closed, the reset follows the bytes that
// have already been written. The client then gets an error instead of a regular end of the connection.
func (c *connection) prepareReset() {
	if tcp := tcpBelow(c.netConn); tcp != nil {
		tcp.SetLinger(0)
		if _, plain := c.netConn.(*socket.Conn); !plain {
			tcp.Close() // without the close_notify of TLS, which would be a regular end
		}
	}
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
		return
	}
	c.Close()
}
