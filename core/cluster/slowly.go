package cluster

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"time"
)

// The times of the data that shareSlowly shares.
const (
	slowEvery  = time.Second
	statsEvery = 10 * time.Second
	suspectFor = 5 * time.Second // time after which the report of a suspect target ends
	statsFor   = time.Hour
	// refreshStats is the time after which statistics are written again although they have not changed much.
	refreshStats = statsFor / 2
	banSlack     = time.Second // ends of a ban that differ by less count as equal
	banEndFor    = 24 * time.Hour
)

// The limits on the data that shareSlowly shares.
const (
	maxSuspects = 1000
	maxStats    = 1000
)

// shareSlowly adds to ops the operations for data that is shared once a second or less often. Its caller holds mu, as
// do the callers of all methods of Node below.
func (n *Node) shareSlowly(ops []pending, now time.Time) []pending {
	if now.Sub(n.lastSlow) < slowEvery {
		return ops
	}
	n.lastSlow = now
	at := n.storeTime(now)
	maps.DeleteFunc(n.nodes, func(_ string, p *peer) bool {
		return at.Sub(p.seen) > listedFor || p.Left && at.Sub(p.seen) > beatEvery
	})
	maps.DeleteFunc(n.bans, func(_ string, r Record) bool { return r.Ended(at) })
	n.expireBreakers(at)
	n.warnOfTwins()
	ops = n.shareTargets(ops, at)
	if now.Sub(n.lastStats) >= statsEvery {
		n.lastStats = now
		n.changes.removeEnded(at)
		n.expireAudits(at)
		maps.DeleteFunc(n.stats, func(_ string, k knownStats) bool { return now.Sub(k.at) >= refreshStats })
		n.local.EachStats(maxStats, func(proxy string, s Stats) {
			if known, held := n.stats[proxy]; !held || s.differs(known.Stats) {
				n.stats[proxy] = knownStats{s, now}
				op := Op{Kind: Put, Key: keyOf(statsKey, proxy), Value: encode(s), TTL: statsFor}
				ops = append(ops, pending{op: op})
			}
		})
	}
	return ops
}

// knownStats are the statistics of a proxy as the store has them.
type knownStats struct {
	Stats
	at time.Time // when this node wrote or read the statistics, by its clock
}

// differs reports whether s differs from known so much that the other nodes need s.
func (s Stats) differs(known Stats) bool {
	return math.Abs(s.SuccessRate-known.SuccessRate) > 0.1 ||
		math.Abs(s.Latency.Seconds()-known.Latency.Seconds()) > 0.25*known.Latency.Seconds()
}

func (n *Node) receiveStats(proxy string, r *Record) {
	var s Stats
	if json.Unmarshal([]byte(r.Value), &s) != nil || s.Samples <= 0 || s.Latency < 0 ||
		!(s.SuccessRate >= 0 && s.SuccessRate <= 1) {
		return
	}
	n.stats[proxy] = knownStats{s, n.cfg.Now()}
	n.local.Seed(proxy, s)
}

// targetReport is the record in which a node reports a target. Without Served, the node suspects the target. With
// Served, an attempt of the node has succeeded at the target, although another node suspects it.
type targetReport struct {
	Served  bool `json:"served,omitempty"`
	Failing bool `json:"failing,omitempty"` // no attempt of the node has succeeded lately, at any target

	ends time.Time // of the store's clock
}

// shareTargets adds the reports of this node's suspect targets to ops. It also reports the suspect targets of other
// nodes at which this node succeeds.
func (n *Node) shareTargets(ops []pending, at time.Time) []pending {
	for target, nodes := range n.suspects {
		maps.DeleteFunc(nodes, func(_ string, r targetReport) bool { return !at.Before(r.ends) })
		if len(nodes) == 0 {
			delete(n.suspects, target)
		}
	}
	report := func(target string, r targetReport) {
		r.ends = at.Add(suspectFor)
		n.addReport(target, n.cfg.ID, r)
		key := keyOf(targetKey, target, n.cfg.ID)
		ops = append(ops, pending{op: Op{Kind: Put, Key: key, Value: encode(r), TTL: suspectFor}})
	}
	own := n.local.Suspects(maxSuspects)
	for _, target := range own {
		report(target, targetReport{Failing: !n.local.Succeeds("")})
	}
	for _, target := range slices.Sorted(maps.Keys(n.suspects)) {
		suspecting, serving := 0, 0
		for id, r := range n.suspects[target] {
			switch {
			case id == n.cfg.ID:
			case r.Served:
				serving++
			default:
				suspecting++
			}
		}
		if suspecting > 0 && serving < enoughViews && len(ops) < maxOps && !slices.Contains(own, target) &&
			n.local.Succeeds(target) {
			report(target, targetReport{Served: true})
		}
	}
	return ops
}

