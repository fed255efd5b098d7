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

// Listen listens for TCP connections on an address. The connections that it accepts are *Conns. They inherit their
// socket options from the listener, which saves system calls. Multipath TCP, Go's default for listeners, is off,
// because it slows down connections that do not use it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(setOptions)
	}}
	lc.SetMultipathTCP(false)
	made, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return wrapListener(made.(*net.TCPListener), false)
}

// wrapListener returns a new listener on the socket of a listener of package net, and closes that listener. If shared
// is set, the socket may also belong to other processes.
func wrapListener(made *net.TCPListener, shared bool) (net.Listener, error) {
	defer made.Close()
	file, err := made.File()
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := raw.Control(setOptions); err != nil {
		return nil, err
	}
	return &listener{file: file, raw: raw, addr: made.Addr(), shared: shared}, nil
}

// listener accepts connections without package net, which would query the addresses of both ends of each connection.
type listener struct {
	file   *os.File
	raw    syscall.RawConn
	addr   net.Addr
	shared bool // the socket may also belong to other processes, which may make it blocking
}

func (l *listener) Addr() net.Addr { return l.addr }
func (l *listener) Close() error   { return l.file.Close() }

func (l *listener) Accept() (net.Conn, error) {
	var fd uintptr
	var errno syscall.Errno
	var from rawAddress
	err := l.raw.Read(func(on uintptr) bool {
		for {
			switch fd, errno = l.accept4(on, &from); errno {
			case syscall.EINTR, syscall.ECONNABORTED: // the client has closed this connection already
				continue
			}
			return errno != syscall.EAGAIN
		}
	})
	if err != nil {
		err = writeErrorOf(err)
	} else if errno != 0 {
		err = os.NewSyscallError("accept4", errno)
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
	}
	c, err := register(fd, from.addrPort())
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
	}
	return c, nil
}

func (l *listener) accept4(on uintptr, from *rawAddress) (fd uintptr, errno syscall.Errno) {
	size := uint32(unsafe.Sizeof(*from))
	const flags = syscall.SOCK_NONBLOCK | syscall.SOCK_CLOEXEC
	if !l.shared {
		fd, _, errno = syscall.RawSyscall6(syscall.SYS_ACCEPT4, on, uintptr(unsafe.Pointer(from)),
			uintptr(unsafe.Pointer(&size)), flags, 0, 0)
		return fd, errno
	}
	setNonblock(on)
	fd, _, errno = syscall.Syscall6(syscall.SYS_ACCEPT4, on, uintptr(unsafe.Pointer(from)),
		uintptr(unsafe.Pointer(&size)), flags, 0, 0)
	return fd, errno
}

// setNonblock sets O_NONBLOCK. The flag belongs to the socket, and all processes that have the socket share it.
// systemd clears the flag whenever it starts another service with this socket. A blocking accept4 would block a
// thread, and Close would then wait for the next connection.
func setNonblock(fd uintptr) {
	syscall.RawSyscall(syscall.SYS_FCNTL, fd, syscall.F_SETFL, syscall.O_NONBLOCK) // the socket has no other flags
}

// Dial opens a connection to an IP address. It fails at the deadline, or when ctx is cancelled. If the connection
// cannot be established without a wait, Dial calls the function slow, if not nil, before the wait.
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
	to = netip.AddrPortFrom(dialedAddr(to.Addr()), to.Port())
	address := sockaddr(to)
	fd, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, uintptr(address.family),
		syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, syscall.IPPROTO_TCP)
	if errno != 0 {
		return nil, os.NewSyscallError("socket", errno)
	}
	setOptions(fd)
	errno = address.connect(fd)
	if errno == syscall.EINPROGRESS {
		errno = address.connect(fd) // a connection within this machine is established by now
	}
	pending := errno == syscall.EALREADY
	if errno != 0 && !pending {
		syscall.Close(int(fd))
		return nil, os.NewSyscallError("connect", errno)
	}
	c, err := register(fd, to)
	if err != nil {
		return nil, err
	}
	if pending {
		if slow != nil {
			slow()
		}
		if err := c.waitConnected(ctx, &address, deadline); err != nil {
			c.Close()
			return nil, err
		}
	} else if c.LocalAddr().(*net.TCPAddr).AddrPort() == to {
		// The kernel has chosen the destination port as the local port. Because nothing listens there, TCP has
		// connected the socket to itself.
		c.SetLinger(0) // frees the port for a listener, without a wait
		c.Close()
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	return c, nil
}

