package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// transitions holds the latest transitions of all breakers, at most maxTransitions.
type transitions struct {
	mu              sync.Mutex     // guards all fields
	parts           [][]transition // a ring in parts of partSize, so that it grows without being copied
	n               int            // number of transitions in the ring
	next            int            // index of the oldest transition when the ring is full
	added           uint64         // number of transitions since the start
	lastOverwritten time.Time      // time of the latest overwritten transition; zero if there is none
	reasons         []string       // values of core.Transition.Reason
}

const (
	partSize   = 1000
	maxReasons = 1000 // a damaged file may have any number of reasons
)

// transition is a core.Transition in 48 bytes.
type transition struct {
	id, why  string
	at       int64 // ns since 1970
	failures uint32
	reason   uint16 // index in transitions.reasons
	from, to core.State
}

func (tr *transitions) add(t core.Transition) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.added++
	i := tr.n
	switch {
	case i == maxTransitions:
		i = tr.next
		tr.next = (tr.next + 1) % maxTransitions
		tr.lastOverwritten = tr.transitionAt(i).At
	case i%partSize == 0:
		tr.parts = append(tr.parts, make([]transition, partSize))
		fallthrough
	default:
		tr.n++
	}
	tr.parts[i/partSize][i%partSize] = transition{t.ProxyID, t.Why, t.At.UnixNano(), uint32(t.FailureCount),
		tr.reasonOf(t.Reason), t.From, t.To}
}

// reasonOf returns the index of a reason in tr.reasons. If the reason is new, it is added. The caller holds mu.
func (tr *transitions) reasonOf(reason string) uint16 {
	i := slices.Index(tr.reasons, reason)
	if i < 0 {
		i = min(len(tr.reasons), maxReasons)
		tr.reasons = append(tr.reasons[:i], reason)
	}
	return uint16(i)
}

// transitionAt returns the transition with the index i in the ring. The caller holds mu.
func (tr *transitions) transitionAt(i int) core.Transition {
	t := &tr.parts[i/partSize][i%partSize]
	return core.Transition{ProxyID: t.id, From: t.from, To: t.to, At: time.Unix(0, t.at).UTC(),
		FailureCount: int(t.failures), Reason: tr.reasons[t.reason], Why: t.why}
}

// listSince returns the transitions from the given time on, in the order in which they were added. It also
// reports whether some of them were overwritten.
func (tr *transitions) listSince(from time.Time) (list []core.Transition, truncated bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for i := range tr.n {
		if t := tr.transitionAt((tr.next + i) % tr.n); !t.At.Before(from) {
			list = append(list, t)
		}
	}
	return list, !tr.lastOverwritten.IsZero() && !tr.lastOverwritten.Before(from)
}

// listAfter returns up to limit transitions, in the order in which they were added. It leaves out the first n
// transitions since the start, and those that were overwritten. The second result is the value of n for the next call.
func (tr *transitions) listAfter(n uint64, limit int) (list []core.Transition, next uint64) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	overwritten := tr.added - uint64(tr.n)
	n = max(n, overwritten)
	next = min(n+uint64(limit), tr.added)
	for ; n < next; n++ {
		list = append(list, tr.transitionAt((tr.next+int(n-overwritten))%tr.n))
	}
	return list, next
}
