// Package gateway serves the gateway's port: a forward proxy for clients of HTTP/1.1 and SOCKS5.
//
// A [Server] accepts connections. A connection has the buffers and deadlines of one client. Its front speaks HTTP or
// SOCKS5 with the client. The HTTP front serves one request after another: it authenticates the client, reads the retry
// policy and the region, runs the exchange, and relays the response. A CONNECT ends in a tunnel.
//
// One goroutine serves one client. A second goroutine exists only for the other direction of a tunnel and, if the
// client speaks TLS, to detect that the client leaves during a slow attempt or a backoff (clientWatch).
package gateway
