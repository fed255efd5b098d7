// Package executor runs exchanges. An exchange sends one request in one or more attempts, until it has a
// response to relay, a tunnel, or a refusal. HTTP requests and CONNECT tunnels share
// the loop:
//
//	[ select -> admit -> send -> judge -> settle ]* -> relay, tunnel or refusal
//
// [Run] uses a [Sender] to send a [Request] through one proxy after another, until a response is final, or no attempt,
// time or retry budget is left. It returns an [Ending]: a [Relay], a [Tunnel] or a [Refusal]. The caller closes the
// ending. A request waits in a queue (package queue) in two cases: every proxy that it may use is at its max_in_flight,
// or a retry is due and the retry budget is spent. A first attempt may be hedged ([Hedger]): if the first attempt has
// no response in time, a second attempt begins, and the first good response wins. An [Exchange] holds the state of a
// request. The package has no code for sockets or protocols; package proxyhttp implements HTTP towards client and
// proxy.
package executor
