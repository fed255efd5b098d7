//go:build unix && !(linux && (amd64 || arm64))

package socket

import "golang.org/x/sys/unix"

// Idle looks, without taking anything or waiting, whether the connection is
// open and nothing has come on it. A deadline that has passed does not matter.
func (c *Conn) Idle() (quiet bool) {
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}
