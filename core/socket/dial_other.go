//go:build !(linux && (amd64 || arm64))

package socket

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Listen listens for TCP connections on an address.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: KeepAliveIdle}
	return lc.Listen(ctx, "tcp", address)
}

// wrapListener returns the given listener.
func wrapListener(made *net.TCPListener, _ bool) (net.Listener, error) { return made, nil }

// Dial opens a connection to an IP address. It fails at the deadline, or when ctx is cancelled. Before it dials, it
// calls the function slow, if not nil.
func Dial(ctx context.Context, to netip.AddrPort, deadline time.Time, slow func()) (net.Conn, error) {
	if slow != nil {
		slow()
	}
	d := net.Dialer{KeepAlive: KeepAliveIdle, Deadline: deadline}
	tcp, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return Wrap(tcp), nil
}
