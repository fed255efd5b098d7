package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// A connection that ends without a response has the same reason and cause, whether it was closed or reset.
func TestConnectionTerminated(t *testing.T) {
	for _, err := range []error{readError(io.EOF), readError(io.ErrUnexpectedEOF), syscall.ECONNRESET,
		fmt.Errorf("read: %w", syscall.EPIPE)} {
		verr := newError(stepWait, err)
		require.Equal(t, "connection_terminated", verr.Reason, "%v", err)
		require.Equal(t, verdict.ConnectionClosed, verr.Cause)
	}
}

// At the limit of open files a check of a proxy fails, and closes no idle connection, because clients use the idle
// connections.
func TestACheckClosesNoIdleConnection(t *testing.T) {
	tr := New(Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}})
	pool := newIdlePool(upstream.Address{Scheme: upstream.HTTP})
	u := proxyAt(t, "http://p.test:1")
	tr.pools.Store(u, pool)
	idle, _ := net.Pipe()
	pool.put(newPersistConn(idle, "", "", false, ""), time.Now())
	require.Equal(t, verdict.LocalLimit, tr.Reach(context.Background(), u).Cause)
	q, err := health.ParseURL("http://check.test/")
	require.NoError(t, err)
	for _, form := range []health.SendForm{health.Absolute, health.Tunnel} {
		r := tr.Check(context.Background(), u, form, &q, time.Minute)
		require.Equal(t, verdict.LocalLimit, r.Facts.Err.Cause)
	}
	require.Equal(t, 1, pool.count)
}

// If this machine has no file descriptor or port left, the idle connections are closed. If that does not
// help, the attempt fails with LocalLimit.
func TestLocalLimit(t *testing.T) {
	full := &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	failures := 1
	tr := New(Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		if failures == 0 {
			c, _ := net.Pipe()
			return c, nil
		}
		failures--
		return nil, full
	}})
	pool := newIdlePool(upstream.Address{Scheme: upstream.HTTP})
	tr.pools.Store(&upstream.Upstream{}, pool)
	idle, other := net.Pipe()
	pool.put(newPersistConn(idle, "", "", false, ""), time.Now())
	dial := func() (net.Conn, *verdict.Error) {
		return tr.dialProxy(context.Background(), nil, upstream.Address{Scheme: upstream.HTTP, Host: "p.test:1"},
			&Control{Deadline: time.Now().Add(time.Minute)})
	}
	c, verr := dial()
	require.Nil(t, verr)
	c.Close()
	_, err := other.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "the idle connection has been closed")
	require.Zero(t, pool.count)

	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.ENOMEM} { // for example, of the poller
		require.Equal(t, verdict.LocalLimit, newError(stepDial, os.NewSyscallError("epoll_ctl", e)).Cause)
	}

	failures = 2
	_, verr = dial()
	require.Equal(t, verdict.LocalLimit, verr.Cause)
	require.Equal(t, "proxy_internal_error", verr.Reason)
}

// EADDRNOTAVAIL has two meanings. If this machine has no free port, the cause is a local limit. If it has no address
// from which the proxy can be reached, the cause is that the proxy is unreachable.
func TestNoSourceAddress(t *testing.T) {
	unreachable := func(to string) *verdict.Error {
		return newError(stepDial, &net.OpError{Op: "dial", Net: "tcp",
			Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(to)),
			Err:  os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)})
	}
	require.Equal(t, verdict.LocalLimit, unreachable("127.0.0.1:1").Cause)
	verr := unreachable("[fe80::1]:1") // without a zone
	require.Equal(t, verdict.ProxyUnreachable, verr.Cause)
	require.Equal(t, "destination_ip_unroutable", verr.Reason)
}
