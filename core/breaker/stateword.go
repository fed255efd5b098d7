package breaker

import (
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// StateWord is the part of a breaker that every selection reads. It can be a field of a struct of the
// breaker's owner (see Breaker.Init), which saves a cache miss per candidate. The zero StateWord is closed.
type StateWord struct {
	packed  atomic.Uint64 // a packedState; changed under mu of the breaker
	openEnd atomic.Int64  // when the breaker becomes, or became, half-open, ns after the epoch
}

// packedState is generation<<3 | hasProbe<<2 | state.
type packedState uint64

const probeBit, generationShift = 1 << 2, 3

func (p packedState) state() core.State { return core.State(p & (probeBit - 1)) }

func (p packedState) hasProbe() bool { return p&probeBit != 0 } // a probe holds the half-open breaker

func (p packedState) generation() uint64 { return uint64(p >> generationShift) }

// withState returns the given state in a new generation, without a probe.
func (p packedState) withState(state core.State) packedState {
	return (p>>generationShift+1)<<generationShift | packedState(state)
}

func (w *StateWord) load() packedState { return packedState(w.packed.Load()) }

func (w *StateWord) store(p packedState) { w.packed.Store(uint64(p)) }

// IsClosed reports whether the breaker is closed. It costs one atomic load.
func (w *StateWord) IsClosed() bool { return w.load().state() == core.Closed }

// IsOpen reports whether the breaker is open at the given time after the breaker's epoch.
func (w *StateWord) IsOpen(at time.Duration) bool {
	return w.load().state() == core.Open && int64(at) < w.openEnd.Load()
}
