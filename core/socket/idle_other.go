//go:build !unix && !windows

package socket

// Idle always returns false: this package cannot check a connection on this system. Connections are
// therefore not reused.
func (c *Conn) Idle() bool { return false }
