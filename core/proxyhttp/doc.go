// Package proxyhttp is the HTTP of a forward proxy (RFC 9110, RFC 9112), written
// once for the gateway's port, POST /request and the engine's Transport: where a
// request goes, which header fields pass this hop, one attempt as package executor
// asks for it, and the error responses.
package proxyhttp
