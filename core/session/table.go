package session

import (
	"container/list"
	"sync"
	"time"
)

// DefaultMax is the default maximum number of sessions of a Table. This number of sessions takes up to 20 MB.
const DefaultMax = 100_000

// Table records which proxy serves each session. If it has its maximum number of sessions, a new session replaces the
// session that was used longest ago. It is safe for concurrent use.
type Table struct {
	max    int
	mu     sync.Mutex
	byKey  map[Key]*list.Element // guarded by mu; the values are *binding
	recent list.List             // guarded by mu; of *binding, the session that was used last is first
}

// binding assigns a proxy to a session.
type binding struct {
	key        Key
	proxy      string    // id of the proxy
	generation uint32    // see Use.generation
	until      time.Time // the end of the session, if no request of the session is served before
}

// NewTable returns a table of at most max sessions.
func NewTable(max int) *Table { return &Table{max: max, byKey: map[Key]*list.Element{}} }

// Len returns the number of sessions. It includes sessions that have ended and have not been removed yet.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// find returns a copy of the binding of a session. The result found is false if the session has no proxy or has
// ended.
func (t *Table) find(key Key, now time.Time) (b binding, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[key]
	if e == nil {
		return b, false
	}
	if b = *e.Value.(*binding); !now.Before(b.until) {
		t.remove(e)
		return binding{}, false
	}
	return b, true
}

// bind records the proxy that has served the session b.key, and the new end of the session. If the session has not
// ended, it keeps its previous proxy in two cases. In the first case, the parameter keep is true. In the second case,
// another request has moved the session and was served during this request; the recorded binding then has a larger
// generation than b (Use.generation).
func (t *Table) bind(b binding, keep bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[b.key]
	if e == nil {
		t.makeRoom(now)
		t.byKey[b.key] = t.recent.PushFront(&b)
		return
	}
	old := e.Value.(*binding)
	if now.Before(old.until) && (keep || b.generation < old.generation) {
		b.proxy, b.generation = old.proxy, old.generation
	}
	*old = b
	t.recent.MoveToFront(e)
}

// makeRoom removes the session that was used longest ago, and then the next ones. It stops when there is room for
// another session, and the session that was used longest ago has not ended. The caller holds mu.
func (t *Table) makeRoom(now time.Time) {
	for e := t.recent.Back(); e != nil; e = t.recent.Back() {
		if now.Before(e.Value.(*binding).until) && len(t.byKey) < t.max {
			return
		}
		t.remove(e)
	}
}

// remove removes a session. The caller holds mu.
func (t *Table) remove(e *list.Element) {
	t.recent.Remove(e)
	delete(t.byKey, e.Value.(*binding).key)
}
