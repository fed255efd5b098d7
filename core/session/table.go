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
	onMove func(Move) // see OnMove; nil for none
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
	report     time.Time // from then on, the next served request of a moved session reports the move again
}

// Move is the move of a session to another proxy.
type Move struct {
	Key        Key
	Proxy      string        // id of the proxy
	Generation uint32        // number of moves of the session; it is a part of Use.Token
	TTL        time.Duration // time until the session ends, if no request of the session is served before
}

// OnMove sets the function that is called when a served request has moved a session, and again whenever half of the
// TTL has passed at a later served request of this session. f must return soon, and must not call the table. OnMove is
// called before the table is used.
func (t *Table) OnMove(f func(Move)) { t.onMove = f }

// Learn records a move that another gateway has reported. It replaces what the table has of the session. The end of
// the session does not become earlier if the table already has this move.
func (t *Table) Learn(m Move, now time.Time) {
	b := binding{m.Key, m.Proxy, m.Generation, now.Add(m.TTL), now.Add(m.TTL / 2)}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[m.Key]
	if e == nil {
		t.makeRoom(now)
		t.byKey[m.Key] = t.recent.PushBack(&b) // at the back: it makes room for sessions that are used here
		return
	}
	old := e.Value.(*binding)
	if old.proxy == b.proxy && old.generation == b.generation && old.until.After(b.until) {
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
		t.reportMove(&b, nil, now)
		t.byKey[b.key] = t.recent.PushFront(&b)
		return
	}
	old := e.Value.(*binding)
	if now.Before(old.until) && (keep || b.generation < old.generation) {
		b.proxy, b.generation = old.proxy, old.generation
	}
	t.reportMove(&b, old, now)
	*old = b
	t.recent.MoveToFront(e)
}

// reportMove reports the move of a session whose binding becomes b, unless the move was reported lately. The parameter
// old is the previous binding; nil for none. The caller holds mu.
func (t *Table) reportMove(b, old *binding, now time.Time) {
	if t.onMove == nil || b.generation == 0 {
		return
	}
	if old != nil && old.generation == b.generation && old.proxy == b.proxy && now.Before(old.report) {
		b.report = old.report
		return
	}
	ttl := b.until.Sub(now)
	b.report = now.Add(ttl / 2)
	t.onMove(Move{b.key, b.proxy, b.generation, ttl})
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
