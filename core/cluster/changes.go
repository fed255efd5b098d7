package cluster

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// The limits of making and sharing changes.
const (
	maxChanges = 500                    // sent in one exchange: each change costs the store about 80 µs
	maxApplied = 200                    // made in one call of Local.Apply
	applyTime  = 100 * time.Millisecond // time after which the remaining received changes wait for the next exchange
)

// Change is a change that was made through the API of a gateway.
type Change struct {
	Key   string        // names the thing that was changed
	Value string        // record of the change
	TTL   time.Duration // time for which the record stays; 0 for a record that stays for ever
	// Redo makes the change again after another node has changed the same thing. It returns the new record of the
	// change. It is called in the background.
	Redo func() (value string, err error)
}

// changes holds the changes by the API that the node shares with the other nodes. If another node has changed the same
// thing, this node first makes the other node's change, and then its own change again (Change.Redo).
type changes struct {
	makingMu sync.Mutex // held while changes are made, here or for another node; locked before mu, never with Node.mu

	mu       sync.Mutex // guards the fields below, for short times; locked after Node.mu
	known    map[string]Record
	received []Record // changes of other nodes that are not made here yet; Rev is 0 if the store has lost the record
	waiting  map[string]*waitingChanges
}

// waitingChanges holds those changes of one key that the store does not have yet.
type waitingChanges struct {
	made    []Change
	value   string        // record of the last change in made
	ttl     time.Duration // TTL of the last change in made
	baseRev int64         // revision of the record on which the changes were made
	done    chan struct{}
}

func (c *changes) init() {
	c.known, c.waiting = map[string]Record{}, map[string]*waitingChanges{}
}

