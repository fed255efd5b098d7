// Package socket reduces the cost of TCP connections. The system calls of a [Conn] never block. They therefore need
// not inform Go's scheduler, which would prepare another thread. [Conn.WriteThenRead] writes a message and waits for
// the response. It does not try to read before the wait, because no bytes would have arrived. [Pipes] copies bytes
// from one Conn to another inside the kernel. [Stall] ends a write if the peer has stopped reading, but not if it
// reads slowly.
//
// On systems other than Linux a Conn uses package net.
package socket
