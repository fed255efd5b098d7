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

// pollIn is POLLIN of winsock2.h: data, or the other side's end. Errors show unasked.
const pollIn = 0x0300

// Idle looks, without taking anything or waiting, whether the connection is
// open and nothing has come on it. A deadline that has passed does not matter.
func (c *Conn) Idle() (quiet bool) {
	err := c.raw.Control(func(fd uintptr) {
		look := pollFd{fd: fd, events: pollIn}
		ready, _, _ := wsaPoll.Call(uintptr(unsafe.Pointer(&look)), 1, 0)
		quiet = ready == 0
	})
	return err == nil && quiet
}
