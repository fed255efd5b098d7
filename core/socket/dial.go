package socket

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Dead peers of idle connections are found after KeepAliveIdle (RFC 9293
// section 3.8.4); what the kernel's defaults may decide is left to it.
const KeepAliveIdle = 30 * time.Second

// Listen listens for TCP connections on an address. What each connection needs
// is set on the listener, and inherited: it costs no call per connection.
// Multipath TCP, Go's default for listeners, is off: each connection that does
// not use it would pay for it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(keepAlive)
	}}
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

// Dial opens a connection to an IP address, until the deadline or until ctx is
// cancelled. slow, if not nil, is called in between if the connection does not
// stand at once: whoever is quick need not be watched.
func Dial(ctx context.Context, to netip.AddrPort, deadline time.Time, slow func()) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port()) // package net dials ::ffff:1.2.3.4 as IPv4, too
	d := net.Dialer{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var pending bool
		var err error
		if cerr := raw.Control(func(fd uintptr) {
			keepAlive(fd)
			pending, err = connect(fd, to)
		}); cerr != nil {
			return cerr
		}
		if err == nil && pending && slow != nil {
			slow()
		}
		return err
	}}
	if ctx.Done() == nil { // package net heeds the deadline of a context that can be cancelled
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
	}
	tcp, err := d.DialContext(limited{ctx, deadline}, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return Of(tcp), nil
}

// limited is a context with a deadline that the poller keeps, instead of a
// timer of its own.
type limited struct {
	context.Context
	deadline time.Time
}

// Deadline implements context.Context.
func (l limited) Deadline() (time.Time, bool) { return l.deadline, true }
