//go:build linux && (amd64 || arm64)

package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

func newConn(s stream) (*Conn, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{stream: s, raw: raw}
	c.reading.call, c.writing.call = c.receive, c.send
	return c, nil
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.read(p)
}

func (c *Conn) read(p []byte) (int, error) {
	c.reading.buf, c.reading.n, c.reading.errno = p, 0, 0
	err := c.raw.Read(c.reading.call)
	c.reading.buf = nil
	switch {
	case err != nil:
		return 0, writeErrorOf(err)
	case c.reading.errno != 0:
		return 0, os.NewSyscallError("recvfrom", c.reading.errno)
	case c.reading.n == 0:
		return 0, io.EOF
	}
	c.Meters.CountBytes(0, c.reading.n)
	return c.reading.n, nil
}

// ReadPooled reads into a buffer from the pool, whose values are *[]byte. It takes the buffer only when there are
// bytes to read. A call that waits therefore holds no buffer. The caller must put the buffer back into the pool. On
// an error the returned buffer is nil.
func (c *Conn) ReadPooled(pool *sync.Pool) (*[]byte, int, error) {
	return c.WriteThenReadPooled(nil, pool)
}

// WriteThenReadPooled is WriteThenRead with a buffer from the pool, as in ReadPooled.
func (c *Conn) WriteThenReadPooled(message []byte, pool *sync.Pool) (*[]byte, int, error) {
	c.pool = pool
	n, err := c.writeThenRead(message, nil)
	buffer := c.pooled
	c.pool, c.pooled = nil, nil
	if err != nil && buffer != nil {
		pool.Put(buffer)
		buffer = nil
	}
	return buffer, n, err
}

// receive writes c.message if it is not nil. Then it reads once into c.reading.buf, or into a buffer from c.pool.
func (c *Conn) receive(fd uintptr) bool {
	if c.message != nil {
		// After a complete write, receive returns false, and its caller waits for the poller. The poller reports all
		// bytes that arrive after this write, so no read is necessary before the wait.
		c.reading.n, c.reading.errno = send(fd, c.message)
		if sent := c.reading.n; c.reading.errno == 0 && sent == len(c.message) {
			c.message, c.reading.n = nil, 0
			return false
		}
		return true // WriteThenRead writes the rest
	}
	b := c.reading.buf
	if c.pool != nil {
		c.pooled = c.pool.Get().(*[]byte)
		b = *c.pooled
	}
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
			0, 0)
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			if c.pool != nil {
				c.pool.Put(c.pooled)
				c.pooled = nil
			}
			return false
		}
		c.reading.errno = errno
		if errno == 0 {
			c.reading.n = int(n)
		}
		return true
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.writing.buf, c.writing.n, c.writing.errno = p, 0, 0
	err := c.raw.Write(c.writing.call)
	c.writing.buf = nil
	switch {
	case err != nil:
		err = writeErrorOf(err)
	case c.writing.errno != 0:
		err = os.NewSyscallError("sendto", c.writing.errno)
	}
	c.Meters.CountBytes(c.writing.n, 0)
	return c.writing.n, err
}

// writeErrorOf returns the error of a call that the poller has ended. The reason is that the deadline has passed, or
// that the connection was closed.
func writeErrorOf(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

// send writes the part of c.writing.buf that begins at index c.writing.n.
func (c *Conn) send(fd uintptr) bool {
	for c.writing.n < len(c.writing.buf) {
		n, errno := send(fd, c.writing.buf[c.writing.n:])
		c.writing.n += n
		if errno == syscall.EAGAIN {
			if c.OnWriteBlocked != nil {
				c.OnWriteBlocked()
			}
			return false
		}
		if c.writing.errno = errno; errno != 0 {
			return true
		}
	}
	return true
}

func send(fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
			syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
			continue
		}
		return 0, errno
	}
}

// WriteThenRead writes message and then reads the beginning of the response into p, like Write followed by Read. If
// bytes had arrived before the write, it returns these bytes. If the write fails, the error is a *WriteError.
func (c *Conn) WriteThenRead(message, p []byte) (int, error) {
	if len(p) == 0 {
		return c.Read(p)
	}
	return c.writeThenRead(message, p)
}

func (c *Conn) writeThenRead(message, p []byte) (int, error) {
	if len(message) == 0 {
		return c.read(p)
	}
	c.message = message
	n, err := c.read(p)
	if c.message == nil {
		c.Meters.CountBytes(len(message), 0)
		return n, err
	}
	// The message was not written completely. If the read deadline had passed, no part of it was written.
	c.message = nil
	if c.reading.errno != 0 && c.reading.errno != syscall.EAGAIN {
		return 0, &WriteError{os.NewSyscallError("sendto", c.reading.errno)}
	}
	if _, err := c.Write(message[c.reading.n:]); err != nil {
		return 0, &WriteError{err}
	}
	return c.read(p)
}

// Idle reports whether the connection is open and has no bytes to read. It does not wait and does not consume bytes. A
// deadline that has passed has no effect on Idle. Idle makes its system call without the poller, because the poller
// would take longer than the call itself. Idle must therefore not be called during or after Close.
func (c *Conn) Idle() bool {
	if c.fd == 0 && c.raw.Control(func(fd uintptr) { c.fd = fd }) != nil {
		return false
	}
	return peekErrno(c.fd) == syscall.EAGAIN
}

// peekErrno tries to read from fd without a wait. It does not consume bytes. It returns EAGAIN if there are no bytes to
// read.
func peekErrno(fd uintptr) syscall.Errno {
	var b [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1,
		syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno
}
