//go:build !unix && !windows

package socket

// Idle always returns false: on this system, this package cannot check a connection. As a result,
// connections are not reused.
func (c *Conn) Idle() bool { return false }
