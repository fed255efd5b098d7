package transport

import (
	"bytes"
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// viaHabit remembers whether a proxy adds Via to what it relays, under which name.
// It is safe for concurrent use.
//
// A name counts as the proxy's only if it came with every good answer (status
// below 400), of viaSamples at least, from more than one target, and if no other
// proxy of the pool shows the same (Transport.distinct). Otherwise it could be
// that of a cache in front of the target, whose error pages may come without it.
type viaHabit struct{ word atomic.Uint64 }

// viaSamples is how many good answers make a habit.
const viaSamples = 8

// viaWord is the state of a viaHabit: bits 0 to 7 count good answers up to
// viaSamples, 8 says that they came from several targets, 9 that one of them had
// no Via, 10 that its names differ; 16 to 39 are the hash of the first target, 40
// to 63 that of the name.
type viaWord uint64

const (
	viaCount   viaWord = 0xff
	viaTargets viaWord = 1 << 8
	viaWithout viaWord = 1 << 9
	viaDiffers viaWord = 1 << 10
)

// without reports whether good answers have come without Via.
func (w viaWord) without() bool { return w&viaWithout != 0 }

// learnt reports whether enough answers came to say what the proxy does.
func (w viaWord) learnt() bool { return w.without() || w&viaCount >= viaSamples }

// always reports whether all answers came with the same name.
func (w viaWord) always() bool {
	return w&viaCount >= viaSamples && w&(viaTargets|viaWithout|viaDiffers) == viaTargets
}

func (w viaWord) name() uint32 { return uint32(w >> 40) }

// note takes a good answer of a target into account.
func (h *viaHabit) note(fields []http1.Field, target string) {
	was := viaWord(h.word.Load())
	if was.without() {
		return // for good: one such answer says that a missing Via means nothing
	}
	name, given := viaName(fields)
	for {
		is := was
		switch {
		case !given:
			is |= viaWithout
		case was&viaCount == 0:
			is = 1 | viaWord(hash24(target))<<16 | viaWord(name)<<40
		default:
			if was&viaCount < viaSamples {
				is++
			}
			if was.name() != name {
				is |= viaDiffers
			}
			if was&viaTargets == 0 && uint32(was>>16)&0xffffff != hash24(target) {
				is |= viaTargets
			}
		}
		if is == was || h.word.CompareAndSwap(uint64(was), uint64(is)) {
			return
		}
		if was = viaWord(h.word.Load()); was.without() {
			return
		}
	}
}

// viaName hashes the name of the last intermediary in Via (RFC 9110 section 7.6.3):
// the host of received-by. The port is left out, since Apache puts the target's.
func viaName(fields []http1.Field) (hash uint32, given bool) {
	for i := len(fields) - 1; i >= 0; i-- {
		if fields[i].Kind != http1.Via {
			continue
		}
		v := fields[i].Value
		v = v[bytes.LastIndexByte(v, ',')+1:]
		at := skip(v, 0, true)
		if name := skip(v, skip(v, at, false), true); name < len(v) { // after the protocol, which is the target's
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

// skip returns where the run of white space, or of anything else, that begins at i
// ends.
func skip(v []byte, i int, space bool) int {
	for i < len(v) && (v[i] == ' ' || v[i] == '\t') == space {
		i++
	}
	return i
}

// hash24 is FNV-1a, folded to 24 bits.
func hash24[T string | []byte](s T) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h>>24 ^ h&0xffffff
}

// distinct reports whether the Via that a proxy adds is known to be its own: some
// other proxy of the pool is known too, and none adds the same.
func (t *Transport) distinct(of *idlePool) bool {
	name, others, same := viaWord(of.habit.word.Load()).name(), 0, false
	t.pools.Range(func(_, p any) bool {
		other := viaWord(p.(*idlePool).habit.word.Load())
		if p == of || other == 0 {
			return true
		}
		if other.learnt() {
			others++
		}
		same = same || other&viaCount > 0 && other.name() == name
		return !same
	})
	return others > 0 && !same
}
