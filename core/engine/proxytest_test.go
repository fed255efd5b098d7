package engine_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
)

// A test that finds no free file descriptor shows nothing about the proxy.
func TestATestWithoutAFileDescriptor(t *testing.T) {
	var dialError error
	e := newEngine(t, func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", dialError)}
	}, "http://10.0.0.1:1")
	defer e.Shutdown(context.Background())
	proxy := e.Pool().Snapshot().All[0]

	dialError = syscall.EMFILE
	r, kind, err := e.Test(t.Context(), proxy)
	require.ErrorIs(t, err, syscall.EMFILE)
	require.Equal(t, engine.ConnectionTest, kind)
	require.Empty(t, r.Fault)

	dialError = syscall.ECONNREFUSED
	r, kind, err = e.Test(t.Context(), proxy)
	require.NoError(t, err)
	require.Equal(t, engine.ConnectionTest, kind)
	require.False(t, r.Passed)
	require.Contains(t, r.Fault, "refused")
	require.Zero(t, proxy.Breaker().Snapshot().FailureCount)
}
