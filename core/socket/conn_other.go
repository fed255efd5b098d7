//go:build !(linux && (amd64 || arm64))

package socket

import "sync"

func newConn(s stream) (*Conn, error) {
	raw, err := s.SyscallConn()
	return &Conn{stream: s, raw: raw}, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.OnWriteBlocked != nil {
		c.OnWriteBlocked()
	}
	n, err := c.stream.Write(p)
	c.Meters.CountBytes(n, 0)
	return n, err
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	c.Meters.CountBytes(0, n)
	return n, err
}

// WriteThenRead writes message and then reads the beginning of the response into p. If the
// write fails, the error is a *WriteError.
func (c *Conn) WriteThenRead(message, p []byte) (int, error) {
	if len(message) == 0 {
		return c.Read(p)
	}
	if _, err := c.Write(message); err != nil {
		return 0, &WriteError{err}
	}
	return c.Read(p)
}

// ReadPooled reads into a buffer from the pool, whose values are *[]byte. The caller must put the buffer back into
// the pool. On an error the returned buffer is nil.
func (c *Conn) ReadPooled(pool *sync.Pool) (*[]byte, int, error) {
	return c.WriteThenReadPooled(nil, pool)
}

// WriteThenReadPooled is WriteThenRead with a buffer from the pool, as in ReadPooled.
func (c *Conn) WriteThenReadPooled(message []byte, pool *sync.Pool) (*[]byte, int, error) {
	buffer := pool.Get().(*[]byte)
	n, err := c.WriteThenRead(message, *buffer)
	if err != nil {
		pool.Put(buffer)
		return nil, 0, err
	}
	return buffer, n, nil
}
