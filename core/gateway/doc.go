// Package gateway is the gateway's port: a forward proxy with HTTP/1.1 clients.
//
// A [Server] accepts connections. A connection holds one client's bytes and deadlines;
// its front speaks HTTP on it, and serves one request after another: it authenticates the
// client, reads the retry policy and region of the request, runs the exchange, and relays
// the response. A CONNECT ends in a tunnel.
//
// One goroutine serves one client. A second one exists only while a slow attempt or a
// backoff is watched for a client that leaves, and for the other direction of a tunnel.
package gateway
