package socket

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// Conn is a TCP connection for one reader and one writer at a time; a call of Idle counts as a read. As in package net,
// deadlines and Close end reads and writes in progress.
type Conn struct {
	stream
	// OnWriteBlocked, if not nil, is called before Write, WriteThenRead and Pipes.Move wait for room in the kernel's
	// buffer. On systems other than Linux it is called before every Write. It may set deadlines.
	OnWriteBlocked func()
	// OnClose, if not nil, is called once, after the connection was closed.
	OnClose func()

	// Meters count the bytes that are read and written. They may be set while no call is in progress.
	Meters traffic.Meters

	closed  atomic.Bool // OnClose has been called
	raw     syscall.RawConn
	reading operation
	writing operation
	message []byte // message to be written before the read

	fd uintptr // the descriptor of stream; 0 until Idle needs it

	pool   *sync.Pool // pool for the buffer of the read; nil if the caller provides the buffer
	pooled *[]byte    // the buffer from pool
}

var _ net.Conn = (*Conn)(nil)

// stream is the connection below a Conn: a *net.TCPConn, or a descriptor for a connection
// that this package has opened.
type stream interface {
	net.Conn
	SyscallConn() (syscall.RawConn, error)
	CloseWrite() error
	SetLinger(seconds int) error
}

// operation is a read or write in progress. Its function value is created once per Conn, so that a call allocates no
// memory.
type operation struct {
	buf   []byte
	n     int
	errno syscall.Errno
	call  func(fd uintptr) (done bool)
}

// Wrap returns a *Conn for c if c is a *net.TCPConn, otherwise c itself.
func Wrap(c net.Conn) net.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		if conn, err := newConn(tcp); err == nil {
			return conn
		}
	}
	return c
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	err := c.stream.Close()
	if c.OnClose != nil && c.closed.CompareAndSwap(false, true) {
		c.OnClose()
	}
	return err
}

// WriteError is the error of a call that writes and reads, if the write has failed.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }
