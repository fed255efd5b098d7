//go:build !linux

package socket

import (
	"net"
	"time"
)

const progressVisible = false

// PeerClosed always returns false: on this system, this package does not query the state of TCP.
func PeerClosed(net.Conn) bool { return false }

// Progress always returns 0, 0: on this system, this package does not query the state of TCP.
func Progress(net.Conn) (acked uint64, queued int) { return 0, 0 }

// NotReceived always returns false: on this system, this package does not query the state of TCP.
func NotReceived(*Conn, int) bool { return false }

// Unread always returns 0: on this system, this package does not query the state of TCP.
func Unread(net.Conn) int { return 0 }

// Peek always returns 0: this package looks at unread bytes on Linux only.
func Peek(net.Conn, []byte) int { return 0 }

// SinceReceived always returns 0: on this system, this package does not query the state of TCP.
func SinceReceived(net.Conn) time.Duration { return 0 }