// failingNodes returns the IDs of the nodes that succeed at no target, and suspect a target at which a live node
// succeeds.
func (n *Node) failingNodes(live []*peer) map[string]bool {
	var out map[string]bool
	for _, nodes := range n.suspects {
		if !slices.ContainsFunc(live, func(p *peer) bool { return nodes[p.id].Served }) {
			continue
		}
		for id, r := range nodes {
			if r.Failing {
				if out == nil {
					out = map[string]bool{}
				}
				out[id] = true
			}
		}
	}
	return out
}

func (n *Node) addReport(target, node string, r targetReport) {
	if n.suspects[target] == nil {
		n.suspects[target] = map[string]targetReport{}
	}
	n.suspects[target][node] = r
}

// receiveTarget takes over the report of a target. A suspect target becomes suspect here if at least two other live
// nodes report it, or if the only other live node reports it. Reports of isolated nodes do not count.
func (n *Node) receiveTarget(target, node string, r *Record) {
	var report targetReport
	if node == n.cfg.ID || json.Unmarshal([]byte(r.Value), &report) != nil {
		return
	}
	report.ends = r.Ends
	n.addReport(target, node, report)
	if report.Served {
		return
	}
	count, live := 0, n.liveNodes()
	for _, p := range live {
		r, reports := n.suspects[target][p.id]
		if reports && !r.Served && p.id != n.cfg.ID && !p.isolated {
			count++
		}
	}
	if count >= min(2, len(live)-1) && count > 0 {
		n.local.Suspect(target)
	}
}

// banRecord is the record of a ban. The ban begins at the time of the record (Record.At).
type banRecord struct {
	For int64  `json:"for"` // ms; 0 if the ban was ended
	By  string `json:"by"`
}

// ban reports a ban or the end of a ban to the other nodes, unless the store already has a record of it.
func (n *Node) ban(b banned) {
	key := keyOf(banKey, b.proxy, b.host)
	d := max(b.until.Sub(b.at), 0)
	if r, held := n.bans[key]; held {
		known, ok := banOf(&r)
		end := r.At.Add(time.Duration(known.For) * time.Millisecond)
		switch {
		case !ok:
		case d == 0 && known.For == 0:
			return
		case d > 0 && known.For > 0 && n.storeTime(b.at).Add(d).Sub(end).Abs() < banSlack:
			return
		}
	}
	ttl := d
	if d == 0 {
		ttl = banEndFor
	}
	value := encode(banRecord{d.Milliseconds(), n.cfg.Node})
	n.report(event{op: Op{Kind: Put, Key: key, Value: value, TTL: ttl}, at: b.at})
}

func banOf(r *Record) (b banRecord, ok bool) {
	err := json.Unmarshal([]byte(r.Value), &b)
	return b, err == nil && b.For >= 0
}

func (n *Node) receiveBan(proxy, host string, r *Record) {
	b, ok := banOf(r)
	if !ok {
		return
	}
	n.bans[r.Key] = *r
	if b.For == 0 {
		n.local.EndBan(proxy, host)
		return
	}
	now := n.cfg.Now()
	remaining := r.At.Add(time.Duration(b.For) * time.Millisecond).Sub(n.storeTime(now))
	if remaining <= 0 {
		return
	}
	if longer := n.local.Ban(proxy, host, remaining); longer > remaining+banSlack { // the ban that ends later counts
		n.ban(banned{proxy, host, now.Add(longer), now})
	}
}
