//go:build !linux

package socket

import "net"

const seen = false

// Progress says that nothing is queued: it cannot be seen here.
func Progress(net.Conn) (acked uint64, queued int) { return 0, 0 }
