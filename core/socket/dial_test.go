//go:build linux

package socket

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDialAndListen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := Listen(context.Background(), address)
		if err != nil && address == "[::1]:0" {
			t.Skip("no IPv6 here")
		}
		require.NoError(t, err)
		defer l.Close()
		to := l.Addr().(*net.TCPAddr).AddrPort()
		c, err := Dial(context.Background(), to, time.Now().Add(5*time.Second), true, func() {
			t.Error("a connection on the same machine stands at once")
		})
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, l.Addr().String(), c.RemoteAddr().String())
		far, err := l.Accept()
		require.NoError(t, err)
		defer far.Close()
		far = Of(far)
		go far.Write([]byte("hello"))
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		for side, conn := range map[string]net.Conn{"dialled": c, "accepted": far} {
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
	_, err = Dial(context.Background(), to, time.Now().Add(5*time.Second), true, nil)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Contains(t, err.Error(), to.String())
}

// deaf listens with a queue that is full: further connections stay pending.
func deaf(t *testing.T) netip.AddrPort {
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
	t.Skip("this kernel's queue does not fill")
	return to
}

func TestDialThatTakesItsTime(t *testing.T) {
	to := deaf(t)
	slow := 0
	begin := time.Now()
	_, err := Dial(context.Background(), to, begin.Add(50*time.Millisecond), true, func() { slow++ })
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, 1, slow)
	require.Less(t, time.Since(begin), 5*time.Second)

	ctx, cancel := context.WithCancel(context.Background())
	begin = time.Now()
	_, err = Dial(ctx, to, begin.Add(time.Minute), true, cancel)
	require.Error(t, err)
	require.Less(t, time.Since(begin), 5*time.Second, "a cancelled context ends it")
}

// What is dialled under another name is where the connection says it leads.
func TestDialByAnotherName(t *testing.T) {
	for name, at := range map[string]string{"::ffff:127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::ffff:0.0.0.0": "127.0.0.1", "::": "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
		if err != nil && at == "::1" {
			continue // no IPv6 here
		}
		require.NoError(t, err)
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		c, err := Dial(context.Background(), netip.AddrPortFrom(netip.MustParseAddr(name), port), time.Now().Add(5*time.Second), true, nil)
		require.NoError(t, err)
		require.Equal(t, l.Addr().String(), c.RemoteAddr().String(), name)
		c.Close()
	}
}

// Whoever does not speak first must not let the other side wait for the end of
// the handshake; whoever does sends it along.
func TestDialEndsTheHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	require.NoError(t, err)
	stands := func() (there bool) { // on the other side, which is this machine
		raw.Control(func(fd uintptr) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			there = err == nil && n == 1
		})
		return there
	}
	for _, speaksFirst := range []bool{false, true} {
		c, err := Dial(context.Background(), l.Addr().(*net.TCPAddr).AddrPort(), time.Now().Add(5*time.Second), speaksFirst, nil)
		require.NoError(t, err)
		defer c.Close()
		if speaksFirst {
			_, err := c.Write([]byte("hello"))
			require.NoError(t, err)
		}
		require.True(t, stands(), "speaks first: %v", speaksFirst)
		far, err := l.Accept()
		require.NoError(t, err)
		far.Close()
	}
}
