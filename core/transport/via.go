package transport

import (
	"bytes"
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// viaHabit records whether a proxy adds a Via field to the responses that it relays, and with which name.
// It is safe for concurrent use.
//
// A name is the proxy's own only if every successful response (status below 400) had it, if there were at
// least viaSamples of them, from several targets, and if no other proxy of the pool adds the same name
// (Transport.hasUniqueVia). Otherwise the name could be that of a cache in front of the targets, whose error
// pages may lack the field.
type viaHabit struct{ state atomic.Uint64 }

// viaSamples is the minimum number of successful responses for a conclusion.
const viaSamples = 8

// viaState is the state of a viaHabit in one word. Bits 0 to 7 count successful responses up to
// viaSamples. Bit 8 is set if they came from several targets, bit 9 if one had no Via, bit 10 if the
// names differ. Bits 16 to 39 are the hash of the first target, bits 40 to 63 that of the name.
type viaState uint64

const (
	viaCount   viaState = 0xff
	viaTargets viaState = 1 << 8
	viaMissing viaState = 1 << 9
	viaDiffers viaState = 1 << 10
)

// missing reports whether a successful response had no Via.
func (s viaState) missing() bool { return s&viaMissing != 0 }

// known reports whether there were enough responses for a conclusion.
func (s viaState) known() bool { return s.missing() || s&viaCount >= viaSamples }

// consistent reports whether all responses had the same name.
func (s viaState) consistent() bool {
	return s&viaCount >= viaSamples && s&(viaTargets|viaMissing|viaDiffers) == viaTargets
}

// name returns the hash of the name.
func (s viaState) name() uint32 { return uint32(s >> 40) }

// add records a successful response of a target.
func (h *viaHabit) add(fields []http1.Field, target string) {
	old := viaState(h.state.Load())
	if old.missing() {
		return // final: after a response without Via, nothing else matters
	}
	name, given := viaName(fields)
	for {
		next := old
		switch {
		case !given:
			next |= viaMissing
		case old&viaCount == 0:
			next = 1 | viaState(hash24(target))<<16 | viaState(name)<<40
		default:
			if old&viaCount < viaSamples {
				next++
			}
			if old.name() != name {
				next |= viaDiffers
			}
			if old&viaTargets == 0 && uint32(old>>16)&0xffffff != hash24(target) {
				next |= viaTargets
			}
		}
		if next == old || h.state.CompareAndSwap(uint64(old), uint64(next)) {
			return
		}
		if old = viaState(h.state.Load()); old.missing() {
			return
		}
	}
}

// viaName returns the hash of the name of the last intermediary in Via (RFC 9110 section 7.6.3):
// the host of received-by. It ignores the port, because Apache inserts the port of the target.
// given is false if there is no name.
func viaName(fields []http1.Field) (hash uint32, given bool) {
	for i := len(fields) - 1; i >= 0; i-- {
		if fields[i].Kind != http1.Via {
			continue
		}
		v := fields[i].Value
		v = v[bytes.LastIndexByte(v, ',')+1:]
		at := skip(v, 0, true)
		if name := skip(v, skip(v, at, false), true); name < len(v) { // the name follows the protocol
			at = name
		}
		end := at
		for end < len(v) && v[end] != ' ' && v[end] != '\t' && v[end] != ':' {
			end++
		}
		return hash24(v[at:end]), true
	}
	return 0, false
}

// skip returns the index at which a run of bytes that begins at i ends: a run of white space if space is
// set, otherwise a run of all other bytes.
func skip(v []byte, i int, space bool) int {
	for i < len(v) && (v[i] == ' ' || v[i] == '\t') == space {
		i++
	}
	return i
}

// hash24 returns the FNV-1a hash of s, folded to 24 bits.
func hash24[T string | []byte](s T) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h>>24 ^ h&0xffffff
}

// hasUniqueVia reports whether no other proxy adds the same Via name as the proxy of pool of, and the habit
// of at least one other proxy is known.
func (t *Transport) hasUniqueVia(of *idlePool) bool {
	name, others, same := viaState(of.via.state.Load()).name(), 0, false
	t.pools.Range(func(_, p any) bool {
		other := viaState(p.(*idlePool).via.state.Load())
		if p == of || other == 0 {
			return true
		}
		if other.known() {
			others++
		}
		same = same || other&viaCount > 0 && other.name() == name
		return !same
	})
	return others > 0 && !same
}
