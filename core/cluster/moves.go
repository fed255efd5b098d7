package cluster

import (
	"encoding/json"
	"slices"
	"time"
)

// maxMoves is the maximum number of moves in one exchange: each costs the store about 80 µs.
const maxMoves = 500

// Move is the move of a session to another proxy.
type Move struct {
	Session    string // name of the session; the same on all nodes
	Proxy      string // the key of the proxy (Local)
	Generation uint32 // number of moves of the session
	TTL        time.Duration
}

// moved is a Move with its time by this node's clock.
type moved struct {
	Move
	at time.Time
}

// moveRecord is the record of a move. It ends with the session.
type moveRecord struct {
	Proxy      string `json:"p"`
	Generation uint32 `json:"g"`
}

// Moved reports that a session has moved here. If maxEvents moves wait in the inbox, the move is dropped.
func (n *Node) Moved(m Move) {
	b := &n.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.moves) >= maxEvents {
		b.lostMoves++
		return
	}
	b.moves = append(b.moves, moved{m, n.cfg.Now()})
	if b.moving == nil {
		b.moving = map[string]struct{}{}
	}
	b.moving[m.Session] = struct{}{}
	n.notify()
}

// isMoving reports whether a move of the session waits in the inbox.
func (i *inbox) isMoving(session string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, moving := i.moving[session]
	return moving
}

// addMove adds a move to the moves that wait for the store. It replaces an earlier move of the same session. The caller
// holds mu.
func (n *Node) addMove(m *moved) {
	value := encode(moveRecord{m.Proxy, m.Generation})
	e := event{op: Op{Kind: Put, Key: keyOf(moveKey, m.Session), Value: value, TTL: m.TTL}, at: m.at}
	if n.moves.add(&e) {
		n.counts.Dropped++
	}
}

// shareMoves adds the operations for at most maxMoves moves to ops, the oldest first. It drops the moves of sessions
// that have ended. The caller holds mu.
func (n *Node) shareMoves(ops []pending, now time.Time) []pending {
	s := &n.moves
	if len(s.list) == 0 {
		return ops
	}
	s.list = slices.DeleteFunc(s.list, func(e *event) bool { return e.isDone })
	last := min(len(ops)+maxMoves, maxOps)
	for _, e := range s.list {
		if len(ops) >= last {
			break
		}
		op := e.op
		op.Age = now.Sub(e.at)
		if op.TTL -= op.Age; op.TTL <= 0 {
			s.remove(e)
			continue
		}
		ops = append(ops, pending{op: op, done: func(int64) { s.remove(e) }})
	}
	return ops
}

// receiveMove makes a move that another node has made, unless a later move of the same session is waiting here for the
// store. The store keeps the latest move and returns it to all nodes: in the end, all nodes have the same move. The
// caller holds mu.
func (n *Node) receiveMove(session string, r *Record) {
	var m moveRecord
	left := r.Ends.Sub(n.storeTime(n.cfg.Now()))
	if json.Unmarshal([]byte(r.Value), &m) != nil || left <= 0 || n.moves.byID[eventID{Put, r.Key}] != nil ||
		n.inbox.isMoving(session) {
		return
	}
	n.local.Move(Move{session, m.Proxy, m.Generation, left})
}
