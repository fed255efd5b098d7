//go:build linux

package integration

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The gateway notifies the service manager (sd_notify(3)) when it is ready, at intervals while it runs, and when it
// stops.
func TestTheServiceManagerIsNotified(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(eventTimeout)))
	next := func() string {
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		require.NoError(t, err)
		return string(buf[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "200000")
	w := start(t, 1, "")
	require.Equal(t, "READY=1", next())
	require.Equal(t, 200, w.get().status)
	require.Equal(t, "WATCHDOG=1", next())
	require.Equal(t, "WATCHDOG=1", next())
	w.signal(syscall.SIGTERM)
	for state := next(); state != "STOPPING=1"; state = next() {
		require.Equal(t, "WATCHDOG=1", state)
	}
	require.NoError(t, w.cmd.Wait())
}
