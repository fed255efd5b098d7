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

func (c *buffers) get(size int) *[]byte {
	if size == smallChunk {
		return c.small.Get().(*[]byte)
	}
	return c.large.Get().(*[]byte)
}

func (c *buffers) put(b *[]byte) {
	switch {
	case b == nil:
	case len(*b) == smallChunk:
		c.small.Put(b)
	default:
		c.large.Put(b)
	}
}

// read reads from src into buf and returns the buffer and the number of bytes. If buf is nil, it takes a
// small buffer from the pool: if src is a plain TCP connection, only when src has data.
func (c *buffers) read(src net.Conn, buf *[]byte) (*[]byte, int, error) {
	if buf == nil {
		if plain, ok := src.(*socket.Conn); ok {
			return plain.ReadPooled(&c.small)
		}
		buf = c.get(smallChunk)
	}
	n, err := src.Read(*buf)
	return buf, n, err
}
