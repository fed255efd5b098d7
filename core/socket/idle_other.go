//go:build !unix && !windows

package socket

// Idle always returns false, because this system has no way to find out. No connection is
// reused.
func (c *Conn) Quiet() bool { return false }
