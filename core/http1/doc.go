// Package http1 reads and writes HTTP/1.1 messages (RFC 9112) for a proxy. It parses requests strictly, so that the
// next hop interprets each request in the same way. It parses responses with the repairs that RFC 9112 permits. It
// allocates no memory per message, so a message costs little more than its system calls.
//
// A [Reader] reads the messages of one connection. [Reader.ReadRequest] and [Reader.ReadResponse] parse one head into
// a struct that is used again for each message. The byte slices of the struct are views of the reader's buffer. Then
// a [Body] reads the message's body. Views are valid until the next read of the same Reader.
package http1
