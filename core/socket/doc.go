// Package socket makes the kernel's part of a TCP connection cheap. A [Conn]
// reads and writes without telling Go's scheduler: its system calls never block,
// so no thread has to be handed over for them. It can [Conn.WriteThenRead]: send a message and
// wait for the answer without first looking for one that cannot be there yet.
// [Pipes] pass bytes on from one Conn to another inside the kernel, and a
// [Stall] tells a slow reader from one that has stopped.
//
// On systems other than Linux a Conn does the same by way of package net.
package socket
