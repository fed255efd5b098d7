package transport

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestErrorsOfWindows(t *testing.T) {
	for number, want := range map[syscall.Errno]struct {
		at     step
		cause  core.Cause
		reason string
	}{
		10024: {stepDial, verdict.LocalLimit, "proxy_internal_error"},
		10051: {stepDial, verdict.ProxyUnreachable, "destination_ip_unroutable"},
		10054: {stepWait, verdict.ConnectionClosed, "connection_terminated"},
		10055: {stepDial, verdict.LocalLimit, "proxy_internal_error"},
		10060: {stepDial, verdict.ProxyConnectTimeout, "connection_timeout"},
		10061: {stepDial, verdict.ProxyUnreachable, "connection_refused"},
		10065: {stepDial, verdict.ProxyUnreachable, "destination_ip_unroutable"},
	} {
		verr := newError(want.at, &net.OpError{Op: "dial", Err: os.NewSyscallError("connectex", number)})
		require.Equal(t, want.cause, verr.Cause, number)
		require.Equal(t, want.reason, verr.Reason, number)
	}
}
