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

// LeavePoller removes c from the runtime's poller until RejoinPoller. The poller needs 512 bytes for each connection.
// It never releases this memory: it keeps as much as the largest number of connections so far has needed. Leaving the
// poller therefore saves memory if thousands of connections have a long wait.
//
// A connection that is off the poller cannot be read or written. It loses its deadlines, and does not get them back at
// RejoinPoller. It can be watched (Watch), queried (Unread, PeerClosed) and closed. No other goroutine may use c during
// LeavePoller and RejoinPoller. LeavePoller returns false if c cannot leave the poller; c is then unchanged.
func (c *Conn) LeavePoller() bool {
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
	p := &unpolledSocket{fd: uintptr(fd), remote: d.remote}
	c.stream, c.raw, c.fd = p, unpolledRaw{p}, 0
	return true
}

// IsOffPoller reports whether c is off the poller.
func IsOffPoller(c *Conn) bool {
	_, ok := c.stream.(*unpolledSocket)
	return ok
}

// RejoinPoller returns c to the runtime's poller. If it returns an error, c is closed. If c is not off the poller,
// RejoinPoller does nothing.
func (c *Conn) RejoinPoller() error {
	p, ok := c.stream.(*unpolledSocket)
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

// AwaitOffPoller takes c off the poller and waits. The wait ends when bytes arrive, when the peer closes c, or when the
// channel stop has a value. AwaitOffPoller calls the function nextWait before the wait, and then again and again during
// the wait. Each call returns the time until the following call. If a call during the wait returns 0 or less, the wait
// ends, too. No other goroutine may use c during AwaitOffPoller. If c cannot leave the poller, AwaitOffPoller returns
// without a wait and without an error. If AwaitOffPoller returns an error, c is closed.
func (c *Conn) AwaitOffPoller(w *Watcher, nextWait func() time.Duration, stop <-chan struct{}) error {
	if !c.LeavePoller() {
		return nil
	}
	h := &Watch{conn: c, watcher: w, arrived: make(chan struct{}, 1)}
	h.start = func(fd uintptr) { h.watch(fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLONESHOT) }
	h.stop = h.remove
	if h.Start() {
		h.waitEvent(nextWait, stop)
	}
	h.Stop()
	return c.RejoinPoller()
}

// waitEvent waits for the event of a connection that is off the poller. The parameters are those of AwaitOffPoller.
func (w *Watch) waitEvent(nextWait func() time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(nextWait())
	defer timer.Stop()
	for {
		select {
		case <-w.arrived:
			return
		case <-stop:
			return
		case <-timer.C:
		}
		wait := nextWait()
		if wait <= 0 {
			return
		}
		timer.Reset(wait)
	}
}

// unpolledSocket is a socket that is not in the runtime's poller. It takes the place of a descriptor in Conn.stream.
type unpolledSocket struct {
	remote netip.AddrPort

	mu     sync.Mutex // guards the fields below
	fd     uintptr
	closed bool // fd does not belong to this value any more
}

var errOffPoller = errors.New("the connection is off the poller")

// release returns the descriptor, which then does not belong to p any more. It returns false if p was closed.
func (p *unpolledSocket) release() (fd uintptr, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ok = !p.closed
	p.closed = true
	return p.fd, ok
}

// Close implements net.Conn.
func (p *unpolledSocket) Close() error {
	fd, ok := p.release()
	if !ok {
		return net.ErrClosed
	}
	return syscall.Close(int(fd))
}

// SyscallConn implements stream.
func (p *unpolledSocket) SyscallConn() (syscall.RawConn, error) { return unpolledRaw{p}, nil }

// Control implements syscall.RawConn.
func (p *unpolledSocket) Control(f func(fd uintptr)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	f(p.fd)
	return nil
}

// RemoteAddr implements net.Conn.
func (p *unpolledSocket) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(p.remote) }

// Conn calls none of the following methods while it is off the poller.

func (*unpolledSocket) Read([]byte) (int, error)         { return 0, errOffPoller }
func (*unpolledSocket) Write([]byte) (int, error)        { return 0, errOffPoller }
func (*unpolledSocket) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*unpolledSocket) SetDeadline(time.Time) error      { return nil }
func (*unpolledSocket) SetReadDeadline(time.Time) error  { return nil }
func (*unpolledSocket) SetWriteDeadline(time.Time) error { return nil }
func (*unpolledSocket) CloseWrite() error                { return errOffPoller }
func (*unpolledSocket) SetLinger(int) error              { return errOffPoller }

// unpolledRaw is an unpolledSocket as a syscall.RawConn.
type unpolledRaw struct{ *unpolledSocket }

func (unpolledRaw) Read(func(fd uintptr) bool) error  { return errOffPoller }
func (unpolledRaw) Write(func(fd uintptr) bool) error { return errOffPoller }
