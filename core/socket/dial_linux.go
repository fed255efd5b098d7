//go:build linux && (amd64 || arm64)

package socket

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// Listen listens for TCP connections on an address; it accepts *Conns. What
// each needs is set on the listener, and inherited: it costs no call per
// connection. Multipath TCP, Go's default for listeners, is off: each
// connection that does not use it would pay for it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(options)
	}}
	lc.SetMultipathTCP(false)
	made, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer made.Close()
	file, err := made.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &listener{file: file, raw: raw, addr: made.Addr()}, nil
}

// listener accepts connections without package net, which would ask the kernel
// for the addresses of both ends of each.
type listener struct {
	file *os.File
	raw  syscall.RawConn
	addr net.Addr
}

func (l *listener) Addr() net.Addr { return l.addr }
func (l *listener) Close() error   { return l.file.Close() }

func (l *listener) Accept() (net.Conn, error) {
	var fd uintptr
	var errno syscall.Errno
	err := l.raw.Read(func(on uintptr) bool {
		for {
			fd, _, errno = syscall.RawSyscall6(syscall.SYS_ACCEPT4, on, 0, 0, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
			switch errno {
			case syscall.EINTR, syscall.ECONNABORTED: // that one has left already
				continue
			}
			return errno != syscall.EAGAIN
		}
	})
	if err != nil {
		err = ended(err)
	} else if errno != 0 {
		err = os.NewSyscallError("accept4", errno)
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
	}
	c, err := adopt(fd, netip.AddrPort{})
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
	}
	return c, nil
}

// Dial opens a connection to an IP address. It gives up at the deadline, or when
// ctx is cancelled. slow, if not nil, is called before it waits, unless the
// connection stands at once.
func Dial(ctx context.Context, to netip.AddrPort, deadline time.Time, slow func()) (net.Conn, error) {
	c, err := dial(ctx, to, deadline, slow)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

func dial(ctx context.Context, to netip.AddrPort, deadline time.Time, slow func()) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to = netip.AddrPortFrom(reached(to.Addr()), to.Port())
	address := sockaddr(to)
	fd, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, uintptr(address.family), syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, syscall.IPPROTO_TCP)
	if errno != 0 {
		return nil, os.NewSyscallError("socket", errno)
	}
	options(fd)
	errno = address.connect(fd)
	if errno == syscall.EINPROGRESS {
		errno = address.connect(fd) // on the same machine it stands by now
	}
	pending := errno == syscall.EALREADY
	if errno != 0 && !pending {
		syscall.Close(int(fd))
		return nil, os.NewSyscallError("connect", errno)
	}
	c, err := adopt(fd, to)
	if err != nil {
		return nil, err
	}
	if pending {
		if slow != nil {
			slow()
		}
		if err := c.connected(ctx, &address, deadline); err != nil {
			c.Close()
			return nil, err
		}
	} else if c.LocalAddr().(*net.TCPAddr).AddrPort() == to {
		// Nobody listens at this address of this machine, and the port that the
		// kernel gave us is the very one we wanted to reach: TCP then connects a
		// socket with itself.
		c.SetLinger(0) // who is to listen there may do so at once
		c.Close()
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	return c, nil
}

// adopt gives a socket, whose other end is at to if that is known, into the care
// of the runtime's poller. If that fails the socket is closed.
func adopt(fd uintptr, to netip.AddrPort) (*Conn, error) {
	d := descriptor{os.NewFile(fd, "tcp"), to}
	if d.SetDeadline(time.Time{}) != nil {
		// NewFile does not say why: the kernel has no memory for it, or lets this
		// user watch no more (epoll(7), max_user_watches).
		d.Close()
		return nil, os.NewSyscallError("epoll_ctl", syscall.ENOSPC)
	}
	return newConn(d)
}

// reached is the address that a connection to a really ends up at, so that
// RemoteAddr says where it leads.
func reached(a netip.Addr) netip.Addr {
	a = a.Unmap() // ::ffff:1.2.3.4 is dialled as IPv4, as package net does
	switch {
	case !a.IsUnspecified():
		return a
	case a.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}) // ip(7): of INADDR_ANY the kernel makes this machine
	}
	return netip.IPv6Loopback()
}

