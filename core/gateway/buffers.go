package gateway

import (
	"net"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

const (
	smallChunk = 4 << 10
	largeChunk = 32 << 10
)

// buffers is a pool of copy buffers in two sizes, and a pool of pipes.
type buffers struct {
	small, large sync.Pool
	pipes        *socket.Pipes
}

func newBuffers(pipes *socket.Pipes) *buffers {
	c := &buffers{pipes: pipes}
	c.small.New = func() any { b := make([]byte, smallChunk); return &b }
	c.large.New = func() any { b := make([]byte, largeChunk); return &b }
	return c
}

func (b *buffers) get(size int) *[]byte {
	if size == smallChunk {
		return b.small.Get().(*[]byte)
	}
	return b.large.Get().(*[]byte)
}

func (b *buffers) put(buf *[]byte) {
	switch {
	case buf == nil:
	case len(*buf) == smallChunk:
		b.small.Put(buf)
	default:
		b.large.Put(buf)
	}
}

// readInto reads from src into buf. It returns the buffer and the number of bytes. If buf is nil, it takes a
// small buffer from the pool. If src is a plain TCP connection, it takes this buffer only when bytes have arrived.
func (b *buffers) readInto(src net.Conn, buf *[]byte) (*[]byte, int, error) {
	if buf == nil {
		if plain, ok := src.(*socket.Conn); ok {
			return plain.ReadPooled(&b.small)
		}
		buf = b.get(smallChunk)
	}
	n, err := src.Read(*buf)
	return buf, n, err
}
