// Package socks5 has the numbers of SOCKS version 5 (RFC 1928, RFC 1929), and the parser for the messages of
// a client.
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
	NoMethod       = 0xff // no acceptable method
	Connect        = 1    // command
	IPv4           = 1    // type of address
	Name           = 3    // type of address: a host name
	IPv6           = 4    // type of address
	AuthVersion    = 1    // version of RFC 1929
	maxCredentials = 3 + 255 + 255
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

// MaxMessage is the maximum length of a client's message in bytes.
const MaxMessage = maxCredentials

// ErrIncomplete reports that a message is not complete: more input is needed.
var ErrIncomplete = errors.New("the SOCKS5 message is incomplete")

// RequestError is the error of a request that cannot be served. Reply is the code to send.
type RequestError struct {
	Reply Reply
	Msg   string
}

func (e *RequestError) Error() string { return e.Msg }

// ParseMethods parses the client's first message and returns the authentication methods that the client
// offers. methods is a slice of b. n is the length of the message.
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

// ParseCredentials parses the message with user name and password (RFC 1929 section 2). n is the length of
// the message.
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

// ParseRequest parses a request (RFC 1928 section 4) and returns the target as host:port, with an
// IPv6 address in brackets. The host name is not checked. n is the length of the message. The error
// is ErrIncomplete or a *RequestError.
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
	at, size := 4, 0 // of the address
	switch b[3] {
	case IPv4:
		size = 4
	case IPv6:
		size = 16
	case Name:
		at, size = 5, int(b[4])
	default:
		return "", 0, &RequestError{AddressNotSupported, fmt.Sprintf("SOCKS5 address of the unknown type %d", b[3])}
	}
	if n = at + size + 2; len(b) < n {
		return "", 0, ErrIncomplete
	}
	address, port := b[at:n-2], int(b[n-2])<<8|int(b[n-1])
	host := string(address)
	if ip, ok := netip.AddrFromSlice(address); ok && b[3] != Name {
		if host = ip.String(); ip.Is6() {
			host = "[" + host + "]"
		}
	}
	return host + ":" + strconv.Itoa(port), n, nil
}

// AppendReply appends a reply to a request. The bound address in it is 0.0.0.0:0, because clients do not use
// it.
func AppendReply(b []byte, code Reply) []byte {
	return append(b, Version, byte(code), 0, IPv4, 0, 0, 0, 0, 0, 0)
}