// Change calls the function do, which makes changes by the API on this gateway. Then it shares the changes. If the node
// is not alone, Change waits until the store has all of them, at most until ctx ends. If do returns an error, Change
// returns this error and shares nothing.
func (n *Node) Change(ctx context.Context, do func() ([]Change, error)) error {
	waits, err := n.changes.makeAndAdd(do)
	if err != nil {
		return err
	}
	n.notify()
	n.inbox.mu.Lock()
	alone := n.inbox.alone
	n.inbox.mu.Unlock()
	if alone {
		return nil
	}
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// BetweenChanges calls f while no changes are made, neither by the API nor for other nodes.
func (n *Node) BetweenChanges(f func()) {
	n.changes.makingMu.Lock()
	defer n.changes.makingMu.Unlock()
	f()
}

// LastChange returns the record of the last change of a key that this node has made or received; false for none.
func (n *Node) LastChange(key string) (value string, ok bool) {
	c := &n.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting[key]; w != nil {
		return w.value, true
	}
	r, ok := c.known[key]
	return r.Value, ok
}

// makeAndAdd calls the function do, and adds the returned changes to the waiting changes (changes.waiting). It
// returns channels that are closed when the store has these changes.
func (c *changes) makeAndAdd(do func() ([]Change, error)) (waits []<-chan struct{}, err error) {
	c.makingMu.Lock()
	defer c.makingMu.Unlock()
	made, err := do()
	if err != nil {
		return nil, err
	}
	return c.addWaiting(made), nil
}

// addWaiting appends changes that were made here to the waiting changes. It returns channels that are closed when the
// store has these changes. The caller holds makingMu.
func (c *changes) addWaiting(made []Change) (waits []<-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range made {
		w := c.waiting[ch.Key]
		if w == nil {
			w = &waitingChanges{baseRev: c.known[ch.Key].Rev, done: make(chan struct{})}
			c.waiting[ch.Key] = w
		}
		w.made, w.value, w.ttl = append(w.made, ch), ch.Value, ch.TTL
		waits = append(waits, w.done)
	}
	return waits
}

// prepareChanges adds the operations for at most maxChanges waiting changes to ops. The caller holds Node.mu.
func (n *Node) prepareChanges(ops []pending, now time.Time) []pending {
	if n.alone && n.hasReached || n.fresh || n.mayOffer(now) { // the changes of the other nodes must be received first
		return ops
	}
	c := &n.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []string
	if len(c.waiting) > 0 {
		received := map[string]bool{}
		for i := range c.received {
			received[changeOf(&c.received[i])] = true
		}
		for key := range c.waiting {
			if !received[key] { // the changes of a key with a received change wait for redoAll
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
	}
	for _, key := range keys[:min(len(keys), maxChanges)] {
		w := c.waiting[key]
		op := Op{Kind: Swap, Key: keyOf(changeKey, key), Value: w.value, Rev: w.baseRev, TTL: w.ttl}
		count := len(w.made)
		ops = append(ops, pending{op: op, done: func(rev int64) {
			if rev > 0 {
				n.recordWritten(key, &op, rev, w, count)
			}
		}})
	}
	return ops
}

// recordWritten records that the store has the first changes of w. The parameter count is the number of these changes.
// The caller holds Node.mu.
func (n *Node) recordWritten(key string, op *Op, rev int64, w *waitingChanges, count int) {
	c := &n.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[key] = Record{Key: op.Key, Value: op.Value, Rev: rev, At: n.syncedAt} // replaced by the store's record
	if w.made = w.made[min(count, len(w.made)):]; len(w.made) > 0 {
		w.baseRev = rev
		return
	}
	delete(c.waiting, key)
	close(w.done)
}

// receiveChange adds the record of a change to changes.received. The method makeChanges then makes the change here.
func (n *Node) receiveChange(r *Record) {
	c := &n.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = append(c.received, *r)
}

// makeChanges makes the received changes here. Then it makes the waiting changes of the same keys again. It does not
// hold Node.mu, because changes may take long. If the API is making changes, makeChanges does nothing, because
// exchanges do not wait for the API.
//
// It returns true if the next exchange must follow without a wait: received changes are left after applyTime, or
// changes were made again. During a wait, another node could change the same things again.
func (n *Node) makeChanges() (soon bool) {
	c := &n.changes
	if !c.makingMu.TryLock() {
		return false
	}
	defer c.makingMu.Unlock()
	begin := n.cfg.Now()
	left := n.applySome()
	for left && n.cfg.Now().Sub(begin) < applyTime {
		left = n.applySome()
	}
	return n.redoAll() || left
}

// applySome makes the first received changes here, at most maxApplied. It returns true if received changes remain. The
// caller holds the mutex changes.makingMu.
func (n *Node) applySome() (left bool) {
	todo, left := n.changes.takeReceived()
	if len(todo) == 0 {
		return left
	}
	failed := 0
	for i, err := range n.local.Apply(todo) {
		if err != nil {
			failed++
			n.cfg.Log.Warn("a change by the API of another gateway cannot be made here",
				slog.String("change", todo[i].Key), slog.Any("error", err))
		}
	}
	if made := len(todo) - failed; made == 1 && failed == 0 {
		n.cfg.Log.Info("a change by the API of another gateway is in force", slog.String("change", todo[0].Key))
	} else if made > 0 {
		n.cfg.Log.Info("changes by the API of other gateways are in force", slog.Int("changes", made))
	}
	return left
}

// changeOf returns the key of the change whose record is r.
func changeOf(r *Record) string { return strings.TrimPrefix(r.Key, changeKey+separator) }

// takeReceived removes the first received records, at most maxApplied. It returns those changes of the removed records
// that change something here, and true if received records remain. The caller holds makingMu.
func (c *changes) takeReceived() (todo []Change, left bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := min(len(c.received), maxApplied)
	for _, r := range c.received[:count] {
		key := changeOf(&r)
		known := c.known[key]
		if r.Rev < known.Rev {
			continue
		}
		c.known[key] = r
		lost := r.Rev == 0
		if w := c.waiting[key]; w != nil && lost {
			w.baseRev = -1 // the revision of no record, so that redoAll makes the change again
		}
		if (r.Rev > known.Rev || lost) && r.Value != known.Value {
			todo = append(todo, Change{Key: key, Value: r.Value})
		}
	}
	if c.received = c.received[count:]; len(c.received) == 0 {
		c.received = nil
	}
	return todo, len(c.received) > 0
}

// redoAll makes the waiting changes of the keys that other nodes have changed again. It returns true if there were any.
// The caller holds the mutex changes.makingMu.
func (n *Node) redoAll() bool {
	c := &n.changes
	c.mu.Lock()
	var keys []string
	for key, w := range c.waiting {
		if c.known[key].Rev != w.baseRev {
			keys = append(keys, key)
		}
	}
	c.mu.Unlock()
	slices.Sort(keys)
	for _, key := range keys {
		n.redoChanges(key)
	}
	return len(keys) > 0
}

// redoChanges makes the waiting changes of a key again. The caller holds the mutex changes.makingMu.
func (n *Node) redoChanges(key string) {
	c := &n.changes
	c.mu.Lock()
	w := c.waiting[key]
	again := slices.Clone(w.made)
	c.mu.Unlock()
	var value string
	again = slices.DeleteFunc(again, func(ch Change) bool {
		v, err := ch.Redo()
		if err != nil {
			n.cfg.Log.Warn("a change by this API is not in force: it conflicts with a change by another gateway",
				slog.String("change", key), slog.Any("error", err))
			return true
		}
		value = v
		return false
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(again) == 0 {
		delete(c.waiting, key)
		close(w.done)
		return
	}
	w.made, w.value, w.ttl = again, value, again[len(again)-1].TTL
	w.baseRev = c.known[key].Rev
}

// resetRevisions is called when the store has lost its data. It returns the records of the known and the received
// changes, so that they are written again. It sets the revisions of these changes to 0, because the store has no record
// of them.
func (c *changes) resetRevisions() (out []Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	latest := maps.Clone(c.known)
	c.received = slices.DeleteFunc(c.received, func(r Record) bool {
		key := changeOf(&r)
		older := r.Rev < latest[key].Rev
		if r.Rev == 0 || latest[key].Rev == 0 { // the revision was lost earlier, so the times decide
			older = r.At.Before(latest[key].At)
		}
		if !older {
			latest[key] = r
		}
		return older
	})
	for _, key := range slices.Sorted(maps.Keys(latest)) {
		out = append(out, latest[key])
	}
	for i := range c.received {
		c.received[i].Rev = 0
	}
	for key, r := range c.known {
		r.Rev = 0
		c.known[key] = r
	}
	for _, w := range c.waiting {
		w.baseRev = 0
	}
	return out
}

// removeEnded removes the known changes whose records have ended at the given time of the store's clock.
func (c *changes) removeEnded(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.known, func(_ string, r Record) bool { return r.Ended(at) })
}

// count returns the number of changes that the store does not have yet.
func (c *changes) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}
