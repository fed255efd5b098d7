//go:build !(linux && (amd64 || arm64))

package socket

import (
	"sync"
)

func newConn(s stream) (*Conn, error) {
	raw, err := s.SyscallConn()
	return &Conn{stream: s, raw: raw}, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.OnFull != nil {
		c.OnFull()
	}
	return c.stream.Write(p)
}

// WriteThenRead sends message and reads the beginning of the answer into p. A message
// that could not be sent is a *WriteError.
func (c *Conn) WriteThenRead(message, p []byte) (int, error) {
	if len(message) == 0 {
		return c.Read(p)
	}
	if _, err := c.Write(message); err != nil {
		return 0, &WriteError{err}
	}
	return c.Read(p)
}

// ReadPooled reads into a buffer of the pool (of *[]byte). The buffer is the
// caller's to give back; it is nil with an error.
func (c *Conn) ReadPooled(pool *sync.Pool) (*[]byte, int, error) {
	return c.WriteThenReadPooled(nil, pool)
}

// WriteThenReadPooled is to WriteThenRead what ReadPooled is to Read.
func (c *Conn) WriteThenReadPooled(message []byte, pool *sync.Pool) (*[]byte, int, error) {
	lent := pool.Get().(*[]byte)
	n, err := c.WriteThenRead(message, *lent)
	if err != nil {
		pool.Put(lent)
		return nil, 0, err
	}
	return lent, n, nil
}
