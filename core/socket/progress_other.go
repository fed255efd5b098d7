//go:build !linux

package socket

import "net"

const seen = false

// PeerClosed says that nobody has: it cannot be seen here.
func PeerClosed(net.Conn) bool { return false }

// Progress says that nothing is queued: it cannot be seen here.
func Progress(net.Conn) (acked uint64, queued int) { return 0, 0 }

// NotReceived says that nothing was: it cannot be seen here.
func NotReceived(*Conn, int) bool { return false }
