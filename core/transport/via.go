package transport

import (
	"bytes"
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// viaRecord records whether a proxy adds a Via field to the responses with a status below 400 that it relays, and which
// name is in the field. If the name is always the same (isConsistent) and no other proxy adds it
// (Transport.hasUniqueVia), it is the name of the proxy. Otherwise it may be the name of a cache in front of the
// targets.
type viaRecord struct{ state atomic.Uint64 }

// viaSamples is the minimum number of successful responses for a conclusion.
const viaSamples = 8

// viaState has four parts: the number of successful responses, at most viaSamples (bits 0 to 7); the flags below; the
// hash of the first target (bits 16 to 39); and the hash of the name in Via (bits 40 to 63).
type viaState uint64

const (
	viaCount   viaState = 0xff
	viaTargets viaState = 1 << 8  // the responses came from several targets
	viaMissing viaState = 1 << 9  // a response had no Via
	viaDiffers viaState = 1 << 10 // the names differ
)

func (s viaState) lacksVia() bool { return s&viaMissing != 0 }

// isKnown reports whether there were enough responses for a conclusion: viaSamples, or at least one response without
// Via.
func (s viaState) isKnown() bool { return s.lacksVia() || s&viaCount >= viaSamples }

// isConsistent reports whether there were viaSamples successful responses, from several targets, and whether their Via
// fields all name the same proxy.
func (s viaState) isConsistent() bool {
	return s&viaCount >= viaSamples && s&(viaTargets|viaMissing|viaDiffers) == viaTargets
}

// nameHash returns the hash of the name in Via.
func (s viaState) nameHash() uint32 { return uint32(s >> 40) }

// add records a successful response of a target.
func (r *viaRecord) add(fields []http1.Field, target string) {
	old := viaState(r.state.Load())
	if old.lacksVia() {
		return // the state is final after a response without Via
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
			if old.nameHash() != name {
				next |= viaDiffers
			}
			if old&viaTargets == 0 && uint32(old>>16)&0xffffff != hash24(target) {
				next |= viaTargets
			}
		}
		if next == old || r.state.CompareAndSwap(uint64(old), uint64(next)) {
			return
		}
		if old = viaState(r.state.Load()); old.lacksVia() {
			return
		}
	}
}

// viaName returns the hash of the name of the last intermediary in Via (RFC 9110 section 7.6.3): the host of
// received-by. It ignores the port, because Apache inserts the port of the target. It returns false if there is no Via.
func viaName(fields []http1.Field) (hash uint32, hasVia bool) {
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

// skip returns the index after a run of bytes that begins at index i: a run of white space if space is set, otherwise a
// run of other bytes.
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

// hasUniqueVia reports whether the proxy with the given idle pool adds a Via name that no other proxy adds. It returns
// false until at least one other proxy has relayed enough responses (viaState.isKnown).
func (t *Transport) hasUniqueVia(of *idlePool) bool {
	name, others, same := viaState(of.viaRecord.state.Load()).nameHash(), 0, false
	t.pools.Range(func(_, p any) bool {
		other := viaState(p.(*idlePool).viaRecord.state.Load())
		if p == of || other == 0 {
			return true
		}
		if other.isKnown() {
			others++
		}
		same = same || other&viaCount > 0 && other.nameHash() == name
		return !same
	})
	return others > 0 && !same
}

// maxCompared is the maximum number of proxies that othersAddVia compares.
const maxCompared = 256

// othersAddVia reports whether all proxies except the one with the given idle pool add Via. It returns true if at least
// two of them add different names, and none has relayed a response with a status below 400 and without Via. It ignores
// proxies with too few responses or with several names, and compares at most maxCompared proxies.
func (t *Transport) othersAddVia(of *idlePool) bool {
	var first uint32
	compared, found, differ, missing := 0, false, false, false
	t.pools.Range(func(_, p any) bool {
		other := viaState(p.(*idlePool).viaRecord.state.Load())
		switch {
		case p == of || other == 0:
		case other.lacksVia():
			missing = true
		case other.isConsistent() && !found:
			first, found = other.nameHash(), true
		case other.isConsistent():
			differ = differ || other.nameHash() != first
		}
		compared++
		return !missing && compared < maxCompared
	})
	return differ && !missing
}
