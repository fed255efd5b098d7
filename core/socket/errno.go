package socket

import (
	"errors"
	"runtime"
	"syscall"
)

// Is reports whether err is or wraps the error e of a system call, as errors.Is does. On Windows, syscall.ECONNREFUSED
// and similar constants have numbers that Winsock never returns. There, Is also compares err with Winsock's number for
// e.
func Is(err error, e syscall.Errno) bool {
	if errors.Is(err, e) {
		return true
	}
	number, ok := winsock(e)
	return ok && runtime.GOOS == "windows" && errors.Is(err, number)
}

// winsock returns the number that Winsock has for e (winsock2.h); false if it has none.
func winsock(e syscall.Errno) (number syscall.Errno, ok bool) {
	switch e {
	case syscall.EMFILE:
		return 10024, true // WSAEMFILE
	case syscall.EADDRNOTAVAIL:
		return 10049, true // WSAEADDRNOTAVAIL
	case syscall.ENETUNREACH:
		return 10051, true // WSAENETUNREACH
	case syscall.EPIPE:
		return 10053, true // WSAECONNABORTED, of a write to a connection that the peer has reset
	case syscall.ECONNRESET:
		return 10054, true // WSAECONNRESET
	case syscall.ENOBUFS:
		return 10055, true // WSAENOBUFS, also if no port is free
	case syscall.ETIMEDOUT:
		return 10060, true // WSAETIMEDOUT
	case syscall.ECONNREFUSED:
		return 10061, true // WSAECONNREFUSED
	case syscall.EHOSTUNREACH:
		return 10065, true // WSAEHOSTUNREACH
	}
	return 0, false
}
