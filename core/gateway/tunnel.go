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

// serveTunnel sends the greeting to the client, such as the response to CONNECT. It then copies bytes between the
// client and the open tunnel remote, and closes the exchange. If the tunnel fails before the target has sent anything,
// serveTunnel uses dial to open another tunnel; dial is nil after a 101 (Switching Protocols). The results are the
// numbers of bytes to and from the target.
func (s *Server) serveTunnel(
	c *connection, exchange *executor.Tunnel, remote *transport.Tunnel, dial *proxyhttp.TunnelSender,
	greeting *pooledBuffer,
) (up, down int64) {
	c.tunnel.Store(remote)
	greeting.buf = append(greeting.buf, remote.Early...)
	if !c.write(greeting.buf) {
		c.netConn.Close() // copyBoth then ends immediately
	}
	greeting.put()
	c.readControl.setDeadline(time.Time{})
	t := &tunnel{
		client: c, target: remote.Conn, exchange: exchange, dial: dial, buffers: s.buffers,
		halfIdleTimeout: c.writer.stallTimeout,
	}
	c.clientWatch.disabled = true // the tunnel reads from the client
	t.toTarget.init(remote.Conn, remote.TCP())
	t.toTarget.stallTimeout, t.toTarget.user = t.halfIdleTimeout, c.writer.user
	t.toTarget.setMayStall(t.bothOpen)
	c.writer.setMayStall(t.bothOpen)
	t.retry.reconnectDone.L = &t.retry.mu
	received := dial == nil || len(remote.Early) > 0
	if received {
		exchange.SettleSuccess()
	} else {
		dial.Control.OnSlow = nil // not needed: sendFirstBytes reads from the client, and detects that it leaves
		t.retry.phase = phaseReplaceable
	}
	var targetErr error
	up, down, targetErr = t.copyBoth(received)
	down += int64(len(remote.Early))
	s.OnTunnelEnd(up, down)
	now := s.Now()
	exchange.Close(verdict.TunnelEnd{
		BytesUp: up, BytesDown: down, Err: targetErr, Direct: c.tunnel.Load().Direct,
		StoppedByGateway: c.ctx.Err() != nil,
		Unused:           t.retry.isUnused(up) && now.After(exchange.UnusedAfter()),
		ProxyEndedFirst:  t.targetEndedFirst, ProxyReset: t.targetReset,
		Followed: t.recordsFollowed, InRecord: t.cutInRecord,
	}, now)
	return up, down
}

// tunnel copies bytes between a client connection and target, a connection through a proxy.
type tunnel struct {
	client            *connection
	target            net.Conn
	toTarget          stallWriter // writes to target
	exchange          *executor.Tunnel
	dial              *proxyhttp.TunnelSender
	retry             tunnelRetry
	buffers           *buffers
	halfIdleTimeout   time.Duration // longest time without progress after one direction has ended
	oneDirectionEnded atomic.Bool
	clientLeft        atomic.Bool
	recordFollower    recordFollower // of the target
	recordsFollowed   bool           // the followers of the records are set

	// copyBoth sets targetEndedFirst if the target's direction ended before the client's direction,
	// targetReset if the target's direction ended with an error, and cutInRecord if it ended within a TLS record.
	targetEndedFirst, targetReset, cutInRecord bool
}

// bothOpen reports whether neither direction has ended, and neither the client nor the target has closed its
// connection. The time without progress then has no limit. bothOpen asks the system about both connections, because the
// gateway does not read from one of them while the other accepts no bytes.
func (t *tunnel) bothOpen() bool {
	return !t.oneDirectionEnded.Load() && !socket.PeerClosed(tcpBelow(t.client.netConn)) &&
		!socket.PeerClosed(t.client.tunnel.Load().TCP())
}

