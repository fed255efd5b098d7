package socket

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// progressVisible is set if Progress works on this system.
const progressVisible = true

// Progress returns how many bytes written to c the peer has acknowledged (acked), and how many it has not acknowledged
// (queued). If queued is above 0 and two calls return the same numbers, the peer has received nothing between the
// calls. Both numbers are 0 if c is not TCP; queued is -1 if c is closed.
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

// Unread returns the number of bytes that have arrived on c and have not been read; 0 if c is not TCP. It may be called
// during a read.
func Unread(c net.Conn) (n int) {
	tcp, ok := c.(*Conn)
	if !ok || tcp == nil {
		return 0
	}
	tcp.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	return n
}

// Peek copies the first bytes that have arrived on c and have not been read to p, and returns their number; 0 if c is
// not TCP. It does not wait and does not consume bytes.
func Peek(c net.Conn, p []byte) (n int) {
	tcp, ok := c.(*Conn)
	if !ok || tcp == nil {
		return 0
	}
	tcp.raw.Control(func(fd uintptr) { n, _, _ = unix.Recvfrom(int(fd), p, unix.MSG_PEEK|unix.MSG_DONTWAIT) })
	return max(n, 0)
}

// SinceReceived returns the time since the last bytes arrived on c. If no bytes have arrived, it is the time since
// the connection was made. If c is not TCP, it is 0. Its resolution is a few milliseconds.
func SinceReceived(c net.Conn) (d time.Duration) {
	tcp, ok := c.(*Conn)
	if !ok || tcp == nil {
		return 0
	}
	tcp.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			d = time.Duration(info.Last_data_recv) * time.Millisecond
		}
	})
	return d
}

// PeerClosed reports whether the peer of c has shut down its writing side, or has closed or reset the connection. Bytes
// that have not been read yet make no difference.
func PeerClosed(c net.Conn) (closed bool) {
	tcp, ok := c.(*Conn)
	if !ok || tcp == nil {
		return false
	}
	tcp.raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} // errors and resets are always reported
		n, err := unix.Poll(fds, 0)
		closed = err == nil && n > 0
	})
	return closed
}

// NotReceived reports whether the peer of c closed the connection and received none of the last n bytes that were
// written. The peer's system has then acknowledged none of these bytes and has sent a reset. A peer that has only shut
// down its writing side may still read these bytes. NotReceived must be called after a read or write of c has failed.
func NotReceived(c *Conn, n int) (lost bool) {
	if c == nil {
		return false
	}
	c.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.State != unix.BPF_TCP_CLOSE {
			return
		}
		queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		lost = err == nil && queued >= n
	})
	return lost
}
