package session

import (
	"container/list"
	"sync"
	"time"
)

// DefaultMax is the default maximum number of sessions of a Table. This number of sessions takes up to 20 MB.
const DefaultMax = 100_000

// Table records which proxy serves each session. In a full table, a new session replaces the session that was used
// longest ago. It is safe for concurrent use.
type Table struct {
	max    int
	onMove func(Move) // see OnMove; nil for none
	mu     sync.Mutex
	byKey  map[Key]*list.Element // guarded by mu; the values are *binding
	recent list.List             // guarded by mu; of *binding, the session that was used last is first
}

// binding assigns a proxy to a session.
type binding struct {
	key        Key
	proxy      string    // id of the proxy
	generation uint32    // see Handle.generation
	end        time.Time // the end of the session, if no request of the session is served before
	nextReport time.Time // from then on, the next served request of a moved session reports the move again
}

// Move describes a session after its move to another proxy or exit.
type Move struct {
	Key        Key
	Proxy      string        // id of the proxy
	Generation uint32        // number of moves of the session; it is a part of Handle.Token
	TTL        time.Duration // time until the session ends, if no request of the session is served before
}

// OnMove sets a function that receives the moves of sessions. A move is reported when the request that moved the
// session has been served. Later served requests of the session report the move again, whenever half of the TTL has
// passed since the last report. The function must return soon and not call the table. OnMove must be called before the
// table is used.
func (t *Table) OnMove(f func(Move)) { t.onMove = f }

// RecordMove records a move of a session that another gateway has reported, with the proxy and the generation of the
// session. If the session already has this proxy and generation and ends later, RecordMove does nothing.
func (t *Table) RecordMove(m Move, now time.Time) {
	b := binding{m.Key, m.Proxy, m.Generation, now.Add(m.TTL), now.Add(m.TTL / 2)}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[m.Key]
	if e == nil {
		t.makeRoom(now)
		t.byKey[m.Key] = t.recent.PushBack(&b) // removed first, so that sessions that are used here are kept longer
		return
	}
	old := e.Value.(*binding)
	if old.proxy == b.proxy && old.generation == b.generation && old.end.After(b.end) {
		return
	}
	*old = b
}

// NewTable returns a table of at most max sessions.
func NewTable(max int) *Table { return &Table{max: max, byKey: map[Key]*list.Element{}} }

// Len returns the number of sessions. It includes sessions that have ended and have not been removed yet.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// find returns a copy of the session's binding. It returns false if the session has no proxy or has ended.
func (t *Table) find(key Key, now time.Time) (b binding, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[key]
	if e == nil {
		return b, false
	}
	if b = *e.Value.(*binding); !now.Before(b.end) {
		t.remove(e)
		return binding{}, false
	}
	return b, true
}

// bind records the proxy that has served the session b.key, and the new end of the session. In two cases, a session
// that has not ended keeps its previous proxy: if keepProxy is set, or if another request has moved the session in the
// meantime. The recorded generation is then larger than the generation of b.
func (t *Table) bind(b binding, keepProxy bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[b.key]
	if e == nil {
		t.makeRoom(now)
		t.reportMove(&b, nil, now)
		t.byKey[b.key] = t.recent.PushFront(&b)
		return
	}
	old := e.Value.(*binding)
	if now.Before(old.end) && (keepProxy || b.generation < old.generation) {
		b.proxy, b.generation = old.proxy, old.generation
	}
	t.reportMove(&b, old, now)
	*old = b
	t.recent.MoveToFront(e)
}

// reportMove reports the binding b of a session that has moved (OnMove), unless the same binding was reported less than
// half of the TTL ago. The parameter old is the previous binding, or nil. The caller holds mu.
func (t *Table) reportMove(b, old *binding, now time.Time) {
	if t.onMove == nil || b.generation == 0 {
		return
	}
	if old != nil && old.generation == b.generation && old.proxy == b.proxy && now.Before(old.nextReport) {
		b.nextReport = old.nextReport
		return
	}
	ttl := b.end.Sub(now)
	b.nextReport = now.Add(ttl / 2)
	t.onMove(Move{b.key, b.proxy, b.generation, ttl})
}

// makeRoom removes sessions, beginning with the session that was used longest ago. It stops when there is room for a
// new session and the next session in this order has not ended. The caller holds mu.
func (t *Table) makeRoom(now time.Time) {
	for e := t.recent.Back(); e != nil; e = t.recent.Back() {
		if now.Before(e.Value.(*binding).end) && len(t.byKey) < t.max {
			return
		}
		t.remove(e)
	}
}

// The caller of remove holds mu.
func (t *Table) remove(e *list.Element) {
	t.recent.Remove(e)
	delete(t.byKey, e.Value.(*binding).key)
}
