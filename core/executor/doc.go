// Package executor runs exchanges: one request, attempt by attempt, until it has a
// response to relay, a tunnel, or neither. HTTP requests and CONNECT tunnels share the
// one loop:
//
//	[ select -> admit -> send -> judge -> settle ]* -> relay, tunnel or refusal
//
// [Run] sends a [Request] through one proxy after another by way of a [Sender], until
// a response is final, or attempts, total timeout or retry budget are spent. It
// returns an [Ending]: a [Relay], a [Tunnel] or a [Refusal], which the caller closes.
// An [Exchange] is the state in between. The package has no sockets and speaks no
// protocol: package proxyhttp does, on both sides of it.
package executor
