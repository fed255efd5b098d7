package socket

import (
	"net"
	"sync"
	"syscall"
)

// Conn is a TCP connection for one reader and one writer at a time; Quiet counts
// as a reader. Everything but these and Ask is the *net.TCPConn's: deadlines and Close end those
// too, as usual.
type Conn struct {
	*net.TCPConn
	// Full, if not nil, is called by Write, Ask and Pipes.Move when they have to wait for
	// room, before they do; elsewhere than on Linux each time. It may set
	// deadlines.
	Full func()

	raw syscall.RawConn
	in  direction
	out direction
	ask []byte // to be sent before the read

	look  func(fd uintptr) // sets quiet
	quiet bool

	pool *sync.Pool // where the read's buffer comes from; nil if it has one
	lent *[]byte    // that buffer
}

// direction is the call under way; its function is bound once, so that a call
// costs no allocation.
type direction struct {
	buf   []byte
	n     int
	errno syscall.Errno
	call  func(fd uintptr) (done bool)
}

// Of returns c as a Conn if it is plain TCP, else c itself.
func Of(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	return newConn(tcp, raw)
}

// TCP returns the plain TCP connection that c is, or nil: for what only the
// kernel can do with it.
func TCP(c net.Conn) *net.TCPConn {
	switch c := c.(type) {
	case *Conn:
		return c.TCPConn
	case *net.TCPConn:
		return c
	}
	return nil
}

// WriteError is returned by Ask when the message could not be sent.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }
