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
	mu   sync.Mutex   // guards list
	list []refusal    // oldest first
}

type refusal struct {
	proxy       *Set
	requestHash uint64 // hash of the target of a CONNECT, or of the URL of another request
	kind        Kind
	status      int
	at          time.Duration
}

// Add records that a proxy responded with a status of at least 300. It ignores statuses that show nothing about
// abilities.
func (re *Refusals) Add(proxy *Set, k Kind, requestHash uint64, status int, now time.Duration) {
	if !IsUnsupported(status) && status != 403 {
		return
	}
	re.mu.Lock()
	defer re.mu.Unlock()
	re.prune(now)
	if len(re.list) == maxRefusals {
		re.list = slices.Delete(re.list, 0, 1)
	}
	re.list = append(re.list, refusal{proxy, requestHash, k, status, now})
	re.n.Store(int32(len(re.list)))
}

// Empty reports whether there is no refusal.
func (re *Refusals) Empty() bool { return re.n.Load() == 0 }

// RecordServed records that a proxy has opened a tunnel, or relayed a response with a status below 400. The earlier
// refusals of the same request then came from the other proxies, and not from the target.
func (re *Refusals) RecordServed(proxy *Set, k Kind, requestHash uint64, now time.Duration) {
	if re.Empty() {
		return
	}
	re.mu.Lock()
	defer re.mu.Unlock()
	re.prune(now)
	re.list = slices.DeleteFunc(re.list, func(r refusal) bool {
		if r.requestHash != requestHash || r.proxy == proxy || (k == Forward) != (r.kind == Forward) {
			return false
		}
		r.proxy.recordOwnRefusal(r.kind, requestHash, r.status, now)
		return true
	})
	re.n.Store(int32(len(re.list)))
}

// prune removes old refusals. The caller holds mu.
func (re *Refusals) prune(now time.Duration) {
	re.list = slices.DeleteFunc(re.list, func(r refusal) bool { return now-r.at > refusalAge })
	re.n.Store(int32(len(re.list)))
}
