package gateway

import (
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"

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

func newChunks() *chunks {
	c := &chunks{pipes: socket.NewPipes()}
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

// splice copies src to dst until src ends. first is called once, before the
// first byte is passed on. A quiet direction holds no buffer.
func (c *chunks) splice(dst, src net.Conn, first func()) (n int64, err error) {
	var buf *[]byte
	defer func() { c.put(buf) }()
	for {
		var m int
		var rerr error
		buf, m, rerr = c.read(src, buf)
		if m > 0 {
			if n == 0 && first != nil {
				first()
			}
			w, werr := dst.Write((*buf)[:m])
			n += int64(w)
			if werr != nil {
				return n, werr
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
		m64, ok, err := c.flow(dst, src)
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

// flow passes on what comes in quantity, in the kernel, until it comes in
// pieces so small that a buffer does better; ok is false where the kernel
// cannot.
func (c *chunks) flow(dst, src net.Conn) (n int64, ok bool, err error) {
	d, plain := dst.(*socket.Conn)
	s, too := src.(*socket.Conn)
	if !plain || !too {
		return 0, false, nil
	}
	for {
		m, err := c.pipes.Move(d, s, math.MaxInt64)
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

// flow counts the bytes of a tunnel.
type flow struct{ up, down int64 }

// tunnel joins client and upstream until both directions have ended, or one
// has failed. f is what either has said already. proven is called before the
// first byte from upstream is passed on. died is what ended upstream's
// direction if upstream had said nothing by then and the client had not left
// first.
func (c *chunks) tunnel(client, upstream net.Conn, f flow, proven func()) (total flow, died error) {
	var clientLeft, half atomic.Bool
	// The direction that ends first half-closes what it wrote to; after the
	// second, both are closed whole.
	ended := func(dst net.Conn, err error) {
		if half.CompareAndSwap(false, true) && err == nil {
			closeWrite(dst)
		}
	}
	done := make(chan int64, 1)
	go func() {
		n, err := c.splice(upstream, client, nil)
		clientLeft.Store(true)
		ended(upstream, err)
		if err != nil {
			client.Close()
			upstream.Close()
		}
		done <- n
	}()
	heard := f.down > 0
	n, err := c.splice(client, upstream, func() { heard = true; proven() })
	if !heard && !clientLeft.Load() {
		died = err
		if died == nil {
			died = io.ErrUnexpectedEOF
		}
	}
	ended(client, err)
	if err != nil || died != nil {
		client.Close()
		upstream.Close()
	}
	f.down += n
	f.up += <-done
	client.Close()
	upstream.Close()
	return f, died
}
