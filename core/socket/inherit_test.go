package socket_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// Two listeners have one socket. When one listener is closed, the other gets all connections, also those in
// the queue.
func TestAnInheritedSocketOutlivesAListener(t *testing.T) {
	made, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer made.Close()
	inherit := func() net.Listener {
		file, err := made.(*net.TCPListener).File()
		require.NoError(t, err)
		l, err := socket.Inherit(file)
		require.NoError(t, err)
		return l
	}
	first, second := inherit(), inherit()
	require.Equal(t, made.Addr().String(), first.Addr().String())
	for range 3 {
		c, err := net.Dial("tcp", made.Addr().String())
		require.NoError(t, err)
		defer c.Close()
	}
	c, err := first.Accept()
	require.NoError(t, err)
	c.Close()
	require.NoError(t, first.Close())
	for range 2 {
		c, err := second.Accept()
		require.NoError(t, err)
		c.Close()
	}
	require.NoError(t, second.Close())
}

func TestOtherSocketsAreRefused(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer l.Close()
	file, err := l.(*net.UnixListener).File()
	require.NoError(t, err)
	_, err = socket.Inherit(file)
	require.ErrorContains(t, err, "not on a TCP port")
	p, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer p.Close()
	file, err = p.(*net.UDPConn).File()
	require.NoError(t, err)
	_, err = socket.Inherit(file)
	require.Error(t, err)
}
