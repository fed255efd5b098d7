// Package http1 reads and writes HTTP/1.1 messages (RFC 9112) for a proxy:
// requests strictly, so that the next hop reads each of them in the same way;
// responses with the repairs that RFC 9112 describes; and both without allocating, so
// that a message costs little more than its system calls.
//
// A [Reader] owns the read side of one connection. [Reader.ReadRequest] and
// [Reader.ReadResponse] parse one head into a reused struct whose byte slices
// are views of the reader's buffer; a [Body] then yields the message's body.
// Views are valid until the next read of the same Reader.
package http1
