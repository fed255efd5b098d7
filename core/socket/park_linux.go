//go:build linux && (amd64 || arm64)

package socket

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Park removes c from the runtime's poller until Unpark. The poller needs 512 bytes for each connection. It never
// releases this memory: it keeps as much as the largest number of connections so far has needed. Parking therefore
// saves memory if thousands of connections have a long wait.
//
// A parked connection cannot be read or written. It loses its deadlines, and does not get them back at Unpark. It can
// be watched (Watch), queried (Unread, PeerClosed) and closed. No other goroutine may use c during Park and Unpark.
// Park returns false if c cannot be parked; c is then unchanged.
func (c *Conn) Park() bool {
	d, ok := c.stream.(descriptor)
	if !ok {
		return false
	}
	fd := -1 // a copy of the descriptor: the poller releases a descriptor only when it is closed
	d.control("fcntl", func(old uintptr) syscall.Errno {
		fd, _ = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
		return 0
	})
	if fd < 0 {
		return false
	}
	d.Close()
	p := &parked{fd: uintptr(fd), remote: d.remote}
	c.stream, c.raw, c.fd = p, parkedRaw{p}, 0
	return true
}

// Parked reports whether c is parked.
func Parked(c *Conn) bool {
	_, ok := c.stream.(*parked)
	return ok
}

// Unpark returns c to the runtime's poller. If it returns an error, c is closed. If c is not parked, Unpark does
// nothing.
func (c *Conn) Unpark() error {
	p, ok := c.stream.(*parked)
	if !ok {
		return nil
	}
	fd, ok := p.release()
	if !ok {
		return net.ErrClosed
	}
	d, err := openDescriptor(fd, p.remote)
	if err != nil {
		return err
	}
	raw, err := d.SyscallConn()
	if err != nil {
		d.Close()
		return err
	}
	c.stream, c.raw, c.fd = d, raw, 0
	return nil
}

// AwaitParked parks c and waits. The wait ends when bytes arrive, when the peer closes c, or when the channel stop has
// a value. Before the wait, AwaitParked calls the function next, which returns the time until it is called again. If a
// later call returns 0 or less, the wait ends, too. No other goroutine may use c during AwaitParked. If c cannot be
// parked, AwaitParked returns without a wait and without an error. If AwaitParked returns an error, c is closed.
func (c *Conn) AwaitParked(w *Watcher, next func() time.Duration, stop <-chan struct{}) error {
	if !c.Park() {
		return nil
	}
	h := &Watch{conn: c, watcher: w, arrived: make(chan struct{}, 1)}
	h.start = func(fd uintptr) { h.watch(fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLONESHOT) }
	h.stop = h.remove
	if h.Start() {
		h.waitEvent(next, stop)
	}
	h.Stop()
	return c.Unpark()
}

// waitEvent waits for the event of a parked connection. The parameters are those of AwaitParked.
func (w *Watch) waitEvent(next func() time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(next())
	defer timer.Stop()
	for {
		select {
		case <-w.arrived:
			return
		case <-stop:
			return
		case <-timer.C:
		}
		wait := next()
		if wait <= 0 {
			return
		}
		timer.Reset(wait)
	}
}

// parked is a socket that is not in the runtime's poller. It takes the place of a descriptor in Conn.stream.
type parked struct {
	remote netip.AddrPort

	mu     sync.Mutex
	fd     uintptr
	closed bool // fd does not belong to this value any more
}

var errParked = errors.New("the connection is parked")

// release returns the descriptor, which then does not belong to p any more. It returns false if p was closed.
func (p *parked) release() (fd uintptr, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ok = !p.closed
	p.closed = true
	return p.fd, ok
}

// Close implements net.Conn.
func (p *parked) Close() error {
	fd, ok := p.release()
	if !ok {
		return net.ErrClosed
	}
	return syscall.Close(int(fd))
}

// SyscallConn implements stream.
func (p *parked) SyscallConn() (syscall.RawConn, error) { return parkedRaw{p}, nil }

// Control implements syscall.RawConn.
func (p *parked) Control(f func(fd uintptr)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	f(p.fd)
	return nil
}

// RemoteAddr implements net.Conn.
func (p *parked) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(p.remote) }

// Conn calls none of the following methods while it is parked.

func (*parked) Read([]byte) (int, error)         { return 0, errParked }
func (*parked) Write([]byte) (int, error)        { return 0, errParked }
func (*parked) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*parked) SetDeadline(time.Time) error      { return nil }
func (*parked) SetReadDeadline(time.Time) error  { return nil }
func (*parked) SetWriteDeadline(time.Time) error { return nil }
func (*parked) CloseWrite() error                { return errParked }
func (*parked) SetLinger(int) error              { return errParked }

// parkedRaw is a parked connection as a syscall.RawConn.
type parkedRaw struct{ *parked }

func (parkedRaw) Read(func(fd uintptr) bool) error  { return errParked }
func (parkedRaw) Write(func(fd uintptr) bool) error { return errParked }
