package session

import (
	"container/list"
	"sync"
	"time"
)

// DefaultMax is the default maximum number of sessions of a Table, which takes up to 20 MB then.
const DefaultMax = 100_000

// Table records which proxy serves each session. It is bounded: if there is one session more than the maximum, the one
// that was used longest ago is removed. It is safe for concurrent use.
type Table struct {
	max    int
	mu     sync.Mutex
	byKey  map[Key]*list.Element // guarded by mu; the values are *binding
	recent list.List             // guarded by mu; of *binding, the last use first
}

// binding is the proxy of a session.
type binding struct {
	key        Key
	proxy      string // its id
	generation uint32 // see Use.generation
	until      time.Time
}

// NewTable returns a table of at most max sessions.
func NewTable(max int) *Table { return &Table{max: max, byKey: map[Key]*list.Element{}} }

// Len returns the number of sessions. It includes sessions that have ended and that no request has used since.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// find returns a copy of the binding of a session that has not ended.
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

// bind records that a session has been served by a proxy, and that it lasts until a time if no request follows. A
// session that has not ended keeps its proxy if a request of a later generation has been served meanwhile; with keep,
// it keeps its proxy in any case.
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

// makeRoom removes the sessions used longest ago that have ended, and one more if there is still no room. The caller
// holds mu.
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
