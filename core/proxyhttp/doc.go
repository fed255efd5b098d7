// Package proxyhttp implements the HTTP of a forward proxy (RFC 9110, RFC 9112). The gateway's port, POST /request
// and the engine's Transport share it. It parses the target of a request, selects the header fields to forward,
// makes the attempts for package executor (executor.Sender), and writes the error responses.
package proxyhttp
