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

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// A connection that ends without an answer has one name in metrics and in
// Proxy-Status, by FIN as by RST.
func TestAnEndWithoutAnAnswerIsATermination(t *testing.T) {
	for _, err := range []error{clearer(io.EOF), clearer(io.ErrUnexpectedEOF), syscall.ECONNRESET, fmt.Errorf("read: %w", syscall.EPIPE)} {
		f := fault(retry.Head, err)
		require.Equal(t, "connection_terminated", f.Reason, "%v", err)
		require.False(t, f.Timeout)
	}
}

// Out of descriptors or ports is no fault of the proxy: kept connections are
// given up, and if that does not help the attempt says nothing against it.
func TestOurOwnLimitsAreNotTheProxys(t *testing.T) {
	full := &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	left := 1
	tr := New(Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		if left == 0 {
			c, _ := net.Pipe()
			return c, nil
		}
		left--
		return nil, full
	}})
	pool := newIdlePool(upstream.Address{Scheme: upstream.HTTP})
	tr.pools.Store(&upstream.Upstream{}, pool)
	kept, other := net.Pipe()
	pool.put(newPersistConn(kept, "", nil), tr, time.Now())
	dial := func() (net.Conn, *retry.Fault) {
		return tr.dialProxy(context.Background(), nil, upstream.Address{Scheme: upstream.HTTP, Host: "p.test:1"}, &Control{Deadline: time.Now().Add(time.Minute)})
	}
	c, f := dial()
	require.Nil(t, f)
	c.Close()
	_, err := other.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "the kept connection has been closed")
	require.Zero(t, pool.count)

	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.ENOMEM} { // the poller's, for one
		require.True(t, fault(retry.Dial, os.NewSyscallError("epoll_ctl", e)).Ours)
	}

	left = 2
	_, f = dial()
	require.True(t, f.Ours)
	require.Equal(t, "proxy_internal_error", f.Reason)
	p := retry.DefaultPolicy()
	o := retry.Classify(retry.Attempted{Fault: f}, &p, &p, time.Now())
	require.Equal(t, core.Excluded, o.Verdict)
	require.Equal(t, core.Retry, o.Again)
}

// To be out of ports is our own limit. To have no address from which a proxy can
// be reached goes by the same name, and is none.
func TestNoAddressToReachIt(t *testing.T) {
	unreachable := func(to string) *retry.Fault {
		return fault(retry.Dial, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(to)), Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)})
	}
	require.True(t, unreachable("127.0.0.1:1").Ours)
	f := unreachable("[fe80::1]:1") // on no link
	require.False(t, f.Ours)
	require.Equal(t, "destination_ip_unroutable", f.Reason)
}
