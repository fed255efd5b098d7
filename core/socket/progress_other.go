//go:build !linux

package socket

import (
	"net"
	"time"
)

const progressVisible = false

// PeerClosed always returns false: this system does not report it.
func PeerClosed(net.Conn) bool { return false }

// Progress always returns 0, 0: this system does not report it.
func Progress(net.Conn) (acked uint64, queued int) { return 0, 0 }

// NotReceived always returns false: this system does not report it.
func NotReceived(*Conn, int) bool { return false }

// Unread always returns 0: this system does not report it.
func Unread(net.Conn) int { return 0 }

// SinceReceived returns the time since the last bytes arrived on c. Here it returns 0, because the systems differ in
// how they report it.
func SinceReceived(net.Conn) time.Duration { return 0 }
