package transport

import (
	"context"
	"net"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// If the gateway listens on every address, every address of this machine is forbidden, also those that are not the
// source address of a connection to itself.
func TestForbidEveryAddress(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread and its network namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("a network namespace needs privileges: ", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	for name, ip := range map[string][]byte{"lo": {127, 0, 0, 1}, "lo:1": {192, 0, 2, 7}, "lo:2": {192, 0, 2, 8}} {
		own, err := unix.NewIfreq(name)
		require.NoError(t, err)
		require.NoError(t, own.SetInet4Addr(ip))
		require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFADDR, own))
	}
	up, err := unix.NewIfreq("lo")
	require.NoError(t, err)
	up.SetUint16(unix.IFF_UP)
	require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up))

	l, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	defer l.Close()
	tr := New(Config{})
	tr.AddOwnAddress(l.Addr().(*net.TCPAddr))
	for _, ip := range []string{"127.0.0.1", "192.0.2.7", "192.0.2.8"} {
		c := &Control{Deadline: time.Now().Add(10 * time.Second)}
		_, verr := tr.OpenTunnel(context.Background(), proxyAt(t, "direct://"), c,
			net.JoinHostPort(ip, strconv.Itoa(l.Addr().(*net.TCPAddr).Port)))
		require.NotNil(t, verr, ip)
		require.Equal(t, "destination_ip_prohibited", verr.Reason, ip)
	}
}
