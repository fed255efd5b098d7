//go:build unix && !(linux && (amd64 || arm64))

package socket

import "golang.org/x/sys/unix"

// Idle reports whether the connection is open and has no bytes to read. It does not wait and does not consume bytes.
// A deadline that has passed has no effect on Idle.
func (c *Conn) Idle() (idle bool) {
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		idle = err == unix.EAGAIN
	})
	return err == nil && idle
}
