package socket

import (
	"net"
	"sync"
	"syscall"
)

// Conn is a TCP connection for one reader and one writer at a time; Idle counts
// as a reader. Deadlines and Close end their calls as usual.
type Conn struct {
	stream
	// OnFull, if not nil, is called by Write, WriteThenRead and Pipes.Move before they wait for
	// room in the kernel's buffer (on systems other than Linux: before every
	// Write). It may set deadlines.
	OnFull func()

	raw syscall.RawConn
	in  direction
	out direction
	ask []byte // to be sent before the read

	look  func(fd uintptr) // sets quiet
	quiet bool

	pool *sync.Pool // where the read's buffer comes from; nil if it has one
	lent *[]byte    // that buffer
}

// stream is what a Conn leaves to others to do: a *net.TCPConn or, for a
// connection that this package has made itself, an *os.File (descriptor).
type stream interface {
	net.Conn
	SyscallConn() (syscall.RawConn, error)
	CloseWrite() error
	SetLinger(seconds int) error
}

// direction is the call under way; its function is bound once, so that a call
// costs no allocation.
type direction struct {
	buf   []byte
	n     int
	errno syscall.Errno
	call  func(fd uintptr) (done bool)
}

// Wrap returns c as a Conn if it is plain TCP, else c itself.
func Wrap(c net.Conn) net.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		if made, err := newConn(tcp); err == nil {
			return made
		}
	}
	return c
}

// WriteError is returned by WriteThenRead when the message could not be sent.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }
