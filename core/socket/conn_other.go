//go:build !(linux && (amd64 || arm64))

package socket

import (
	"net"
	"net/netip"
	"syscall"
)

func newConn(tcp *net.TCPConn, raw syscall.RawConn) net.Conn { return &Conn{TCPConn: tcp, raw: raw} }

// Ask sends message and reads the beginning of the answer into p. A message
// that could not be sent is a *WriteError.
func (c *Conn) Ask(message, p []byte) (int, error) {
	if _, err := c.Write(message); err != nil {
		return 0, &WriteError{err}
	}
	return c.Read(p)
}

// Quiet looks whether the connection is open and nothing has come on it, as
// far as that can be seen here: not at all.
func (c *Conn) Quiet() bool { return true }

func keepAlive(uintptr) {}

// connect leaves it to package net.
func connect(uintptr, netip.AddrPort) (pending bool, err error) { return true, nil }
