package gateway

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// connection is one client connection with its deadlines. A front speaks a protocol on it. drain
// and close may be called from any goroutine, all other methods only from the goroutine that serves
// the connection.
type connection struct {
	raw    net.Conn
	reader *http1.Reader // read buffer; fronts of other protocols do not use its HTTP parser
	read   readDeadline
	out    stallWriter
	watch  leaveWatch
	now    func() time.Time
	ctx    context.Context // cancelled when the client leaves or the gateway stops
	cancel context.CancelCauseFunc
	tunnel atomic.Pointer[transport.Tunnel] // closed with the connection; nil without a tunnel
	names  []string                         // the names in the client's certificate; nil without a certificate

	place   int        // its index in places.conns plus 1; 0 for none; guarded by the mutex of places
	client  netip.Addr // see clientOf
	refused string     // why the client has no place; "" if it has one
	hasty   bool       // the connection must be closed without a delay
}

// newConnection wraps a connection that a listener has accepted. The caller must call end.
func newConnection(ctx context.Context, raw net.Conn, now func() time.Time, draining *atomic.Bool) *connection {
	raw = socket.Wrap(raw)
	c := &connection{raw: raw, reader: http1.NewReader(raw), now: now, client: clientOf(raw.RemoteAddr())}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.read.conn, c.read.draining = raw, draining
	c.out.init(raw, below(raw))
	c.watch.conn = c
	return c
}

// below returns c itself if it is a TCP connection, or the TCP connection below its TLS; nil if
// there is none.
func below(c net.Conn) *socket.Conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	tcp, _ := c.(*socket.Conn)
	return tcp
}

// end closes the connection and stops its timers.
func (c *connection) end() {
	c.out.stall.Stop()
	c.cancel(executor.ErrClientLeft)
	c.raw.Close()
}

// close closes the connection and its tunnel. Reads and writes that are in progress return an
// error.
func (c *connection) close() {
	if tcp := below(c.raw); tcp != nil {
		tcp.Close() // without the close_notify of TLS, which may take seconds
	}
	c.raw.Close()
	if t := c.tunnel.Load(); t != nil {
		t.Abort()
	}
}

// drain closes the connection if it has no request in flight. The gateway sets its draining flag
// before the call.
func (c *connection) drain() { c.read.drain() }

// unread reports whether the client's bytes have arrived and have not been read from the socket. Unlike the other
// methods it may be called from any goroutine.
func (c *connection) unread() bool {
	tcp := below(c.raw)
	return tcp != nil && socket.Unread(tcp) > 0
}

// draining reports whether the gateway is shutting down.
func (c *connection) draining() bool { return c.read.draining.Load() }

// write writes b and reports whether the write succeeded.
func (c *connection) write(b []byte) bool {
	_, err := c.out.Write(b)
	return err == nil
}

const (
	lingerRefused = 100 * time.Millisecond // for a client that is refused
	lingerShort   = 500 * time.Millisecond // read timeout if the request has been read completely
	lingerWait    = 5 * time.Second        // read timeout if the client is still sending a request
	lingerTime    = 30 * time.Second       // maximum duration of linger
)

// linger gives a client that is still sending the time to read the last response. Closing the connection at
// once would reset it, and many clients do not read the response before they have sent everything. Therefore
// linger closes only the sending direction, and reads and discards the client's bytes until the client
// closes the connection or a timeout passes. unfinished is set if the request's body has not been read
// completely. A drain ends linger.
func (c *connection) linger(unfinished bool) {
	closeWrite(c.raw)
	wait, limit := lingerShort, lingerTime
	switch {
	case c.hasty:
		c.discardUnread()
		return
	case c.refused != "":
		wait, limit = lingerRefused, lingerRefused
	case c.draining(): // without a change of the phase, so that drain does not end the short wait
		limit = lingerShort
	case unfinished:
		wait = lingerWait
		fallthrough
	default:
		c.read.setAwaited(awaitsRequest, c.now())
		c.read.enter(idle)
	}
	c.read.resume()
	for end := c.now().Add(limit); ; {
		c.reader.Discard(len(c.reader.Buffered()))
		c.reader.Release() // because ReadAhead does nothing if the buffer is full
		until := c.now().Add(wait)
		if until.After(end) {
			until = end
		}
		c.read.await(until)
		if c.reader.ReadAhead() != nil {
			return
		}
	}
}

// discardUnread discards bytes that have arrived, up to a limit, and does not wait. If bytes were unread when the
// connection is closed, the system would reset it.
func (c *connection) discardUnread() {
	c.read.await(time.Time{}) // the deadline of the wait for the request may have passed
	for range 16 {
		c.reader.Discard(len(c.reader.Buffered()))
		c.reader.Release() // because ReadAhead does nothing if the buffer is full
		if !c.unread() || c.reader.ReadAhead() != nil {
			return
		}
	}
}

// reset makes the next close send a TCP reset, after the bytes already written. The client then gets an
// error instead of a regular end of the connection.
func (c *connection) reset() {
	if tcp := below(c.raw); tcp != nil {
		tcp.SetLinger(0)
		if _, plain := c.raw.(*socket.Conn); !plain {
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
