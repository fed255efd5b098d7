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

// Refused records that a proxy responded with a status of 300 or above. It ignores statuses that show nothing about the
// proxy's abilities. For a CONNECT, the parameter what is the hash of the target; for any other request, of the URL.
func (re *Refusals) Refused(by *Set, k Kind, what uint64, status int, at time.Duration) {
	if !Unsupported(status) && status != 403 {
		return
	}
	re.mu.Lock()
	defer re.mu.Unlock()
	re.prune(at)
	if len(re.list) == maxRefusals {
		re.list = slices.Delete(re.list, 0, 1)
	}
	re.list = append(re.list, refusal{by, what, k, status, at})
	re.n.Store(int32(len(re.list)))
}

// Empty reports whether there is no refusal.
func (re *Refusals) Empty() bool { return re.n.Load() == 0 }

// Served records that a proxy has opened a tunnel, or relayed a response with a status below 400. This shows that the
// earlier refusals of the same request came from the proxies, not from the target.
func (re *Refusals) Served(by *Set, k Kind, what uint64, at time.Duration) {
	if re.Empty() {
		return
	}
	re.mu.Lock()
	defer re.mu.Unlock()
	re.prune(at)
	re.list = slices.DeleteFunc(re.list, func(r refusal) bool {
		if r.what != what || r.by == by || (k == Forward) != (r.kind == Forward) {
			return false
		}
		r.by.refused(r.kind, what, r.status, at)
		return true
	})
	re.n.Store(int32(len(re.list)))
}

// prune removes the refusals that are too old. The caller holds mu.
func (re *Refusals) prune(at time.Duration) {
	re.list = slices.DeleteFunc(re.list, func(r refusal) bool { return at-r.at > refusalAge })
	re.n.Store(int32(len(re.list)))
}
