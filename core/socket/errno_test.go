package socket

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// An error of Winsock is found under its POSIX name, on Windows only.
func TestErrorsOfWinsock(t *testing.T) {
	refused := func(e syscall.Errno) error {
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("connectex", e)}
	}
	require.True(t, Is(refused(syscall.ECONNREFUSED), syscall.ECONNREFUSED))
	require.False(t, Is(refused(syscall.ECONNREFUSED), syscall.ECONNRESET))
	require.False(t, Is(nil, syscall.ECONNREFUSED))
	require.Equal(t, runtime.GOOS == "windows", Is(refused(10061), syscall.ECONNREFUSED))
	require.False(t, Is(refused(10061), syscall.ECONNRESET))
	require.False(t, Is(refused(0), syscall.ENOSPC), "Winsock has no number for it")
}
