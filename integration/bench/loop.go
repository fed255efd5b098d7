//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Load and fakes share the machine with the measured proxy. To leave the CPU to the proxy, load and fakes have one
// thread each. This thread waits with epoll(7), does not switch goroutines, and does not copy bytes that nobody uses.

// handler handles the events of a socket that can be read or written. The parameter ended is true if the other side
// sends no more bytes; the handler must then read all bytes that have arrived.
type handler interface {
	ready(readable, ended bool)
}

// loop waits for the events of sockets. Each socket has a handler. Only one goroutine may use a loop.
type loop struct {
	epoll    int
	handlers []handler // the index is the file descriptor
	events   [256]unix.EpollEvent
}

// newLoop returns an empty loop and binds the calling goroutine to its thread.
func newLoop() (*loop, error) {
	runtime.LockOSThread()
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &loop{epoll: fd}, err
}

// add adds the socket fd, edge-triggered: its handler must read until EAGAIN, or until it has all the bytes that it
// needs.
func (l *loop) add(fd int, h handler) error {
	for len(l.handlers) <= fd {
		l.handlers = append(l.handlers, nil)
	}
	l.handlers[fd] = h
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
		Fd: int32(fd)}
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &ev)
}

// close removes the socket fd from the loop and closes it.
func (l *loop) close(fd int) {
	l.handlers[fd] = nil
	unix.Close(fd)
}

// wait handles the events of all sockets. If there are no events, it blocks until there is one, at most for the time
// d (forever if d is negative).
func (l *loop) wait(d time.Duration) error {
	n, err := l.poll(0)
	if n == 0 && err == nil && d != 0 {
		n, err = l.poll(d)
	}
	if err != nil {
		return fmt.Errorf("epoll_wait: %w", err)
	}
	for _, ev := range l.events[:n] {
		if h := l.handlers[ev.Fd]; h != nil {
			h.ready(ev.Events&^unix.EPOLLOUT != 0, ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0)
		}
	}
	return nil
}

func (l *loop) poll(d time.Duration) (int, error) {
	var timeout *unix.Timespec
	call := syscall.RawSyscall6 // does not block, so the Go runtime need not be informed
	if d >= 0 {
		t := unix.NsecToTimespec(int64(d))
		timeout = &t
	}
	if d != 0 {
		call = syscall.Syscall6
	}
	n, _, errno := call(unix.SYS_EPOLL_PWAIT2, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
		uintptr(len(l.events)),
		uintptr(unsafe.Pointer(timeout)), 0, 0)
	if errno == syscall.EINTR {
		return 0, nil
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// The calls below never block, because the sockets are non-blocking. The result blocked is true if a call would block.

// receive reads into p. If n is 0 without an error, the other side has closed the connection.
func receive(fd int, p []byte) (n int, blocked bool, err error) {
	return result(syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		0, 0, 0))
}

// discard drops up to n received bytes without copying them (tcp(7), MSG_TRUNC).
func discard(fd int, n int64) (int, bool, error) {
	return result(syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(min(n, 1<<20)), unix.MSG_TRUNC, 0, 0))
}

func send(fd int, p []byte) (n int, blocked bool, err error) {
	return result(syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		unix.MSG_NOSIGNAL, 0, 0))
}

func result(n, _ uintptr, errno syscall.Errno) (int, bool, error) {
	switch errno {
	case 0:
		return int(n), false, nil
	case syscall.EAGAIN, syscall.EINTR:
		return 0, true, nil
	}
	return 0, false, errno
}

// zeros is a file of zeros. The kernel copies the bodies of messages from it (sendfile(2)).
type zeros struct {
	fd   int
	size int64
}

func newZeros() (zeros, error) {
	const size = 4 << 20
	fd, err := unix.MemfdCreate("zeros", unix.MFD_CLOEXEC)
	if err != nil {
		return zeros{}, fmt.Errorf("memfd_create: %w", err)
	}
	if _, err := unix.Write(fd, make([]byte, size)); err != nil {
		return zeros{}, fmt.Errorf("fill the file of zeros: %w", err)
	}
	return zeros{fd, size}, nil
}

// send sends up to n zeros (sendfile(2)).
func (z zeros) send(fd int, n int64) (int, bool, error) {
	var offset int64
	return result(syscall.RawSyscall6(unix.SYS_SENDFILE, uintptr(fd), uintptr(z.fd), uintptr(unsafe.Pointer(&offset)),
		uintptr(min(n, z.size)), 0, 0))
}

// stream is a non-blocking socket with the bytes to send on it and the number of input bytes to drop.
type stream struct {
	fd       int
	zeros    zeros
	out      []byte // bytes to send
	body     int64  // number of zeros to send after out
	unwanted int64  // number of input bytes to drop
}

// flush sends as many bytes as possible. It returns true if the socket is full.
func (s *stream) flush() (blocked bool, err error) {
	var n int
	for len(s.out) > 0 && err == nil {
		if n, blocked, err = send(s.fd, s.out); blocked || err != nil {
			return blocked, err
		}
		s.out = s.out[n:]
	}
	for s.body > 0 && err == nil {
		if n, blocked, err = s.zeros.send(s.fd, s.body); blocked || err != nil {
			return blocked, err
		}
		s.body -= int64(n)
	}
	return false, err
}

// dropInput drops input bytes. It returns true if some of these bytes have not arrived yet.
func (s *stream) dropInput() (blocked bool, err error) {
	for s.unwanted > 0 {
		n, blocked, err := discard(s.fd, s.unwanted)
		switch {
		case blocked || err != nil:
			return blocked, err
		case n == 0:
			return false, errClosed
		}
		s.unwanted -= int64(n)
	}
	return false, nil
}

var errClosed = errors.New("the connection closed in mid-message")

func socket() (int, error) {
	return unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// noDelay turns off Nagle's algorithm, so that the last piece of a message does not wait for an ACK.
func noDelay(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// listen listens on a free port of 127.0.0.1.
func listen() (fd int, addr string, err error) {
	if fd, err = socket(); err != nil {
		return 0, "", err
	}
	noDelay(fd) // accepted connections inherit it
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, "", err
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return 0, "", err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, "", err
	}
	in := sa.(*unix.SockaddrInet4)
	return fd, netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)).String(), nil
}
