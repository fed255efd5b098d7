package cluster

import (
	"log/slog"
	"slices"
	"time"
)

// maxEvents is the maximum number of events that wait for the store. If one more event is added, the oldest event is
// dropped.
const maxEvents = 20_000

// event is an operation that is repeated until the store has made it.
type event struct {
	op     Op
	at     time.Time // when the event happened, by this node's clock; zero for the time at which the store writes it
	isDone bool      // the operation was made, replaced or dropped
}

// eventID identifies a waiting event. A new event replaces the event with the same eventID.
type eventID struct {
	kind Kind
	key  string
}

// events holds the events that wait for the store. The zero value is empty.
type events struct {
	list []*event // the oldest first; includes events that are done (event.isDone)
	byID map[eventID]*event
}

// count returns the number of events.
func (s *events) count() int { return len(s.byID) }

// add appends an event, which replaces an earlier event of the same kind and key. If maxEvents other events were
// waiting, it drops the oldest one and returns true.
func (s *events) add(e *event) (dropped bool) {
	if s.byID == nil {
		s.byID = map[eventID]*event{}
	}
	id := eventID{e.op.Kind, e.op.Key}
	if old := s.byID[id]; old != nil {
		s.remove(old)
	}
	if len(s.byID) >= maxEvents {
		oldest := slices.IndexFunc(s.list, func(e *event) bool { return !e.isDone })
		s.remove(s.list[oldest])
		s.list, dropped = s.list[oldest+1:], true
	}
	s.list = append(s.list, e)
	s.byID[id] = e
	return dropped
}

// remove removes an event from the waiting events, unless it has been removed already.
func (s *events) remove(e *event) {
	if !e.isDone {
		e.isDone = true
		delete(s.byID, eventID{e.op.Kind, e.op.Key})
	}
}

// send adds the operations of the oldest events to ops, until ops has maxOps operations.
func (s *events) send(ops []pending, now time.Time) []pending {
	s.list = slices.DeleteFunc(s.list, func(e *event) bool { return e.isDone })
	for _, e := range s.list[:min(len(s.list), max(maxOps-len(ops), 0))] {
		op := e.op
		if !e.at.IsZero() {
			op.Age = now.Sub(e.at)
		}
		ops = append(ops, pending{op: op, done: func(int64) { s.remove(e) }})
	}
	return ops
}

// report adds an event to the events that wait for the store. The caller holds mu.
func (n *Node) report(e event) {
	if n.events.add(&e) {
		n.counts.Dropped++
		if !n.dropping {
			n.dropping = true
			n.cfg.Log.Warn("too many events wait for the cluster's store: the oldest are not shared",
				slog.Int("waiting", maxEvents))
		}
	}
}
