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

// serveTunnel copies bytes between the client and the target until both directions have ended, and closes the
// exchange. way is the open tunnel. If it fails before the target has sent anything, dial, which has opened it, opens
// another one. dial is nil if the target has sent a 101. greeting holds the bytes that the client gets before the
// tunnel's first byte, such as the response to CONNECT. It returns the numbers of bytes that were copied to the
// target and from it.
func (s *Server) serveTunnel(
	c *connection, x *executor.Tunnel, way *transport.Tunnel, dial *proxyhttp.Connect, greeting *loan,
) (up, down int64) {
	c.tunnel.Store(way)
	greeting.buf = append(greeting.buf, way.Early...)
	if !c.write(greeting.buf) {
		c.raw.Close() // so that join ends at once
	}
	greeting.back()
	c.read.await(time.Time{})
	t := &tunnel{client: c, target: way.Conn, exchange: x, dial: dial, buffers: s.buffers, halfIdle: c.out.patience}
	t.out.init(way.Conn, way.TCP())
	t.out.patience, t.out.user = t.halfIdle, c.out.user
	t.out.mayStall(t.whole)
	c.out.mayStall(t.whole)
	t.opening.ended.L = &t.opening.mu
	heard := dial == nil || len(way.Early) > 0
	if heard {
		x.Proven()
	} else {
		dial.Control.OnSlow = nil // not needed: sendFirst reads from the client, and so detects that the client leaves
		t.opening.phase = replaceable
	}
	var died error
	up, down, died = t.join(heard)
	down += int64(len(way.Early))
	s.Tunnels(up, down)
	now := s.Now()
	x.Close(verdict.TunnelEnd{
		Up: up, Down: down, Died: died, Direct: c.tunnel.Load().Direct, Stopped: c.ctx.Err() != nil,
		Unused: t.opening.unused(up) && now.After(x.UnusedAfter()), FarFirst: t.farFirst, Reset: t.reset,
	}, now)
	return up, down
}

// tunnel copies bytes between a client connection and target, a connection through a proxy.
type tunnel struct {
	client     *connection
	target     net.Conn
	out        stallWriter // writes to target
	exchange   *executor.Tunnel
	dial       *proxyhttp.Connect
	opening    opening
	buffers    *buffers
	halfIdle   time.Duration // maximum time without progress of one direction after the other has ended
	half       atomic.Bool   // one direction has ended
	clientLeft atomic.Bool

	// Set by join: farFirst if the target's direction ended before the client's; reset if it ended
	// with an error.
	farFirst, reset bool
}

// whole reports whether both directions are open. While it does, there is no limit on the time without
// progress. whole also checks whether the client has closed its connection, because the gateway does not
// read from the client while the target accepts no bytes.
func (t *tunnel) whole() bool { return !t.half.Load() && !socket.PeerClosed(below(t.client.raw)) }

// join copies bytes until both directions have ended, or one has failed. After one direction has ended, the
// other direction ends after halfIdle without progress, because a peer that has left cannot be distinguished
// from a peer that only reads. heard is set if the target has already sent bytes. up and down are the numbers
// of bytes copied. died is the error that ended the target's direction. It is nil if the target has sent
// bytes, or if the client left first.
func (t *tunnel) join(heard bool) (up, down int64, died error) {
	done := make(chan int64, 1)
	go func() {
		n, err := t.sendFirst()
		if err == nil {
			var more int64
			more, err = t.copy(&t.out, t.client.raw)
			n += more
		}
		if w := (*socket.WriteError)(nil); !errors.As(err, &w) || socket.PeerClosed(below(t.client.raw)) {
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
	if !t.clientLeft.Load() {
		if !heard {
			died = err
		}
		w := (*socket.WriteError)(nil)
		t.farFirst, t.reset = !errors.As(err, &w), err != nil
	}
	t.ended(t.client.raw, err)
	up = <-done
	t.client.raw.Close()
	t.target.Close()
	return up, down, died
}

// ended is called when a direction has ended. dst is the connection to which this direction wrote, and err
// the error that ended it, if any. After the first direction has ended, dst is half-closed. After the second,
// or after an error, both connections are closed. There is one exception: if dst accepts no more bytes, the
// bytes from dst are copied first (RFC 9110 section 9.3.6).
func (t *tunnel) ended(dst net.Conn, err error) {
	switch first := t.half.CompareAndSwap(false, true); {
	case err != nil && !refused(err):
		t.client.close()
	case first:
		closeWrite(dst)
		t.await(dst) // the other direction reads from dst
	}
}

// refused reports whether err is the error of a write to a peer that has closed its connection.
func refused(err error) bool {
	var w *socket.WriteError
	return errors.As(err, &w) && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET))
}

// await sets the deadline of the next read from src if the other direction has ended.
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

// copy copies src to dst until src ends, and returns the number of bytes. A write error is a
// *socket.WriteError. No buffer is held while src has no data.
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
			if dst.user != nil && dst.user.BytesSpent() {
				return n, t.endSpent()
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

// errSpent ends the tunnel of a user who has used up bytes_per_day.
var errSpent = errors.New("the user has used bytes_per_day today")

// endSpent returns errSpent. It marks the tunnel as ended by the client, so that the proxy is not
// charged.
func (t *tunnel) endSpent() error {
	t.clientLeft.Store(true)
	return errSpent
}

// meteredSplice is the number of bytes of a user's tunnel that are moved before they are counted.
const meteredSplice = 1 << 20

// splice copies src to dst inside the kernel. It returns when src has only small pieces left, for
// which a buffer is faster.
func (t *tunnel) splice(dst *stallWriter, src *socket.Conn) (n int64, err error) {
	limit := int64(math.MaxInt64)
	if dst.user != nil {
		limit = meteredSplice
	}
	for {
		t.await(src)
		m, err := dst.splice(t.buffers.pipes, src, limit)
		n += m
		if dst.user != nil && dst.user.BytesSpent() {
			return n, t.endSpent()
		}
		if err != nil || m < smallChunk {
			return n, err
		}
	}
}
