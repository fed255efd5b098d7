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
	refusalAge  = time.Minute // maximum age of a refusal
)

// Refusals holds the refused requests of a pool until another proxy serves the same request. The zero value is
// ready for use. It is safe for concurrent use.
type Refusals struct {
	n    atomic.Int32 // len(list)
	mu   sync.Mutex
	list []refusal // oldest first
}

type refusal struct {
	by     *Set
	what   uint64 // hash of the target of a CONNECT, or of the URL of another request
	kind   Kind
	status int
	at     time.Duration
}

// Refused records that a proxy responded with a status of 300 or above. It ignores statuses that show nothing
// about the proxy's abilities. what is the hash of the target of a CONNECT, or of the URL of another request.
func (l *Refusals) Refused(by *Set, k Kind, what uint64, status int, at time.Duration) {
	if !Unsupported(status) && status != 403 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(at)
	if len(l.list) == maxRefusals {
		l.list = slices.Delete(l.list, 0, 1)
	}
	l.list = append(l.list, refusal{by, what, k, status, at})
	l.n.Store(int32(len(l.list)))
}

// Empty reports whether there is no refusal.
func (l *Refusals) Empty() bool { return l.n.Load() == 0 }

// Served records that a proxy has opened a tunnel, or relayed a response with a status below 400. This
// shows that the proxies that refused the same request before did so themselves.
func (l *Refusals) Served(by *Set, k Kind, what uint64, at time.Duration) {
	if l.Empty() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(at)
	l.list = slices.DeleteFunc(l.list, func(r refusal) bool {
		if r.what != what || r.by == by || (k == Forward) != (r.kind == Forward) {
			return false
		}
		r.by.refused(r.kind, what, r.status, at)
		return true
	})
	l.n.Store(int32(len(l.list)))
}

// prune removes the refusals that are too old. The caller holds mu.
func (l *Refusals) prune(at time.Duration) {
	l.list = slices.DeleteFunc(l.list, func(r refusal) bool { return at-r.at > refusalAge })
	l.n.Store(int32(len(l.list)))
}
