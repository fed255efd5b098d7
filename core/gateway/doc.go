// Package gateway is the gateway's port: a forward proxy with HTTP/1.1 clients.
//
// A [Server] accepts connections. A connection has the buffers and deadlines of one client. Its front speaks
// HTTP with the client and serves one request after another. For each request it authenticates the client,
// reads the retry policy and the region, runs the exchange, and relays the response. A CONNECT ends in a
// tunnel.
//
// One goroutine serves one client. A second goroutine exists only in two cases: to detect a client that
// leaves during a slow attempt or a backoff, and for the other direction of a tunnel.
package gateway