// connected waits until the connection to address stands.
func (c *Conn) connected(ctx context.Context, address *rawAddress, deadline time.Time) error {
	c.SetWriteDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var errno syscall.Errno
	err := c.raw.Write(func(fd uintptr) bool {
		errno = address.connect(fd)
		return errno != syscall.EALREADY
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return ended(err)
	case errno != 0 && errno != syscall.EISCONN:
		return os.NewSyscallError("connect", errno)
	}
	return c.SetWriteDeadline(time.Time{})
}

// options sets what every connection has: small writes go out at once (no Nagle),
// and the kernel probes it when it is idle (KeepAliveIdle).
func options(fd uintptr) {
	set(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	set(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	set(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int32(KeepAliveIdle/time.Second))
}

func set(fd uintptr, level, option int, value int32) {
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
}

// descriptor is a socket in the care of the runtime's poller.
type descriptor struct {
	*os.File
	to netip.AddrPort // the other end, where it was chosen here
}

// CloseWrite tells the other side that nothing more will come.
func (d descriptor) CloseWrite() error {
	return d.control("shutdown", func(fd uintptr) syscall.Errno {
		_, _, errno := syscall.RawSyscall(syscall.SYS_SHUTDOWN, fd, syscall.SHUT_WR, 0)
		return errno
	})
}

// SetLinger says what Close does with what has not been sent: see
// net.TCPConn.SetLinger.
func (d descriptor) SetLinger(seconds int) error {
	return d.control("setsockopt", func(fd uintptr) syscall.Errno {
		l := syscall.Linger{Linger: int32(seconds)}
		if seconds >= 0 {
			l.Onoff = 1
		}
		_, _, errno := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
		return errno
	})
}

// LocalAddr implements net.Conn.
func (d descriptor) LocalAddr() net.Addr { return d.address(syscall.SYS_GETSOCKNAME) }

// RemoteAddr implements net.Conn.
func (d descriptor) RemoteAddr() net.Addr {
	if d.to.IsValid() {
		return net.TCPAddrFromAddrPort(d.to)
	}
	return d.address(syscall.SYS_GETPEERNAME)
}

// address asks the kernel for one; without an answer it is the zero address.
func (d descriptor) address(call uintptr) net.Addr {
	var address rawAddress
	d.control("getsockname", func(fd uintptr) syscall.Errno {
		size := uint32(unsafe.Sizeof(address))
		_, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)))
		return errno
	})
	return net.TCPAddrFromAddrPort(address.addrPort())
}

// control makes a call that does not block.
func (d descriptor) control(name string, call func(fd uintptr) syscall.Errno) error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { errno = call(fd) }); err != nil {
		return ended(err)
	}
	if errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}

// rawAddress is a struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)).
type rawAddress struct {
	family uint16
	port   [2]byte // big-endian
	v4     [4]byte // of sockaddr_in; the flow of sockaddr_in6
	v6     [16]byte
	scope  uint32
}

func sockaddr(a netip.AddrPort) rawAddress {
	r := rawAddress{port: [2]byte{byte(a.Port() >> 8), byte(a.Port())}}
	if ip := a.Addr(); ip.Is4() {
		r.family, r.v4 = syscall.AF_INET, ip.As4()
	} else {
		r.family, r.v6 = syscall.AF_INET6, ip.As16()
	}
	return r
}

func (r *rawAddress) addrPort() netip.AddrPort {
	ip := netip.AddrFrom4(r.v4)
	if r.family == syscall.AF_INET6 {
		ip = netip.AddrFrom16(r.v6)
		if r.scope != 0 {
			ip = ip.WithZone(strconv.Itoa(int(r.scope)))
		}
	}
	return netip.AddrPortFrom(ip, uint16(r.port[0])<<8|uint16(r.port[1]))
}

// connect calls connect(2): EINPROGRESS the first time and EALREADY later mean
// that the connection does not stand yet; any later call tells how it went.
func (r *rawAddress) connect(fd uintptr) syscall.Errno {
	size := uintptr(syscall.SizeofSockaddrInet6)
	if r.family == syscall.AF_INET {
		size = syscall.SizeofSockaddrInet4
	}
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, fd, uintptr(unsafe.Pointer(r)), size)
		if errno != syscall.EINTR {
			return errno
		}
	}
}
