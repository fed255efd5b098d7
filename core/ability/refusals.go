package ability

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The limits of Refusals.
const (
	maxRefusals = 64
	refusalAge  = time.Minute // older refusals are not compared
)

// Refusals holds the refused CONNECTs of a pool until another proxy opens a tunnel to the same
// target. The zero value is ready. It is safe for concurrent use.
type Refusals struct {
	n    atomic.Int32 // len(list)
	mu   sync.Mutex
	list []refusal // oldest first
}

type refusal struct {
	by     *Set
	target uint64 // hash of host:port
	kind   Kind
	status int
	at     time.Duration
}

// Refused records that a proxy responded to a CONNECT with a status of 300 or above. It ignores
// statuses that say nothing of the proxy's abilities.
func (l *Refusals) Refused(by *Set, k Kind, target uint64, status int, at time.Duration) {
	if !Unsupported(status) && status != 403 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(at)
	if len(l.list) == maxRefusals {
		l.list = slices.Delete(l.list, 0, 1)
	}
	l.list = append(l.list, refusal{by, target, k, status, at})
	l.n.Store(int32(len(l.list)))
}

// Opened records that a proxy has opened a tunnel to a target: the refusals of other proxies
// there were their own. It is one atomic load if there are none.
func (l *Refusals) Opened(by *Set, target uint64, at time.Duration) {
	if l.n.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(at)
	l.list = slices.DeleteFunc(l.list, func(r refusal) bool {
		if r.target != target || r.by == by {
			return false
		}
		r.by.refusedTunnel(r.kind, target, r.status, at)
		return true
	})
	l.n.Store(int32(len(l.list)))
}

// prune removes the refusals that are too old. Requires mu.
func (l *Refusals) prune(at time.Duration) {
	l.list = slices.DeleteFunc(l.list, func(r refusal) bool { return at-r.at > refusalAge })
	l.n.Store(int32(len(l.list)))
}
