// Package socket makes the kernel's part of a TCP connection cheap. A [Conn]
// is a *net.TCPConn that reads and writes without telling the scheduler: its
// calls never block, so no thread need be handed over for them. And it can
// [Conn.Ask]: send a message and wait for the answer without first looking for
// one that cannot be there yet.
//
// Elsewhere than on Linux a Conn does the same by way of package net.
package socket
