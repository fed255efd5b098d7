// Package trace has the trace context of a request: the id of its trace, and whether the trace is sampled (W3C Trace
// Context, https://www.w3.org/TR/trace-context/).
package trace

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Context is the trace context of a request. The zero value is the context of a request without a trace.
type Context struct {
	ID      [16]byte // id of the trace
	Parent  uint64   // id of the client's span; 0 if the trace begins in this gateway
	Sampled bool     // the spans of the request are exported
}

// Field is the name of the header field.
const Field = "traceparent"

// length is the length of a traceparent of version 00: version, trace id, span id and flags, with hyphens.
const length = 2 + 1 + 32 + 1 + 16 + 1 + 2

// Parse parses a traceparent field. It accepts versions later than 00 as section 3.2.4 of Trace Context requires: it
// ignores the text after the flags.
func Parse(field []byte) (c Context, ok bool) {
	if len(field) < length || field[2] != '-' || field[35] != '-' || field[52] != '-' {
		return c, false
	}
	for _, b := range field[:length] {
		if b >= 'A' && b <= 'F' { // hexadecimal digits are in lower case
			return c, false
		}
	}
	var version, flags [1]byte
	var parent [8]byte
	for _, part := range []struct{ to, from []byte }{
		{version[:], field[:2]}, {c.ID[:], field[3:35]}, {parent[:], field[36:52]}, {flags[:], field[53:55]},
	} {
		if _, err := hex.Decode(part.to, part.from); err != nil {
			return Context{}, false
		}
	}
	isLaterVersion := len(field) > length
	if version[0] == 0xff || isLaterVersion && (version[0] == 0 || field[length] != '-') {
		return Context{}, false
	}
	c.Parent, c.Sampled = binary.BigEndian.Uint64(parent[:]), flags[0]&1 == 1
	if c.ID == [16]byte{} || c.Parent == 0 {
		return Context{}, false
	}
	return c, true
}

// ContextOf returns the context of a request with the given traceparent field. If the field is absent or invalid, the
// request begins a new trace. The id of the trace depends only on the id of the request, and the trace is sampled with
// the probability ratio (0 to 1).
func ContextOf(field []byte, id core.RequestID, ratio float64) Context {
	if c, ok := Parse(field); ok {
		return c
	}
	var c Context
	low := mix(uint64(id))
	binary.BigEndian.PutUint64(c.ID[:8], mix(low))
	binary.BigEndian.PutUint64(c.ID[8:], low|1) // never 0
	c.Sampled = float64(low>>11) < ratio*(1<<53)
	return c
}

// Header returns the traceparent field for the target, with span as the parent of the target's spans.
func (c Context) Header(span uint64) []byte {
	b := make([]byte, 0, length)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, c.ID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, binary.BigEndian.AppendUint64(nil, span))
	if c.Sampled {
		return append(b, "-01"...)
	}
	return append(b, "-00"...)
}

// RequestSpan returns the id of a request's span.
func RequestSpan(id core.RequestID) uint64 { return mix(uint64(id)^requestSalt) | 1 }

// AttemptSpan returns the id of an attempt's span. The index of a request's first attempt is 0.
func AttemptSpan(id core.RequestID, index int) uint64 {
	return mix(uint64(id)+uint64(index+1)*golden) | 1
}

const (
	golden      = 0x9E3779B97F4A7C15
	requestSalt = 0x6A09E667F3BCC909
)

// mix is a bijection that spreads its argument over all bits (the finalizer of SplitMix64; Steele, Lea, Flood, Fast
// splittable pseudorandom number generators, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}
