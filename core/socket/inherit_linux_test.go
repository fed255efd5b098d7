//go:build linux && (amd64 || arm64)

package socket_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// O_NONBLOCK belongs to the socket, which several processes share. A supervisor clears it for each service that it
// passes the socket to, so it may be cleared while this process is accepting.
func TestABlockingSocketBlocksNoThread(t *testing.T) {
	for name, clear := range map[string]struct{ before, after bool }{
		"passed blocking":     {before: true},
		"made blocking later": {after: true},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer made.Close()
			shared, err := made.(*net.TCPListener).File()
			require.NoError(t, err)
			defer shared.Close()
			file, err := made.(*net.TCPListener).File()
			require.NoError(t, err)
			supervisor := int(shared.Fd())
			require.NoError(t, syscall.SetNonblock(supervisor, !clear.before))
			l, err := socket.Inherit(file)
			require.NoError(t, err)
			defer l.Close()
			accepted := make(chan error, 1)
			accept := func() {
				c, err := l.Accept()
				if err == nil {
					c.Close()
				}
				accepted <- err
			}
			connect := func() {
				c, err := net.Dial("tcp", made.Addr().String())
				require.NoError(t, err)
				c.Close()
			}
			if clear.after {
				connect()
				accept()
				require.NoError(t, <-accepted)
				require.NoError(t, syscall.SetNonblock(supervisor, false))
			}
			go accept()
			connect()
			require.NoError(t, <-accepted)
			if clear.after {
				require.NoError(t, syscall.SetNonblock(supervisor, false))
			}
			go accept()
			time.Sleep(20 * time.Millisecond) // Accept is waiting; without this sleep the test also passes
			require.NoError(t, l.Close())
			require.ErrorIs(t, <-accepted, net.ErrClosed)
		})
	}
}
