package transport

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

const (
	// resolverFiles is the number of descriptors that the resolution of a name may take, in addition to the
	// descriptor of the connection.
	resolverFiles = 2
	// filesWait is the longest wait for a file descriptor. It leaves time for an error response within 100 ms.
	filesWait = 50 * time.Millisecond
)

// errFiles is the error of a dial for which the budget has no file descriptor. It wraps EMFILE, so that it is handled
// like an EMFILE of the system.
var errFiles = os.NewSyscallError("socket", syscall.EMFILE)

// dialBudgeted is like openTCP, but takes a descriptor from the budget. The descriptor is returned when the connection
// is closed.
func (t *Transport) dialBudgeted(ctx context.Context, hostPort string, deadline time.Time, c *Control,
	checkAddress func(netip.AddrPort) error) (net.Conn, error) {
	use, release, extra := budget.ForClients, t.releaseClientFile, 0
	if c.isCheck {
		use, release = budget.ForOthers, t.releaseOtherFile
	}
	if _, err := netip.ParseAddrPort(hostPort); err != nil {
		extra = resolverFiles
	}
	if !t.takeFiles(ctx, use, 1+extra) {
		return nil, errFiles
	}
	conn, err := t.openTCP(ctx, hostPort, deadline, c, checkAddress)
	t.cfg.Files.Release(use, extra)
	if tcp, _ := conn.(*socket.Conn); tcp != nil {
		tcp.OnClose, tcp.Meters = release, c.Meters
	} else {
		release() // there is no connection, or it has no descriptor
	}
	return conn, err
}

// takeFiles takes n descriptors from the budget, and reports whether it has got them. It waits for at most
// filesWait. A check (budget.ForOthers) does not wait, and gets only spare descriptors.
func (t *Transport) takeFiles(ctx context.Context, use budget.Purpose, n int) bool {
	if use == budget.ForOthers {
		return t.cfg.Files.AcquireSpare(n)
	}
	return t.cfg.Files.AcquireWait(ctx, use, n, filesWait)
}