// register adds a socket to the runtime's poller and returns its Conn. If it fails, it closes the socket. The parameter
// remote is the peer's address. If remote is the zero value, RemoteAddr queries the address.
func register(fd uintptr, remote netip.AddrPort) (*Conn, error) {
	d, err := openDescriptor(fd, remote)
	if err != nil {
		return nil, err
	}
	return newConn(d)
}

// openDescriptor adds a socket to the runtime's poller. If this fails, it closes the socket.
func openDescriptor(fd uintptr, remote netip.AddrPort) (descriptor, error) {
	d := descriptor{os.NewFile(fd, "tcp"), remote}
	if d.SetDeadline(time.Time{}) != nil {
		// NewFile does not return the reason of the failure. Either the kernel has no memory for the watch, or the user
		// has reached the maximum number of watches (max_user_watches in epoll(7)).
		d.Close()
		return descriptor{}, os.NewSyscallError("epoll_ctl", syscall.ENOSPC)
	}
	return d, nil
}

// dialedAddr returns the address to which the kernel connects if the address a is dialed. For 0.0.0.0, for example,
// this is 127.0.0.1. RemoteAddr of the connection returns the same address.
func dialedAddr(a netip.Addr) netip.Addr {
	a = a.Unmap() // ::ffff:1.2.3.4 is dialed as IPv4, as in package net
	switch {
	case !a.IsUnspecified():
		return a
	case a.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}) // the kernel connects INADDR_ANY to the loopback address (ip(7))
	}
	return netip.IPv6Loopback()
}

// waitConnected waits until the connection to address is established, the deadline passes or ctx ends.
func (c *Conn) waitConnected(ctx context.Context, address *rawAddress, deadline time.Time) error {
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
		return writeErrorOf(err)
	case errno != 0 && errno != syscall.EISCONN:
		return os.NewSyscallError("connect", errno)
	}
	return c.SetWriteDeadline(time.Time{})
}

// setOptions sets the options of every connection: no Nagle algorithm, and keep-alive probes
// after KeepAliveIdle.
func setOptions(fd uintptr) {
	setOption(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	setOption(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	setOption(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int32(KeepAliveIdle/time.Second))
}

func setOption(fd uintptr, level, option int, value int32) {
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&value)),
		unsafe.Sizeof(value), 0)
}

// descriptor is a socket that is registered with the runtime's poller.
type descriptor struct {
	*os.File
	remote netip.AddrPort // the address of the peer
}

// CloseWrite shuts down the writing side, as net.TCPConn.CloseWrite does.
func (d descriptor) CloseWrite() error {
	return d.control("shutdown", func(fd uintptr) syscall.Errno {
		_, _, errno := syscall.RawSyscall(syscall.SYS_SHUTDOWN, fd, syscall.SHUT_WR, 0)
		return errno
	})
}

// SetLinger sets how Close treats unsent bytes, as net.TCPConn.SetLinger does.
func (d descriptor) SetLinger(seconds int) error {
	return d.control("setsockopt", func(fd uintptr) syscall.Errno {
		l := syscall.Linger{Linger: int32(seconds)}
		if seconds >= 0 {
			l.Onoff = 1
		}
		_, _, errno := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_LINGER,
			uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
		return errno
	})
}

// LocalAddr implements net.Conn.
func (d descriptor) LocalAddr() net.Addr { return d.address(syscall.SYS_GETSOCKNAME) }

// RemoteAddr implements net.Conn.
func (d descriptor) RemoteAddr() net.Addr {
	if d.remote.IsValid() {
		return net.TCPAddrFromAddrPort(d.remote)
	}
	return d.address(syscall.SYS_GETPEERNAME)
}

// address queries the local or the remote address. The parameter call is the number of the system call. If
// the query fails, the result is the zero address.
func (d descriptor) address(call uintptr) net.Addr {
	var address rawAddress
	d.control("getsockname", func(fd uintptr) syscall.Errno {
		size := uint32(unsafe.Sizeof(address))
		_, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)))
		return errno
	})
	return net.TCPAddrFromAddrPort(address.addrPort())
}

// control makes a system call that does not block.
func (d descriptor) control(name string, call func(fd uintptr) syscall.Errno) error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { errno = call(fd) }); err != nil {
		return writeErrorOf(err)
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
	v4     [4]byte // address of sockaddr_in, or flow of sockaddr_in6
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

// connect calls connect(2). EINPROGRESS from the first call, or EALREADY from a later call, means that the connection
// is being established.
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
