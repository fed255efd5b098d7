package gateway

import (
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

const (
	smallChunk = 4 << 10
	largeChunk = 32 << 10
)

// chunks lends out copy buffers of the two sizes, and pipes.
type chunks struct {
	small, large sync.Pool
	pipes        *socket.Pipes
}

func newChunks(pipes *socket.Pipes) *chunks {
	c := &chunks{pipes: pipes}
	c.small.New = func() any { b := make([]byte, smallChunk); return &b }
	c.large.New = func() any { b := make([]byte, largeChunk); return &b }
	return c
}

func (c *chunks) get(size int) *[]byte {
	if size == smallChunk {
		return c.small.Get().(*[]byte)
	}
	return c.large.Get().(*[]byte)
}

func (c *chunks) put(b *[]byte) {
	switch {
	case b == nil:
	case len(*b) == smallChunk:
		c.small.Put(b)
	default:
		c.large.Put(b)
	}
}

// read reads from src into a buffer: buf, or if that is nil a small one, which
// a plain TCP connection takes only when there is something to read.
func (c *chunks) read(src net.Conn, buf *[]byte) (*[]byte, int, error) {
	if buf == nil {
		if plain, ok := src.(*socket.Conn); ok {
			return plain.ReadPooled(&c.small)
		}
		buf = c.get(smallChunk)
	}
	n, err := src.Read(*buf)
	return buf, n, err
}

// tunnel joins a client with upstream, which is its target by way of a proxy.
type tunnel struct {
	conn       *conn
	exchange   *executor.Tunnel
	upstream   net.Conn
	tcp        *socket.Conn // below upstream
	stall      socket.Stall // of what goes to it
	half       atomic.Bool  // one direction has ended
	clientLeft atomic.Bool
}

// watch prepares for writes that have to wait; upstream lies on tcp, which may be
// nil.
func (t *tunnel) watch(tcp *socket.Conn) {
	whole := t.whole // bound once
	t.stall.MayStall, t.conn.stall.MayStall = whole, whole
	if t.tcp = tcp; tcp != nil {
		tcp.OnFull = t.full
	}
}

// full is called when a write to upstream has to wait.
func (t *tunnel) full() { t.stall.Start(t.tcp, t.conn.set.BodyIdle) }

// whole reports whether both directions are open: then either may stand still.
// While upstream takes nothing the client is not read from, but shows whether it
// has left.
func (t *tunnel) whole() bool { return !t.half.Load() && !socket.PeerClosed(t.conn.raw) }

// traffic counts the bytes of a tunnel.
type traffic struct{ up, down int64 }

// join passes bytes on until both directions have ended, or one has failed. Once
// one has ended, the other may stand still for as long as a body may and no
// longer, since a side that has left for good looks like one that still listens.
// said is how many bytes upstream has said before, total the traffic of the whole
// tunnel. died is what ended upstream's direction, if upstream had said nothing by
// then and the client had not left first; else nil.
func (t *tunnel) join(said int64) (total traffic, died error) {
	done := make(chan int64, 1)
	go func() {
		n, err := t.early()
		if err == nil {
			var more int64
			more, err = t.splice(t.upstream, t.conn.raw, &t.stall, nil)
			n += more
		}
		if w := (*socket.WriteError)(nil); !errors.As(err, &w) || socket.PeerClosed(t.conn.raw) {
			t.clientLeft.Store(true)
		}
		t.ended(t.upstream, err)
		done <- n
	}()
	heard := said > 0
	n, err := t.splice(t.conn.raw, t.upstream, &t.conn.stall, func() {
		heard = true
		t.exchange.Proven()
	})
	if !heard && !t.clientLeft.Load() {
		if died = err; died == nil {
			died = io.ErrUnexpectedEOF
		}
		err = died
	}
	t.ended(t.conn.raw, err)
	total = traffic{up: <-done, down: said + n}
	t.conn.raw.Close()
	t.upstream.Close()
	return total, died
}

// early passes on what the client has sent along with its CONNECT.
func (t *tunnel) early() (n int64, err error) {
	r := t.conn.reader
	if early := r.Buffered(); len(early) > 0 {
		m, werr := t.upstream.Write(early)
		t.stall.Stop()
		if n = int64(m); werr != nil {
			err = &socket.WriteError{Err: werr}
		}
		r.Discard(len(early))
	}
	r.Release()
	return n, err
}

// ended is called when a direction has ended; dst is the connection it wrote to.
// The first direction to end half-closes dst; after the second, or with an error,
// both connections are closed. But where dst takes no more, what it has said
// before that is passed on first (RFC 9110 section 9.3.6).
func (t *tunnel) ended(dst net.Conn, err error) {
	switch first := t.half.CompareAndSwap(false, true); {
	case err != nil && !refused(err):
		t.conn.close()
	case first:
		closeWrite(dst)
		t.wait(dst) // the other direction reads from it
	}
}

// refused reports whether err is that of a write to a side that has closed.
func refused(err error) bool {
	var w *socket.WriteError
	return errors.As(err, &w) && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET))
}

// wait sets the deadline for the next read from src, once the other direction has
// ended.
func (t *tunnel) wait(src net.Conn) {
	if t.half.Load() {
		src.SetReadDeadline(t.conn.server.Now().Add(t.conn.set.BodyIdle))
	}
}

// splice copies src to dst, whose writes stall watches, until src ends; an error
// of dst is a *socket.WriteError. first is called once, before the first byte is
// passed on. A quiet direction holds no buffer.
func (t *tunnel) splice(dst, src net.Conn, stall *socket.Stall, first func()) (n int64, err error) {
	c := t.conn.server.chunks
	var buf *[]byte
	defer func() { c.put(buf) }()
	for {
		var m int
		var rerr error
		t.wait(src)
		buf, m, rerr = c.read(src, buf)
		if m > 0 {
			if n == 0 && first != nil {
				first()
			}
			w, werr := dst.Write((*buf)[:m])
			stall.Stop()
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
			c.put(buf)
			buf = nil
		}
		if !full {
			continue
		}
		m64, ok, err := t.flow(dst, src, stall)
		n += m64
		switch {
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		case !ok:
			buf = c.get(largeChunk)
		}
	}
}

// flow copies src to dst inside the kernel while it comes in large pieces; once
// they are so small that a buffer does better, it returns. ok is false where the
// kernel cannot do it.
func (t *tunnel) flow(dst, src net.Conn, stall *socket.Stall) (n int64, ok bool, err error) {
	d, plain := dst.(*socket.Conn)
	s, too := src.(*socket.Conn)
	if !plain || !too {
		return 0, false, nil
	}
	for {
		t.wait(src)
		m, err := t.conn.server.chunks.pipes.Move(d, s, math.MaxInt64)
		stall.Stop()
		n += m
		if err != nil || m < smallChunk {
			return n, true, err
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
