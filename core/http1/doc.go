// Package http1 reads and writes HTTP/1.1 messages (RFC 9112) for a proxy. It parses requests strictly, so
// that the next hop interprets each request in the same way. It parses responses with the repairs that RFC
// 9112 permits. It does not allocate, so that a message costs little more than its system calls.
//
// A [Reader] owns the read side of one connection. [Reader.ReadRequest] and [Reader.ReadResponse] parse one
// head into a reused struct whose byte slices are views of the reader's buffer; a [Body] then reads the
// message's body. Views are valid until the next read of the same Reader.
package http1
