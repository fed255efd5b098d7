package socket

import (
	"syscall"
	"unsafe"
)

var wsaPoll = syscall.NewLazyDLL("ws2_32.dll").NewProc("WSAPoll")

// pollFd is WSAPOLLFD of winsock2.h.
type pollFd struct {
	fd              uintptr
	events, revents int16
}

// pollIn is POLLIN of winsock2.h. It asks for data and the end of the stream; errors are always reported.
const pollIn = 0x0300

// Idle reports whether the connection is open and has no bytes to read. It does not wait and does not consume bytes.
// A deadline that has passed has no effect on Idle.
func (c *Conn) Idle() (idle bool) {
	err := c.raw.Control(func(fd uintptr) {
		poll := pollFd{fd: fd, events: pollIn}
		ready, _, _ := wsaPoll.Call(uintptr(unsafe.Pointer(&poll)), 1, 0)
		idle = ready == 0
	})
	return err == nil && idle
}
