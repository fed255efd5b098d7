// Package gateway is the listener: an HTTP/1.1 forward proxy on one port.
// It takes absolute-form requests and CONNECT, authenticates the client,
// takes off the policy a request brings along, hands it to the executor and
// writes the answer back. Whatever Whirlpool itself answers, it answers here.
//
// One goroutine serves one client connection (conn.go); a second one exists
// only while a slow attempt or a backoff is watched for the client's leaving
// (watch.go), and for the other direction of a tunnel (tunnel.go).
package gateway
