// Package socket reduces the cost of TCP connections. The system calls of a [Conn] never block, so they are
// made without informing Go's scheduler, and no thread is handed over for them. [Conn.WriteThenRead] writes a
// message and waits for the response. It does not try to read before the wait, because the response cannot
// have arrived yet. [Pipes] copies bytes from one Conn to another inside the kernel. [Stall] ends a write
// when the peer has stopped reading, but not when it reads slowly.
//
// On systems other than Linux a Conn uses package net.
package socket
