// Package socks5 has the protocol constants of SOCKS version 5 (RFC 1928, RFC 1929), and a parser for the messages of
// clients.
//
// It also has [Tokens], a private authentication method of Whirlpool, which carries the tokens of package loop from one
// gateway to the next. RFC 1928 section 3 reserves 0x80 to 0xFE for private methods. A server that does not support
// Tokens chooses another method. A gateway that sends loop tokens (loop.Guard.SendsTokens) chooses Tokens if the client
// offers this method. The next messages are then:
//
//	client: version 1, length of the tokens (2 bytes, big-endian), tokens
//	server: version 1, a [TokensStatus], and a second authentication method
//
// After [TokensAccepted], the handshake goes on as if the server had chosen this second method.
package socks5

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// The numbers of the protocol.
const (
	Version        = 5
	NoAuth         = 0    // method: no authentication
	UserPassword   = 2    // method: user name and password (RFC 1929)
	Tokens         = 0xd7 // method: the tokens of package loop, and then a second method
	NoMethod       = 0xff // no acceptable method
	Connect        = 1    // command
	IPv4           = 1    // type of address
	Name           = 3    // type of address: a host name
	IPv6           = 4    // type of address
	AuthVersion    = 1    // version of RFC 1929
	TokensVersion  = 1    // version of the messages of the method Tokens
	maxCredentials = 3 + 255 + 255
	maxTokens      = 3 + 1024
)

// TokensStatus is the server's reply to the tokens of a client.
type TokensStatus byte

// The replies to tokens. The server closes the connection after every reply except TokensAccepted.
const (
	TokensAccepted TokensStatus = iota
	TokensOwn                   // one of the tokens is the server's own: the connection has come back
	TokensTooMany               // the connection has passed too many gateways
)

// Reply is the code of a reply to a request (RFC 1928 section 6).
type Reply byte

// The codes of replies.
const (
	Succeeded Reply = iota
	GeneralFailure
	NotAllowed
	NetworkUnreachable
	HostUnreachable
	ConnectionRefused
	TTLExpired
	CommandNotSupported
	AddressNotSupported
)

// LoopDetected is a code that RFC 1928 does not assign. It is sent only to a client that has sent tokens. It means that
// every proxy of the gateway leads requests back to the gateway.
const LoopDetected Reply = 0xd7

// MaxMessage is the maximum length of a client's message in bytes.
const MaxMessage = maxTokens

// ErrIncomplete reports that a message is not complete: the parser needs more bytes.
var ErrIncomplete = errors.New("the SOCKS5 message is incomplete")

// RequestError is the error of a request that cannot be served. Reply is the code of the reply to the client.
type RequestError struct {
	Reply Reply
	Msg   string
}

func (e *RequestError) Error() string { return e.Msg }

// ParseMethods parses the client's first message at the beginning of b. It returns the authentication methods that the
// client offers, as a subslice of b, and the length of the message.
func ParseMethods(b []byte) (methods []byte, n int, err error) {
	switch {
	case len(b) > 0 && b[0] != Version:
		return nil, 0, fmt.Errorf("SOCKS version %d instead of 5", b[0])
	case len(b) < 2 || len(b) < 2+int(b[1]):
		return nil, 0, ErrIncomplete
	}
	n = 2 + int(b[1])
	return b[2:n], n, nil
}

// ParseCredentials parses the message with user name and password (RFC 1929 section 2) at the beginning of b. It also
// returns the length of the message.
func ParseCredentials(b []byte) (name, password string, n int, err error) {
	if len(b) > 0 && b[0] != AuthVersion {
		return "", "", 0, fmt.Errorf("version %d of the message with user name and password instead of 1", b[0])
	}
	field := func(at int) (string, int, bool) {
		if len(b) <= at || len(b) < at+1+int(b[at]) {
			return "", 0, false
		}
		end := at + 1 + int(b[at])
		return string(b[at+1 : end]), end, true
	}
	name, n, ok := field(1)
	if ok {
		password, n, ok = field(n)
	}
	if !ok {
		return "", "", 0, ErrIncomplete
	}
	return name, password, n, nil
}

// ParseTokens parses the message that a client sends after the server has chosen the method [Tokens]. It returns the
// tokens as a subslice of b, and the length of the message.
func ParseTokens(b []byte) (tokens []byte, n int, err error) {
	switch {
	case len(b) > 0 && b[0] != TokensVersion:
		return nil, 0, fmt.Errorf("version %d of the message with tokens instead of 1", b[0])
	case len(b) < 3:
		return nil, 0, ErrIncomplete
	}
	if n = 3 + int(b[1])<<8 + int(b[2]); n > maxTokens {
		return nil, 0, fmt.Errorf("a SOCKS5 message with %d bytes of tokens; the limit is %d", n-3, maxTokens-3)
	}
	if len(b) < n {
		return nil, 0, ErrIncomplete
	}
	return b[3:n], n, nil
}

// AppendTokens appends the message that ParseTokens parses.
func AppendTokens(b, tokens []byte) []byte {
	return append(append(b, TokensVersion, byte(len(tokens)>>8), byte(len(tokens))), tokens...)
}

// ParseRequest parses a request (RFC 1928 section 4). It returns the target as host:port, with an IPv6 address in
// brackets, and the length of the request. It does not check the host name. The error is ErrIncomplete or a
// *RequestError.
func ParseRequest(b []byte) (target string, n int, err error) {
	switch {
	case len(b) > 0 && b[0] != Version:
		return "", 0, &RequestError{GeneralFailure, fmt.Sprintf("SOCKS version %d instead of 5", b[0])}
	case len(b) > 1 && b[1] != Connect:
		return "", 0, &RequestError{CommandNotSupported, fmt.Sprintf("SOCKS5 command %d; only CONNECT is supported",
			b[1])}
	case len(b) < 5:
		return "", 0, ErrIncomplete
	}
	start, size := 4, 0 // index and length of the address
	switch b[3] {
	case IPv4:
		size = 4
	case IPv6:
		size = 16
	case Name:
		start, size = 5, int(b[4])
	default:
		return "", 0, &RequestError{AddressNotSupported, fmt.Sprintf("SOCKS5 address of the unknown type %d", b[3])}
	}
	if n = start + size + 2; len(b) < n {
		return "", 0, ErrIncomplete
	}
	address, port := b[start:n-2], int(b[n-2])<<8|int(b[n-1])
	host := string(address)
	if ip, ok := netip.AddrFromSlice(address); ok && b[3] != Name {
		if host = ip.String(); ip.Is6() {
			host = "[" + host + "]"
		}
	}
	return host + ":" + strconv.Itoa(port), n, nil
}

// AppendReply appends a reply to a request. Its bound address is 0.0.0.0:0, because clients do not use it.
func AppendReply(b []byte, code Reply) []byte {
	return append(b, Version, byte(code), 0, IPv4, 0, 0, 0, 0, 0, 0)
}
