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
	c.in.call, c.out.call, c.look = c.receive, c.send, c.peek
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
	c.in.buf, c.in.n, c.in.errno = p, 0, 0
	err := c.raw.Read(c.in.call)
	c.in.buf = nil
	switch {
	case err != nil:
		return 0, ended(err)
	case c.in.errno != 0:
		return 0, os.NewSyscallError("recvfrom", c.in.errno)
	case c.in.n == 0:
		return 0, io.EOF
	}
	return c.in.n, nil
}

// ReadPooled reads into a buffer of the pool (of *[]byte), which it takes only
// when there is something to read: while it waits it holds none. The buffer is the
// caller's to give back; it is nil with an error.
func (c *Conn) ReadPooled(pool *sync.Pool) (*[]byte, int, error) {
	return c.WriteThenReadPooled(nil, pool)
}

// WriteThenReadPooled is to WriteThenRead what ReadPooled is to Read.
func (c *Conn) WriteThenReadPooled(message []byte, pool *sync.Pool) (*[]byte, int, error) {
	c.pool = pool
	n, err := c.askFor(message, nil)
	lent := c.lent
	c.pool, c.lent = nil, nil
	if err != nil && lent != nil {
		pool.Put(lent)
		lent = nil
	}
	return lent, n, err
}

// receive reads into c.in.buf, once.
func (c *Conn) receive(fd uintptr) bool {
	if c.ask != nil {
		// From here on the poller remembers whatever comes, so there is no need
		// to look before it says so.
		c.in.n, c.in.errno = send(fd, c.ask)
		if sent := c.in.n; c.in.errno == 0 && sent == len(c.ask) {
			c.ask, c.in.n = nil, 0
			return false
		}
		return true // Ask goes on with the rest
	}
	b := c.in.buf
	if c.pool != nil {
		c.lent = c.pool.Get().(*[]byte)
		b = *c.lent
	}
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			if c.pool != nil {
				c.pool.Put(c.lent)
				c.lent = nil
			}
			return false
		}
		c.in.errno = errno
		if errno == 0 {
			c.in.n = int(n)
		}
		return true
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.out.buf, c.out.n, c.out.errno = p, 0, 0
	err := c.raw.Write(c.out.call)
	c.out.buf = nil
	switch {
	case err != nil:
		err = ended(err)
	case c.out.errno != 0:
		err = os.NewSyscallError("sendto", c.out.errno)
	}
	return c.out.n, err
}

// ended is the error of a call that the poller has ended: because its deadline
// has passed, or the connection was closed.
func ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

// send writes c.out.buf from c.out.n on until all has gone.
func (c *Conn) send(fd uintptr) bool {
	for c.out.n < len(c.out.buf) {
		n, errno := send(fd, c.out.buf[c.out.n:])
		c.out.n += n
		if errno == syscall.EAGAIN {
			if c.OnFull != nil {
				c.OnFull()
			}
			return false
		}
		if c.out.errno = errno; errno != 0 {
			return true
		}
	}
	return true
}

func send(fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
			continue
		}
		return 0, errno
	}
}

// WriteThenRead sends message and then reads the beginning of the answer into p, as Write
// and Read would. If something had come before, it is read first. When the
// message could not be sent, the error is a *WriteError.
func (c *Conn) WriteThenRead(message, p []byte) (int, error) {
	if len(p) == 0 {
		return c.Read(p)
	}
	return c.askFor(message, p)
}

func (c *Conn) askFor(message, p []byte) (int, error) {
	if len(message) == 0 {
		return c.read(p)
	}
	c.ask = message
	n, err := c.read(p)
	if c.ask == nil {
		return n, err
	}
	// It did not go out whole or, the read's deadline having passed, not at all.
	c.ask = nil
	if c.in.errno != 0 && c.in.errno != syscall.EAGAIN {
		return 0, &WriteError{os.NewSyscallError("sendto", c.in.errno)}
	}
	if _, err := c.Write(message[c.in.n:]); err != nil {
		return 0, &WriteError{err}
	}
	return c.read(p)
}

// Idle looks, without taking anything or waiting, whether the connection is
// open and nothing has come on it. A deadline that has passed does not matter.
func (c *Conn) Idle() bool { return c.raw.Control(c.look) == nil && c.quiet }

func (c *Conn) peek(fd uintptr) { c.quiet = peek(fd) == syscall.EAGAIN }

// peek looks at what comes next on fd, without taking it or waiting for it.
func peek(fd uintptr) syscall.Errno {
	var b [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno
}
