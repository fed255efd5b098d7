package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// peer is a node as its record shows it.
type peer struct {
	heartbeat
	id       string
	seen     time.Time // time of the record, by the store's clock
	since    time.Time // time of the first record since the last gap between records, by the store's clock
	isolated bool      // see Node.trustedNodes
	failing  bool      // see Node.markFailing
}

// heartbeat is the record by which a node shows that it is alive.
type heartbeat struct {
	Node    string    `json:"node"`
	Version string    `json:"version"`
	Address string    `json:"address"`
	Host    string    `json:"host,omitempty"`
	Started time.Time `json:"started"`
	Alone   uint64    `json:"alone"` // times that the node went on alone
	Left    bool      `json:"left,omitempty"`
	// Draining is set while the node ends. During this time, a new process may already use the node's name.
	Draining bool   `json:"draining,omitempty"`
	Epoch    string `json:"epoch"` // see Node.offered; "" in the first record
	Load
}

func (n *Node) heartbeatOp(now time.Time, left bool) pending {
	n.lastBeat = now
	b := n.heartbeat()
	b.Left = left
	return pending{op: Op{Kind: Put, Key: keyOf(nodeKey, n.cfg.ID), Value: encode(b), TTL: listedFor}}
}

func (n *Node) heartbeat() heartbeat {
	return heartbeat{Node: n.cfg.Node, Version: n.cfg.Version, Address: n.cfg.Address, Host: n.cfg.Host,
		Started: n.started.UTC(), Load: n.local.Load(), Alone: n.counts.Alone, Draining: n.draining, Epoch: n.offered}
}

// listedNodes returns the nodes, sorted by name. While the store cannot be reached, the record of this node is old or
// missing. listedNodes then returns the present state of this node in its place. The caller holds mu.
func (n *Node) listedNodes(at time.Time) []*peer {
	nodes := maps.Clone(n.nodes)
	if n.alone {
		own := &peer{heartbeat: n.heartbeat(), id: n.cfg.ID, seen: at}
		if old := n.nodes[n.cfg.ID]; old != nil {
			own.isolated = old.isolated
		}
		nodes[n.cfg.ID] = own
	}
	return slices.SortedFunc(maps.Values(nodes), func(a, b *peer) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.id, b.id))
	})
}

// liveNodes returns the nodes that are alive, including this node. The caller holds mu.
func (n *Node) liveNodes() []*peer {
	now := n.storeTime(n.cfg.Now())
	var out []*peer
	for _, id := range slices.Sorted(maps.Keys(n.nodes)) {
		if p := n.nodes[id]; !p.Left && now.Sub(p.seen) <= n.liveTime() {
			out = append(out, p)
		}
	}
	return out
}

// beatTime returns the interval at which a node writes the record that shows that it is alive (heartbeat). It grows
// with the number of nodes, because each node reads the records of all nodes. The caller holds mu.
func (n *Node) beatTime() time.Duration {
	return max(time.Duration(len(n.nodes))*10*time.Millisecond, beatEvery)
}

// liveTime returns the maximum age of a node's record (heartbeat) at which the node counts as alive. The caller holds
// mu.
func (n *Node) liveTime() time.Duration { return 3*n.beatTime() + time.Second }

func (n *Node) receiveNode(id string, r *Record) {
	var b heartbeat
	if json.Unmarshal([]byte(r.Value), &b) != nil {
		return
	}
	if n.nodes[id] == nil && id != n.cfg.ID && !n.fresh && !b.Left {
		n.cfg.Log.Info("a node has joined the cluster", slog.String("node", b.Node))
	}
	if b.Left && n.nodes[id] != nil && !n.nodes[id].Left && id != n.cfg.ID {
		n.cfg.Log.Info("a node has left the cluster", slog.String("node", b.Node))
	}
	p := &peer{heartbeat: b, id: id, seen: r.At, since: r.At}
	if old := n.nodes[id]; old != nil {
		p.isolated, p.failing = old.isolated, old.failing
		if r.At.Sub(old.seen) <= n.liveTime() {
			p.since = old.since
		}
	}
	n.nodes[id] = p
}

// announceLeave reports to the other nodes that this node ends, and frees its leases.
func (n *Node) announceLeave() {
	n.mu.Lock()
	ops := append([]Op{n.heartbeatOp(n.cfg.Now(), true).op}, n.releaseShares(n.cfg.Now())...)
	for key, fence := range n.inbox.leases() {
		ops = append(ops, Op{Kind: Free, Key: keyOf(breakerKey, key), Rev: fence})
	}
	b := Batch{Epoch: n.epoch, Cursor: n.cursor, Limit: 1, Ops: ops}
	alone := n.alone
	n.mu.Unlock()
	if alone {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.Timeout)
	defer cancel()
	if _, err := n.cfg.Store.Exchange(ctx, b); err != nil {
		n.cfg.Log.Warn("the other nodes could not be informed that this node ends", slog.Any("error", err))
	}
}

// isolationLogged is the shortest time between two log records about the isolation of this node.
const isolationLogged = 10 * time.Second

// logIsolation logs that this node has become isolated, or is not isolated any more. A state that lasts for less than
// isolationLogged after a record may be left out. The caller holds mu.
func (n *Node) logIsolation(now time.Time) {
	own := n.nodes[n.cfg.ID]
	if own == nil || own.isolated == n.wasIsolated ||
		!n.isolatedAt.IsZero() && now.Sub(n.isolatedAt) < isolationLogged {
		return
	}
	n.wasIsolated, n.isolatedAt = own.isolated, now
	if own.isolated {
		n.cfg.Log.Warn("this gateway is isolated: it fails at proxies or targets that serve the other nodes of the " +
			"cluster; look at its network")
	} else {
		n.cfg.Log.Info("this gateway is not isolated any more")
	}
}
