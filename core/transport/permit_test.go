package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// direct:// connects to no address that CheckAddress denies, whatever name or notation of the address the target uses.
// CheckAddress does not apply to the address of a proxy.
func TestPermit(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			c.Close()
		}
	}()
	rule := errors.New("the rule")
	permit := func(to netip.AddrPort) error {
		if a := to.Addr().Unmap(); a.IsLoopback() || a.IsUnspecified() {
			return rule
		}
		return nil
	}
	custom := func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for _, dial := range []DialFunc{nil, custom} {
		tr := New(Config{CheckAddress: permit, Dial: dial})
		for _, host := range []string{"127.0.0.1", "127.9.9.9", "0.0.0.0", "::ffff:127.0.0.1", "::1", "::",
			"localhost"} {
			c := &Control{Deadline: time.Now().Add(10 * time.Second)}
			_, verr := tr.OpenTunnel(context.Background(), proxyAt(t, "direct://"), c, net.JoinHostPort(host, port))
			require.NotNil(t, verr, host)
			if dial != nil && verr.Cause == verdict.ProxyUnreachable {
				continue // nobody listens there
			}
			require.Equal(t, verdict.EgressDenied, verr.Cause, "%s: %v", host, verr)
			require.Equal(t, "destination_ip_prohibited", verr.Reason)
			require.ErrorContains(t, verr, "the rule, at ")
			require.Equal(t, "the rule", DeniedText(verr.Err))
		}
		if dial == nil {
			require.Empty(t, accepted, "no connection was opened")
		}
		c := &Control{Deadline: time.Now().Add(10 * time.Second)}
		_, verr := tr.OpenTunnel(context.Background(), proxyAt(t, "http://127.0.0.1:"+port), c, "a.test:443")
		require.Equal(t, verdict.TunnelBroke, verr.Cause, "the proxy was dialled")
	}
}
