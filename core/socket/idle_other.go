//go:build !unix && !windows

package socket

// Idle always returns false, because this package cannot check a connection on this system. As a result, connections
// are not reused.
func (c *Conn) Idle() bool { return false }
