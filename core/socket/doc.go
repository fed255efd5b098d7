// Package socket reduces the cost of TCP connections. The system calls of a [Conn] never block, so they need
// not inform Go's scheduler, which would prepare another thread. [Conn.WriteThenRead] writes a message and
// waits for the response, without the useless attempt to read before the wait. [Pipes] copies bytes from one
// Conn to another inside the kernel. [Stall] ends a write when the peer has stopped reading, but not when it
// reads slowly.
//
// On systems other than Linux a Conn uses package net.
package socket
