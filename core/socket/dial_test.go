//go:build linux && (amd64 || arm64)

package socket

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"golang.org/x/sys/unix"
)

func TestDialAndListen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := Listen(context.Background(), address)
		if err != nil && address == "[::1]:0" {
			t.Skip("this machine has no IPv6")
		}
		require.NoError(t, err)
		defer l.Close()
		to := l.Addr().(*net.TCPAddr).AddrPort()
		c, err := Dial(context.Background(), to, time.Now().Add(5*time.Second), func() {
			t.Error("a connection within the machine is established at once")
		})
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, l.Addr().String(), c.RemoteAddr().String())
		far, err := l.Accept()
		require.NoError(t, err)
		defer far.Close()
		far = Wrap(far)
		go far.Write([]byte("hello"))
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		for side, conn := range map[string]net.Conn{"dialed": c, "accepted": far} {
			conn.(*Conn).raw.Control(func(fd uintptr) {
				for _, o := range []struct{ level, name, want int }{
					{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
					{syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
				} {
					v, err := syscall.GetsockoptInt(int(fd), o.level, o.name)
					require.NoError(t, err)
					require.Equal(t, o.want, v, "%s, option %d of %d", side, o.name, o.level)
				}
			})
		}
	}
}

func TestDialRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	to := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	_, err = Dial(context.Background(), to, time.Now().Add(5*time.Second), nil)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Contains(t, err.Error(), to.String())
}

// fullListener returns the address of a listener whose queue is full: further connections
// stay pending.
func fullListener(t *testing.T) netip.AddrPort {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	sa, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*syscall.SockaddrInet4).Port))
	for range 8 {
		c, err := net.DialTimeout("tcp", to.String(), 50*time.Millisecond)
		if err != nil {
			return to
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("the queue does not fill on this kernel")
	return to
}

func TestDialPending(t *testing.T) {
	to := fullListener(t)
	late := coretest.MeasureTimerDelay(t)
	for limit, slow := 50*time.Millisecond, 0; slow == 0; limit *= 2 { // a busy machine may be late for the first limit
		begin := time.Now()
		_, err := Dial(context.Background(), to, begin.Add(limit), func() { slow++ })
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.LessOrEqual(t, slow, 1)
		require.Less(t, time.Since(begin), limit+5*time.Second+late())
		require.Less(t, limit, time.Minute, "the wait is not reported")
	}

	ctx, cancel := context.WithCancel(context.Background())
	begin := time.Now()
	_, err := Dial(ctx, to, begin.Add(time.Minute), cancel)
	require.Error(t, err)
	require.Less(t, time.Since(begin), 5*time.Second+late(), "a cancelled context ends the dial")
}

// Without a listener, the kernel may choose the destination port as the local port and connect
// the socket to itself. Dial then returns ECONNREFUSED, for every address of this machine.
func TestDialToItself(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread and its network namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("a network namespace needs privileges: ", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	require.NoError(t, err)
	up.SetUint16(unix.IFF_UP)
	require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up))
	own, err := unix.NewIfreq("lo:1")
	require.NoError(t, err)
	require.NoError(t, own.SetInet4Addr([]byte{192, 0, 2, 7}))
	require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFADDR, own))
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40000"), 0))
	addresses := []string{"127.0.0.1:40000", "192.0.2.7:40000"}
	if l, err := net.Listen("tcp", "[::1]:40000"); err == nil { // the machine has IPv6
		l.Close()
		addresses = append(addresses, "[::1]:40000")
	}
	for _, address := range addresses {
		for range 2 { // the first connection does not block the second
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			_, err := Dial(ctx, netip.MustParseAddrPort(address), time.Now().Add(time.Minute), nil)
			cancel()
			require.ErrorIs(t, err, syscall.ECONNREFUSED, address)
		}
	}
}

// If the poller rejects a socket, the socket is closed and the error reports a limit of this
// machine.
func TestRegisterFails(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file")) // epoll rejects regular files
	require.NoError(t, err)
	defer file.Close()
	fd, err := unix.Dup(int(file.Fd()))
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(fd, true))
	_, err = register(uintptr(fd), netip.AddrPort{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.ErrorIs(t, err, syscall.EBADF)
}

// A link-local address keeps its zone.
func TestZone(t *testing.T) {
	raw := rawAddress{family: syscall.AF_INET6, port: [2]byte{1, 2}, v6: [16]byte{0: 0xfe, 1: 0x80, 15: 1}, scope: 3}
	require.Equal(t, "[fe80::1%3]:258", raw.addrPort().String())
	raw.scope = 0
	require.Equal(t, "[fe80::1]:258", raw.addrPort().String())
}

// RemoteAddr returns the address to which the kernel has connected, even if another address was dialed.
func TestDialedAddr(t *testing.T) {
	for name, at := range map[string]string{"::ffff:127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1",
		"::ffff:0.0.0.0": "127.0.0.1", "::": "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
		if err != nil && at == "::1" {
			continue // the machine has no IPv6
		}
		require.NoError(t, err)
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		c, err := Dial(context.Background(), netip.AddrPortFrom(netip.MustParseAddr(name), port),
			time.Now().Add(5*time.Second), nil)
		require.NoError(t, err)
		require.Equal(t, l.Addr().String(), c.RemoteAddr().String(), name)
		c.Close()
	}
}

// Acknowledgements are not delayed. A server that sends first waits for the acknowledgement of the handshake. A proxy
// with Nagle's algorithm waits for the acknowledgement of the first part of a response before it sends the second part.
func TestAcknowledgementsAreNotDelayed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	require.NoError(t, err)
	established := func() (accepted bool) { // on the listener's side
		raw.Control(func(fd uintptr) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			accepted = err == nil && n == 1
		})
		return accepted
	}
	c, err := Dial(context.Background(), l.Addr().(*net.TCPAddr).AddrPort(), time.Now().Add(5*time.Second), nil)
	require.NoError(t, err)
	defer c.Close()
	require.True(t, established())
	require.NoError(t, c.(*Conn).stream.(descriptor).control("getsockopt", func(fd uintptr) syscall.Errno {
		quick, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK)
		require.NoError(t, err)
		require.Equal(t, 1, quick)
		return 0
	}))
}
