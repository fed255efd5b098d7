// Package proxyhttp has the HTTP of a forward proxy (RFC 9110, RFC 9112),
// shared by the gateway's port, POST /request and the engine's Transport: the target of a
// request, the header fields that are forwarded, one attempt as package executor
// requires it, and the error responses.
package proxyhttp
