package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// seen says that Progress can tell.
const seen = true

// Progress tells how far a connection has got with what was written to it:
// acked only grows, with each byte the other side acknowledges; queued is what
// it has yet to. With neither changed and queued above 0, the other side has
// taken nothing in between. A connection that is not TCP has nothing queued.
func Progress(c net.Conn) (acked uint64, queued int) {
	tcp, ok := c.(*Conn)
	if !ok {
		return 0, 0
	}
	tcp.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			acked = info.Bytes_acked
		}
		queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	return acked, queued
}
