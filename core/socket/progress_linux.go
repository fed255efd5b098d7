package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// seen says that Progress can tell.
const seen = true

// Progress tells how far a connection has got with what was written to it. acked
// is the number of bytes that the other side has acknowledged so far, queued the
// number it has yet to acknowledge. If neither has changed since the last look,
// and queued is above 0, the other side has taken nothing in between. For a
// connection that is not TCP both are 0; for one that has been closed queued
// is -1.
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

// PeerClosed reports whether the other side of c has ended its direction or is gone,
// even while there are still bytes of it to be read.
func PeerClosed(c net.Conn) (left bool) {
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

// NotReceived reports whether the other side of c, which has ended, had closed it before
// the last n bytes that were written came there: its system has acknowledged none
// of them and answered with a reset. A side that has only said that it sends
// nothing more may still read them.
func NotReceived(c *Conn, n int) (refused bool) {
	if c == nil {
		return false
	}
	c.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.State != unix.BPF_TCP_CLOSE {
			return
		}
		queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		refused = err == nil && queued >= n
	})
	return refused
}
