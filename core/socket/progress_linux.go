package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// Progress tells how far a connection has got with what was written to it:
// acked only grows, with each byte the other side acknowledges; queued is what
// it has yet to. With neither changed and queued above 0, the other side has
// taken nothing in between. A connection that is not TCP has nothing queued.
func Progress(c net.Conn) (acked uint64, queued int) {
	tcp := TCP(c)
	if tcp == nil {
		return 0, 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, 0
	}
	raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			acked = info.Bytes_acked
		}
		queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	return acked, queued
}
