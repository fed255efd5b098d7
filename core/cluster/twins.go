package cluster

import (
	"log/slog"
	"time"
)

// twinsAfter is the time for which two nodes with the same name must be live together before they count as twins. A
// node that starts again under its name is live together with the record of its previous process for less than this.
const twinsAfter = 10 * time.Second

// Drain reports to the other nodes that this node ends soon. After that, a new process with the name of this node does
// not count as a twin.
func (n *Node) Drain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.draining, n.lastBeat = true, time.Time{}
	n.notify()
}

// twins returns the live nodes whose name another live node has, too. The key is a node's ID, the value has the other
// nodes with its name. The caller holds mu.
func (n *Node) twins() map[string][]*peer {
	out := map[string][]*peer{}
	byName := map[string][]*peer{}
	for _, p := range n.liveNodes() {
		if p.Draining {
			continue
		}
		for _, other := range byName[p.Node] {
			if earlier(p.seen, other.seen).Sub(later(p.since, other.since)) >= twinsAfter {
				out[p.id], out[other.id] = append(out[p.id], other), append(out[other.id], p)
			}
		}
		byName[p.Node] = append(byName[p.Node], p)
	}
	return out
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// warnOfTwins logs a warning, once, for each other node that has the name of this node. The caller holds mu.
func (n *Node) warnOfTwins() {
	for _, p := range n.twins()[n.cfg.ID] {
		if _, done := n.warned[p.id]; done {
			continue
		}
		n.warned[p.id] = struct{}{}
		n.cfg.Log.Warn(
			"another gateway of the cluster has the same name: set [cluster] node to a different one on each",
			slog.String("node", p.Node), slog.String("host", p.Host), slog.String("api", p.Address),
			slog.Time("started", p.Started))
	}
}
