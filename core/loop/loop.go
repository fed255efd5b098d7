// Package loop recognizes requests that come back to the process that has sent them. Requests come back
// if two gateways list each other as proxies, or if a gateway lists itself under another address.
//
// Each request and each CONNECT to a proxy carries a token in the field Proxy-Loop. The field is hop-by-hop
// (Connection names it), so no proxy forwards it to a target. To a SOCKS5 proxy that is a gateway, the token goes in
// the handshake (package socks5). A gateway forwards the tokens that it has received, and appends its own. A process
// recognizes its own tokens. Other processes cannot determine whether two tokens come from the same process.
package loop

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/maphash"
	"sync/atomic"
)

// Field is the name of the header field with the tokens.
const Field = "Proxy-Loop"

// The limits of a list of tokens and of a Via field. A token is a random number, followed by a hash of this number,
// both in hexadecimal digits.
const (
	tokenLen = 32 // characters of a token
	maxHops  = 16 // tokens (and therefore gateways) at which a request is not forwarded
	maxVia   = 8  // equal entries in a Via field at which a request is not forwarded
)

// Errors of a request that must not be forwarded.
var (
	ErrOwnToken        = errors.New("this request has been sent by this gateway: one of its proxies leads back to it")
	ErrTooManyGateways = errors.New("this request has passed more than 16 gateways")
	ErrRepeatedVia     = errors.New("the same proxy is named 8 times in this request's Via: a proxy leads back to it")
)

// Guard makes and recognizes the tokens of one process. It is safe for concurrent use.
type Guard struct {
	seed          maphash.Seed
	rand          func() uint64
	sendsNoTokens atomic.Bool
}

// New returns a guard with a new secret. The function rand returns random numbers, and must be safe for concurrent use.
func New(rand func() uint64) *Guard { return &Guard{seed: maphash.MakeSeed(), rand: rand} }

// SetSendsTokens sets whether requests get a token. By default, requests get a token.
func (g *Guard) SetSendsTokens(on bool) { g.sendsNoTokens.Store(!on) }

// SendsTokens reports whether requests get a token. It returns false for a nil guard.
func (g *Guard) SendsTokens() bool { return g != nil && !g.sendsNoTokens.Load() }

// Append appends the received tokens and a new token of this process to b.
func (g *Guard) Append(b, received []byte) []byte {
	b = AppendReceived(b, received)
	var token [tokenLen / 2]byte
	binary.BigEndian.PutUint64(token[:8], g.rand())
	binary.BigEndian.PutUint64(token[8:], maphash.Bytes(g.seed, token[:8]))
	return hex.AppendEncode(b, token[:])
}

// AppendReceived appends the received tokens and a comma for the next token. Without tokens, it appends nothing.
func AppendReceived(b, received []byte) []byte {
	if len(received) > 0 {
		b = append(append(b, received...), ", "...)
	}
	return b
}

// Check returns an error if a request with the given list of tokens must not be forwarded. The error is ErrOwnToken if
// this process has made one of the tokens, and ErrTooManyGateways if there are at least maxHops tokens. Check returns
// false if its argument is not a list of tokens; the gateway does not send such a value on.
func (g *Guard) Check(value []byte) (valid bool, err error) {
	n := 0
	for rest, more := value, true; more; n++ {
		var text []byte
		text, rest, more = bytes.Cut(rest, []byte{','})
		var token [tokenLen / 2]byte
		if text = bytes.Trim(text, " \t"); len(text) != tokenLen {
			return false, nil
		}
		if _, err := hex.Decode(token[:], text); err != nil {
			return false, nil
		}
		if binary.BigEndian.Uint64(token[8:]) == maphash.Bytes(g.seed, token[:8]) {
			return true, ErrOwnToken
		}
	}
	if n >= maxHops {
		return true, ErrTooManyGateways
	}
	return true, nil
}

// CheckVia returns ErrRepeatedVia if a Via value contains its last entry at least maxVia times. The request is then in
// a loop of proxies that remove the field Proxy-Loop.
func CheckVia(value []byte) error {
	last := value[bytes.LastIndexByte(value, ',')+1:]
	if last = bytes.TrimSpace(last); len(last) == 0 {
		return nil
	}
	n := 0
	for rest, more := value, true; more; {
		var entry []byte
		entry, rest, more = bytes.Cut(rest, []byte{','})
		if bytes.Equal(bytes.TrimSpace(entry), last) {
			n++
		}
	}
	if n >= maxVia {
		return ErrRepeatedVia
	}
	return nil
}
