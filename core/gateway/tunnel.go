package gateway

import (
	"errors"
	"io"
	"math"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// serveTunnel joins a client with its target until both have ended, and closes the
// exchange. dial opened the tunnel, and opens another one if it fails before the target has
// sent anything. greeting is what the front's protocol puts before the tunnel's first byte. A
// tunnel that its client does not use (see verdict.TunnelEnd) counts neither for nor against
// the proxy.
func (s *Server) serveTunnel(
	c *connection, x *executor.Tunnel, way *transport.Tunnel, dial *proxyhttp.Connect, greeting *loan,
) {
	c.tunnel.Store(way)
	greeting.buf = append(greeting.buf, way.Early...)
	if !c.write(greeting.buf) {
		c.raw.Close() // the tunnel ends as it begins
	}
	greeting.back()
	c.read.await(time.Time{})
	t := &tunnel{client: c, target: way.Conn, exchange: x, dial: dial, buffers: s.buffers, halfIdle: c.out.patience}
	t.out.init(way.Conn, way.TCP())
	t.out.patience = t.halfIdle
	t.out.mayStall(t.whole)
	c.out.mayStall(t.whole)
	t.opening.ended.L = &t.opening.mu
	if len(way.Early) > 0 {
		x.Proven()
	} else {
		dial.Control.OnSlow = nil // the tunnel reads from the client, and so finds out that it leaves
		t.opening.phase = replaceable
	}
	up, down, died := t.join(len(way.Early) > 0)
	down += int64(len(way.Early))
	s.Tunnels(up, down)
	now := s.Now()
	x.Close(verdict.TunnelEnd{
		Up: up, Down: down, Died: died, Direct: c.tunnel.Load().Direct, Stopped: c.ctx.Err() != nil,
		Unused: t.opening.unused(up) && now.After(x.UnusedAfter()),
	}, now)
}

// tunnel joins a client connection with target, the connection that leads to the target
// through a proxy.
type tunnel struct {
	client     *connection
	target     net.Conn
	out        stallWriter // to target
	exchange   *executor.Tunnel
	dial       *proxyhttp.Connect
	opening    opening
	buffers    *buffers
	halfIdle   time.Duration // how long one direction may stand still when the other has ended
	half       atomic.Bool   // one direction has ended
	clientLeft atomic.Bool
}

// whole reports whether both directions are open: then either may stand still. While
// target takes nothing the client is not read from, but a client that closes is seen.
func (t *tunnel) whole() bool { return !t.half.Load() && !socket.PeerClosed(t.client.raw) }

// join passes bytes on until both directions have ended, or one has failed. When one has
// ended, the other may stand still for halfIdle at most, since a side that has left
// looks like one that still reads. heard is set if bytes of the target have come before.
// up and down are the bytes passed on. died is what ended the target's direction, if
// nothing had come from the target and the client had not left first; else nil.
func (t *tunnel) join(heard bool) (up, down int64, died error) {
	done := make(chan int64, 1)
	go func() {
		n, err := t.sendFirst()
		if err == nil {
			var more int64
			more, err = t.copy(&t.out, t.client.raw)
			n += more
		}
		if w := (*socket.WriteError)(nil); !errors.As(err, &w) || socket.PeerClosed(t.client.raw) {
			t.clientLeft.Store(true)
		}
		t.ended(t.clientEnded(), err)
		done <- n
	}()
	var err error
	if !heard {
		down, heard, err = t.receiveFirst()
	}
	if err == nil {
		var more int64
		more, err = t.copy(&t.client.out, t.target)
		down += more
	}
	if !heard && !t.clientLeft.Load() {
		died = err
	}
	t.ended(t.client.raw, err)
	up = <-done
	t.client.raw.Close()
	t.target.Close()
	return up, down, died
}

// ended is called when a direction has ended; dst is the connection it wrote to. The
// first direction to end half-closes dst; after the second, or with an error, both
// connections are closed. But where dst takes no more, what comes from it is passed on
// first (RFC 9110 section 9.3.6).
func (t *tunnel) ended(dst net.Conn, err error) {
	switch first := t.half.CompareAndSwap(false, true); {
	case err != nil && !refused(err):
		t.client.close()
	case first:
		closeWrite(dst)
		t.await(dst) // the other direction reads from it
	}
}

// refused reports whether err is that of a write to a side that has closed.
func refused(err error) bool {
	var w *socket.WriteError
	return errors.As(err, &w) && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET))
}

// await sets the deadline for the next read from src, when the other direction has
// ended.
func (t *tunnel) await(src net.Conn) {
	if !t.half.Load() {
		return
	}
	until := t.client.now().Add(t.halfIdle)
	if src == t.client.raw {
		t.client.read.set(until)
		return
	}
	src.SetReadDeadline(until)
}

// copy copies src to dst until src ends; an error of dst is a *socket.WriteError. A quiet
// direction holds no buffer.
func (t *tunnel) copy(dst *stallWriter, src net.Conn) (n int64, err error) {
	var buf *[]byte
	defer func() { t.buffers.put(buf) }()
	for {
		var m int
		var rerr error
		t.await(src)
		buf, m, rerr = t.buffers.read(src, buf)
		if m > 0 {
			w, werr := dst.Write((*buf)[:m])
			n += int64(w)
			if werr != nil {
				return n, &socket.WriteError{Err: werr}
			}
		}
		if rerr != nil {
			if rerr == io.EOF {
				return n, nil
			}
			return n, rerr
		}
		full := m == len(*buf)
		if full || m <= smallChunk/2 || len(*buf) == smallChunk {
			t.buffers.put(buf)
			buf = nil
		}
		if !full {
			continue
		}
		from := dst.spliceSource(src)
		if from == nil {
			buf = t.buffers.get(largeChunk)
			continue
		}
		spliced, err := t.splice(dst, from)
		n += spliced
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// splice copies src to dst inside the kernel while it comes in large pieces; when they
// are so small that a buffer does better, it returns.
func (t *tunnel) splice(dst *stallWriter, src *socket.Conn) (n int64, err error) {
	for {
		t.await(src)
		m, err := dst.splice(t.buffers.pipes, src, math.MaxInt64)
		n += m
		if err != nil || m < smallChunk {
			return n, err
		}
	}
}
