package gateway

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// connection is one client connection: its bytes, its deadlines and its end. A front
// speaks a protocol on it. drain and close may be called by any goroutine; the rest
// belongs to the one that serves the connection.
type connection struct {
	raw    net.Conn
	reader *http1.Reader // buffers what is read; it parses HTTP only where it is asked to
	read   readDeadline
	out    stallWriter
	watch  leaveWatch
	now    func() time.Time
	ctx    context.Context // cancelled when the client has left, or the gateway stops
	cancel context.CancelCauseFunc
	tunnel atomic.Pointer[transport.Tunnel] // ends with the connection; nil for none
}

// newConnection takes a connection from a listener. end releases it.
func newConnection(ctx context.Context, raw net.Conn, now func() time.Time, draining *atomic.Bool) *connection {
	raw = socket.Wrap(raw)
	c := &connection{raw: raw, reader: http1.NewReader(raw), now: now}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.read.conn, c.read.draining = raw, draining
	tcp, _ := raw.(*socket.Conn)
	c.out.init(raw, tcp)
	c.watch.conn = c
	return c
}

// end closes the connection and releases what it holds.
func (c *connection) end() {
	c.out.stall.Stop()
	c.cancel(executor.ErrClientLeft)
	c.raw.Close()
}

// close closes the connection and its tunnel, which ends their reads and writes.
func (c *connection) close() {
	c.raw.Close()
	if t := c.tunnel.Load(); t != nil {
		t.Abort()
	}
}

// drain closes the connection if it has no request in flight. The gateway's draining is
// set before.
func (c *connection) drain() { c.read.drain() }

// draining reports whether the gateway drains.
func (c *connection) draining() bool { return c.read.draining.Load() }

// write writes b and reports whether the client has taken it.
func (c *connection) write(b []byte) bool {
	_, err := c.out.Write(b)
	return err == nil
}

const (
	lingerShort = 500 * time.Millisecond // wait for more from a client that has nothing to send
	lingerWait  = 5 * time.Second        // wait for more from a client in mid-request
	lingerTime  = 30 * time.Second       // limit on all of it
)

// linger lets the client read the last response although it is still sending: a plain
// close would reset the connection, and many clients read only when they have sent
// everything. unfinished is set if the body of the request has not been read to its end.
// A drain ends the wait.
func (c *connection) linger(unfinished bool) {
	closeWrite(c.raw)
	wait, limit := lingerShort, lingerTime
	switch {
	case c.draining(): // the phase stays, so that the short wait is not ended
		limit = lingerShort
	case unfinished:
		wait = lingerWait
		fallthrough
	default:
		c.read.enter(idle)
	}
	c.read.resume()
	for end := c.now().Add(limit); ; {
		c.reader.Discard(len(c.reader.Buffered()))
		c.reader.Release() // a full buffer would take nothing more
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

// reset makes the connection's end visible to the client as an error: what has been
// written arrives, and then a reset instead of a clean end.
func (c *connection) reset() {
	if tcp, ok := c.raw.(*socket.Conn); ok {
		tcp.SetLinger(0)
	}
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
		return
	}
	c.Close()
}
