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
// taken nothing in between. A connection that is not TCP has nothing queued, one
// that has been closed less than that: -1.
func Progress(c net.Conn) (acked uint64, queued int) {
	tcp, ok := c.(*Conn)
	if !ok {
		return 0, 0
	}
	err := tcp.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			acked = info.Bytes_acked
		}
		queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	if err != nil {
		return 0, -1
	}
	return acked, queued
}

// Left reports whether the other side of c has said that nothing more will come
// or is gone. It shows while there are bytes to read before that, too.
func Left(c net.Conn) (left bool) {
	tcp, ok := c.(*Conn)
	if !ok {
		return false
	}
	tcp.raw.Control(func(fd uintptr) {
		look := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} // an error and a reset show unasked
		n, err := unix.Poll(look, 0)
		left = err == nil && n > 0
	})
	return left
}