// copyBoth copies bytes until both directions have ended, or one has failed. The parameter received is true if the
// target has already sent bytes. The results are the numbers of bytes to the target and to the client, and the error
// that ended the target's direction. This error is nil if the target has sent bytes, or if the client left first.
func (t *tunnel) copyBoth(received bool) (up, down int64, targetErr error) {
	done := make(chan int64, 1)
	go func() {
		n, err := t.sendFirstBytes()
		if err == nil {
			var more int64
			more, err = t.copyDirection(&t.toTarget, t.client.netConn, nil)
			n += more
		}
		if w := (*socket.WriteError)(nil); !errors.As(err, &w) || socket.PeerClosed(tcpBelow(t.client.netConn)) {
			t.clientLeft.Store(true)
		}
		t.endDirection(t.endClientDirection(), err)
		done <- n
	}()
	var err error
	if !received {
		down, received, err = t.receiveFirstBytes()
	}
	if err == nil {
		var more int64
		more, err = t.copyDirection(&t.client.writer, t.target, &t.recordFollower)
		down += more
	}
	if !t.clientLeft.Load() {
		if !received {
			targetErr = err
		}
		w := (*socket.WriteError)(nil)
		t.targetEndedFirst, t.targetReset = !errors.As(err, &w), err != nil
		// The client may have left although no read has detected this.
		t.cutInRecord = t.targetEndedFirst && t.recordFollower.endsInRecord() &&
			!socket.PeerClosed(tcpBelow(t.client.netConn))
	}
	if reply := t.retry.helloRefusal; !received && reply != nil {
		t.client.writer.Write(reply) // written last, because the client may leave when it has the reply
	}
	t.endDirection(t.client.netConn, err)
	up = <-done
	t.client.netConn.Close()
	t.target.Close()
	return up, down, targetErr
}

// endDirection is called when a direction has ended. The parameter dst is the connection to which this direction wrote,
// and err is the error that ended the direction, or nil. After the first direction has ended, the method closes the
// sending side of dst. After an error, it closes both connections, with one exception: if dst accepts no more bytes,
// the bytes from dst are still copied (RFC 9110 section 9.3.6).
func (t *tunnel) endDirection(dst net.Conn, err error) {
	switch first := t.oneDirectionEnded.CompareAndSwap(false, true); {
	case err != nil && !isPeerClosed(err):
		t.client.abort()
	case first:
		closeWrite(dst)
		t.setReadDeadline(dst) // the other direction reads from dst
	}
}

// isPeerClosed reports whether err is the error of a write to a peer that has closed its connection.
func isPeerClosed(err error) bool {
	var w *socket.WriteError
	return errors.As(err, &w) && (socket.Is(err, syscall.EPIPE) || socket.Is(err, syscall.ECONNRESET))
}

// setReadDeadline sets the deadline of the next read from src if the other direction has ended.
func (t *tunnel) setReadDeadline(src net.Conn) {
	if !t.oneDirectionEnded.Load() {
		return
	}
	until := t.client.now().Add(t.halfIdleTimeout)
	if src == t.client.netConn {
		t.client.readControl.applyDeadline(until)
		return
	}
	src.SetReadDeadline(until)
}

// copyDirection copies src to dst until src ends, and returns the number of bytes. A write error is a
// *socket.WriteError. If src is a plain TCP connection, no buffer is held while src has no data. The parameter rec
// follows the TLS records of src; it may be nil.
func (t *tunnel) copyDirection(dst *stallWriter, src net.Conn, rec *recordFollower) (n int64, err error) {
	var buf *[]byte
	defer func() { t.buffers.put(buf) }()
	for {
		var m int
		var rerr error
		t.setReadDeadline(src)
		buf, m, rerr = t.buffers.readInto(src, buf)
		if m > 0 {
			if rec != nil {
				rec.follow((*buf)[:m])
			}
			w, werr := dst.Write((*buf)[:m])
			n += int64(w)
			if werr != nil {
				return n, &socket.WriteError{Err: werr}
			}
			if dst.user != nil && dst.user.BytesSpent() {
				return n, t.endBytesSpent()
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
		if rec != nil && rec.active { // the next piece must also be read, for rec
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

// errBytesSpent ends the tunnel of a user who has used up bytes_per_day.
var errBytesSpent = errors.New("the user has used bytes_per_day, or this gateway's share of it, today")

// endBytesSpent records that the client ended the tunnel, so that the proxy is not charged. It returns errBytesSpent.
func (t *tunnel) endBytesSpent() error {
	t.clientLeft.Store(true)
	return errBytesSpent
}

// meteredSplice is the maximum number of bytes of a user's tunnel that one call of splice moves. The bytes are
// counted after the call.
const meteredSplice = 1 << 20

// splice copies src to dst inside the kernel. It returns when it has moved only a small piece, because for small pieces
// a buffer is faster.
func (t *tunnel) splice(dst *stallWriter, src *socket.Conn) (n int64, err error) {
	limit := int64(math.MaxInt64)
	if dst.user != nil {
		limit = meteredSplice
	}
	for {
		t.setReadDeadline(src)
		m, err := dst.splice(t.buffers.pipes, src, limit)
		n += m
		if dst.user != nil && dst.user.BytesSpent() {
			return n, t.endBytesSpent()
		}
		if err != nil || m < smallChunk {
			return n, err
		}
	}
}
