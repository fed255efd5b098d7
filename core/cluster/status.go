package cluster

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Status is the state of the cluster, as far as one node has received it.
type Status struct {
	Name, Node string
	Alone      bool          // the store cannot be reached
	Since      time.Time     // when the node joined the cluster, or became alone
	Problem    string        // why the node is alone
	Took       time.Duration // of the last exchange
	Lag        time.Duration // time since the last exchange that succeeded; negative if there was none
	Waiting    int           // events, changes and lost records that the store does not have yet
	Nodes      []NodeStatus
	Breakers   []BreakerStatus // breakers that are open for the cluster, at most maxListed
	Open       int             // number of breakers that are open for the cluster
	Suspects   []SuspectStatus // targets, at most maxListed
	Changes    []ChangeStatus  // the last change of each thing that was changed through the API
	Uploads    []UploadStatus  // states of the shared uploads on this node
	Counts     Counts

	SharesLimits            bool          // limits hold for all nodes together
	EqualShares             bool          // without the store, this node uses an equal share of each limit
	Limits                  []LimitStatus // shared limits in use, at most maxListed
	LimitsUsed, LimitsShort int           // number of shared limits in use, and of those whose share is used up here
	Parts                   ShareCounts
}

// NodeStatus is a node in a Status.
type NodeStatus struct {
	ID                     string
	Node, Version, Address string
	Host                   string // name of its machine; "" if it is not known
	Self, Live, Isolated   bool
	Twin                   bool // another live node has the same name
	Started                time.Time
	Seen                   time.Duration // age of its last record
	Alone                  uint64        // times that the node went on alone
	Load
}

// BreakerStatus is a breaker that is open for the cluster.
type BreakerStatus struct {
	Proxy string
	Due   time.Time // of this node's clock
	Why   string
	Nodes []string
	Lease bool // this node has the lease of the probe
}

// SuspectStatus is a target that nodes have found suspect.
type SuspectStatus struct {
	Target string
	Nodes  []string // nodes that report the target, sorted
}

// ChangeStatus is a change by the API.
type ChangeStatus struct {
	Key      string
	Revision int64
	At       time.Time
	Node     string // name of the node that made the change
	Waiting  bool   // the store does not have the latest change yet
}

// UploadStatus is the state of a shared upload, that is, of a plugin's module, on this node.
type UploadStatus struct {
	Name, SHA256 string
	Size         int    // of the module, in bytes; 0 for one that is to be deleted
	Deleted      bool   // the plugin is to be deleted
	State        string // UploadReady, UploadWaiting or UploadFailed
	Problem      string // why the upload is not ready; "" for none
}

// The states of a shared upload.
const (
	UploadReady   = "ready"
	UploadWaiting = "waiting" // the upload is being fetched or compiled, or will be
	UploadFailed  = "failed"  // this node could not fetch or compile the upload
)

// maxListed is the maximum length of the lists in a Status.
const maxListed = 1000

// Status returns the state of the cluster, as far as this node has received it.
func (n *Node) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.cfg.Now()
	at := n.storeTime(now)
	s := Status{
		Name: n.cfg.Name, Node: n.cfg.Node, Alone: n.alone, Since: n.aloneAt, Problem: n.problem,
		Took: n.exchangeTime, Lag: -1,
		Waiting: n.events.count() + n.moves.count() + n.offers.count() + n.changes.count(), Counts: n.counts,
	}
	if !n.localAt.IsZero() {
		s.Lag = now.Sub(n.localAt)
	}
	twins := n.twins()
	for _, p := range n.listedNodes(at) {
		age := at.Sub(p.seen)
		s.Nodes = append(s.Nodes, NodeStatus{
			ID: p.id, Node: p.Node, Version: p.Version, Address: p.Address, Self: p.id == n.cfg.ID,
			Live: !p.Left && age <= n.liveTime(), Isolated: p.isolated, Started: p.Started, Seen: age, Load: p.Load,
			Alone: p.Alone, Host: p.Host, Twin: len(twins[p.id]) > 0,
		})
	}
	leases := n.inbox.leases()
	for _, key := range slices.Sorted(maps.Keys(n.proxies)) {
		p := n.proxies[key]
		if !p.open {
			continue
		}
		if s.Open++; len(s.Breakers) < maxListed {
			s.Breakers = append(s.Breakers, BreakerStatus{Proxy: key, Why: p.Why, Nodes: p.Nodes,
				Due: now.Add(time.UnixMilli(p.Due).Sub(at)), Lease: leases[key] > 0})
		}
	}
	s.Suspects = n.suspectStatus()
	s.Limits, s.LimitsUsed, s.LimitsShort = n.limitStatus(now)
	s.SharesLimits, s.EqualShares, s.Parts = n.sharing.local != nil, n.sharing.isEqual, n.sharing.counts
	c := &n.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(c.known)) {
		if r := c.known[key]; len(s.Changes) < maxListed {
			_, waiting := c.waiting[key]
			s.Changes = append(s.Changes, ChangeStatus{key, r.Rev, r.At, nodeOfChange(&r), waiting})
		}
	}
	return s
}

// nodeOfChange returns the name of the node that made a change; "" if it is not known.
func nodeOfChange(r *Record) string {
	var made struct {
		By string `json:"by"`
	}
	if json.Unmarshal([]byte(r.Value), &made) != nil {
		return ""
	}
	return made.By
}

// suspectStatus returns the targets that this node or other live nodes have found suspect. The caller holds mu.
func (n *Node) suspectStatus() (out []SuspectStatus) {
	byTarget := map[string][]string{}
	for _, target := range n.local.Suspects(maxListed) {
		byTarget[target] = append(byTarget[target], n.cfg.Node)
	}
	live := n.liveNodes()
	for target, nodes := range n.suspects {
		for _, p := range live {
			if r, reports := nodes[p.id]; reports && !r.Served && p.id != n.cfg.ID {
				byTarget[target] = append(byTarget[target], p.Node)
			}
		}
	}
	for _, target := range slices.Sorted(maps.Keys(byTarget)) {
		if len(out) == maxListed {
			break
		}
		slices.Sort(byTarget[target])
		out = append(out, SuspectStatus{target, byTarget[target]})
	}
	return out
}

// Alone reports whether the store cannot be reached, and why.
func (n *Node) Alone() (alone bool, problem string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.alone, n.problem
}

// Epoch identifies the store's data, as in Reply.Epoch. It is "" before the first exchange.
func (n *Node) Epoch() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.epoch
}

// Live returns the number of live nodes, including this one.
func (n *Node) Live() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.liveNodes())
}
