package cluster

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// maxOffers is the maximum number of offered records in one exchange: each costs the store about 80 µs.
const maxOffers = 500

// offers are the records that this node writes again, because the store has lost its data. Their number has no limit,
// because the node has these records in memory anyway. The zero value is empty.
type offers struct {
	records map[string]Record
	order   []string // keys; some are not in records any more
}

// count returns the number of records that the store does not have yet.
func (o *offers) count() int { return len(o.records) }

// add offers the record r, unless a later record with the same key is offered.
func (o *offers) add(r Record) {
	if o.records == nil {
		o.records = map[string]Record{}
	}
	if !o.records[r.Key].At.After(r.At) {
		o.records[r.Key] = r
	}
}

// sort sets the order of the records. The order differs between nodes, so that they divide the work: if one node has
// written a record, no other node needs to write this record.
func (o *offers) sort(node string) {
	type hashed struct {
		hash float64
		key  string
	}
	list := make([]hashed, 0, len(o.records))
	for key := range o.records {
		list = append(list, hashed{core.Hash53(node + separator + key), key})
	}
	slices.SortFunc(list, func(a, b hashed) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.key, b.key))
	})
	o.order = make([]string, len(list))
	for i := range list {
		o.order[i] = list[i].key
	}
}

// received takes a record r that the store has. It removes the offered record with the same key, unless the offered
// record is later than r.
func (o *offers) received(r *Record) {
	if own, held := o.records[r.Key]; held && !own.At.After(r.At) {
		delete(o.records, r.Key)
	}
}

// send adds operations for the first records to ops: at most maxOffers, and none if ops has maxOps operations. The
// parameter at is the current time by the store's clock.
func (o *offers) send(ops []pending, at time.Time) []pending {
	last := min(len(ops)+maxOffers, maxOps)
	o.order = slices.DeleteFunc(o.order, func(key string) bool {
		r, held := o.records[key]
		ended := held && r.Ended(at.Add(time.Millisecond)) // the store's times are in ms
		if ended {
			delete(o.records, key)
		}
		if !held || ended || len(ops) >= last {
			return !held || ended
		}
		op := Op{Kind: Put, Key: key, Value: r.Value, At: r.At}
		if !r.Ends.IsZero() {
			op.TTL = r.Ends.Sub(at)
		}
		ops = append(ops, pending{op: op, done: func(int64) { delete(o.records, key) }})
		return false
	})
	return ops
}

// expectOffers records the nodes that were live at the last exchange before the store lost its data. They may have
// later changes than this node, and will write them. The caller holds mu, and has not recorded the new exchange yet.
func (n *Node) expectOffers(now time.Time) {
	if n.offering == nil {
		n.offering = map[string]struct{}{}
	}
	for id, p := range n.nodes {
		if id != n.cfg.ID && !p.Left && p.Epoch != "" && n.syncedAt.Sub(p.seen) <= n.liveTime() {
			n.offering[id] = struct{}{}
		}
	}
	n.offerBy = now.Add(n.liveTime())
}

// mayOffer reports whether another node may still restore changes that the store has lost. While it returns true, this
// node writes no change of its own: the store could not detect a conflict with a lost change, and this node's change
// would replace the lost one. The wait ends when each other node has reported that it has restored all its records, or
// after liveTime. The caller holds mu.
func (n *Node) mayOffer(now time.Time) bool {
	if len(n.offering) > 0 && !now.Before(n.offerBy) {
		clear(n.offering)
	}
	maps.DeleteFunc(n.offering, func(id string, _ struct{}) bool {
		p := n.nodes[id]
		return p == nil || p.Left || p.Epoch == n.epoch
	})
	return len(n.offering) > 0
}

// offerLostRecords makes this node write the records that the store has lost. Other nodes write the same records with
// the same times, so the store keeps the first copy of each record. Records that are left from an earlier loss are
// still offered. The caller holds mu.
func (n *Node) offerLostRecords() {
	for _, r := range n.bans {
		n.offers.add(r)
	}
	for _, r := range n.trail {
		if r.Rev > 0 { // the other entries are in n.events, which repeats them
			n.offers.add(r)
		}
	}
	for _, p := range n.proxies {
		if p.open {
			n.offers.add(p.record)
		}
		p.rev, p.sentAt = 0, time.Time{}
	}
	for _, r := range n.changes.resetRevisions() {
		n.offers.add(r)
	}
	n.offers.sort(n.cfg.ID)
	n.lastBeat = time.Time{}
}
