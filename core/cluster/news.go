package cluster

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"
)

// The times of news.
const (
	listenAgain  = time.Second // time after which a node listens again, after it has lost the store
	refusedAgain = time.Minute // the same if the store does not permit it
	// lastSlack is the difference below which two times of a last failure count as equal. They are computed anew for
	// each view, with small errors.
	lastSlack = 5 * time.Millisecond
)

// maxNewsNodes is the largest number of nodes that tell each other news (Op.Urgent). In a larger cluster, the store
// would have to send too many messages. Its nodes receive all records by their exchanges.
const maxNewsNodes = 50

// hasNews reports whether this node's urgent records are sent to the other nodes at once. The caller holds mu.
func (n *Node) hasNews() bool { return len(n.nodes) > 1 && len(n.nodes) <= maxNewsNodes }

// listen receives the news of other nodes until ctx ends.
func (n *Node) listen(ctx context.Context) {
	refused := false
	for ctx.Err() == nil {
		err := n.cfg.Store.Listen(ctx, n.receiveNews)
		wait := listenAgain
		if errors.Is(err, ErrNoNews) {
			wait = refusedAgain
			if !refused && ctx.Err() == nil {
				n.cfg.Log.Warn("the cluster's store does not permit to publish and subscribe: what other gateways "+
					"learn arrives 0.1 s later", slog.Any("error", err))
			}
			refused = true
		}
		sleep(ctx, wait, nil)
	}
}

// receiveNews takes over the records that another node has just written.
func (n *Node) receiveNews(news News) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alone || news.Epoch != n.epoch {
		return
	}
	for i := range news.Records {
		n.applyRecord(&news.Records[i], n.syncedAt)
	}
	now := n.cfg.Now()
	at := n.storeTime(now)
	for i := range news.Records {
		if key, found := viewedProxy(news.Records[i].Key); found && n.proxies[key] != nil {
			p := n.proxies[key]
			n.readView(key, at, now)
			learnt := n.learn(key, p, at)
			if !p.open && (n.wantsView(p, at, now) || learnt && p.learnt.Avoid) {
				n.notifyUrgent()
			}
		}
	}
}

// viewedProxy returns the proxy of a view's record. It returns false for another record.
func viewedProxy(key string) (proxy string, ok bool) {
	parts := strings.Split(key, separator)
	if len(parts) != 3 || parts[0] != viewKey {
		return "", false
	}
	return parts[1], true
}

// hasFailedSince reports whether the view has a failure in a row that the earlier view does not have, or has none any
// more.
func (v *view) hasFailedSince(earlier *view) bool {
	return v.Streak > earlier.Streak || v.InARow > earlier.InARow || v.InARow == 0 && earlier.InARow > 0 ||
		v.InARow > 0 && v.Last > earlier.Last+lastSlack.Milliseconds()
}

// markFailing sets peer.failing for the nodes that fail at several proxies, and at more than half of those that they
// use. The fault is probably theirs, so their failures are no news for others. The caller holds mu.
func (n *Node) markFailing(live []*peer) {
	failing := map[string]int{}
	for key := range n.active {
		for id, v := range n.proxies[key].views {
			if v.InARow > 0 {
				failing[id]++
			}
		}
	}
	for _, p := range live {
		p.failing = failing[p.id] > 1 && 2*failing[p.id] > p.Tried
	}
}

// learn tells the gateway the latest failures of other nodes at a proxy, if they have changed. It reports whether they
// have. The caller holds mu.
func (n *Node) learn(key string, p *proxy, at time.Time) (changed bool) {
	f, last := n.failuresElsewhere(p, at)
	if f == p.learnt && last <= p.last {
		return false
	}
	p.learnt, p.last = f, last
	if last > 0 {
		f.Since = max(at.Sub(time.UnixMilli(last)), 0)
	}
	n.local.Learn(key, f)
	return true
}

// failuresElsewhere returns the latest failures of other nodes at a proxy, and the time of the last one. The field
// Since of the first result is 0. Failures before the last success that this node knows of do not count. Nor do those
// of a node whose own network is probably at fault: it is isolated, it fails at most of its proxies, or its breaker is
// open although the proxy serves another node. If the proxy has just served a node, one node alone counts as one
// failure, so that a single node can do little harm. The caller holds mu.
func (n *Node) failuresElsewhere(p *proxy, at time.Time) (f Failures, last int64) {
	if p.open || len(p.views) == 0 {
		return f, 0
	}
	first, now := p.firstFailure(), at.UnixMilli()
	served, contradicted := p.mine.Served, p.mine.contradicts(first, at)
	for id, v := range p.views {
		if n.isReliable(id) {
			served = max(served, v.Served)
			contradicted = contradicted || v.contradicts(first, at)
		}
	}
	counts := func(v *view) bool {
		return v.InARow > 0 && v.Last > served && now-v.Last <= viewFor.Milliseconds() && !(v.Open && contradicted)
	}
	nodes, inARow := 0, 0
	for id, v := range p.views {
		if counts(&v) && n.isReliable(id) {
			nodes++
			f.Number += v.Streak
			inARow += v.InARow
			last = max(last, v.Last)
		}
	}
	if counts(&p.mine) {
		nodes++
		inARow += p.mine.InARow
	}
	if nodes < 2 && now-served <= contradictFor.Milliseconds() {
		f.Number = min(f.Number, 1)
	}
	f.Avoid = last > 0 && nodes >= 2 && inARow >= p.threshold
	return f, last
}

// isReliable reports whether a node is alive, and its failures are news for others. The caller holds mu.
func (n *Node) isReliable(id string) bool {
	p := n.nodes[id]
	return p != nil && !p.Left && !p.isolated && !p.failing
}
