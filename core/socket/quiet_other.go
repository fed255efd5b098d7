//go:build !unix && !windows

package socket

// Idle reports whether the connection is open and nothing has come on it. That
// cannot be seen here, so no connection is used again.
func (c *Conn) Quiet() bool { return false }
