package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// The times of views.
const (
	viewFor       = time.Minute      // time after which a view ends
	refreshView   = 20 * time.Second // time between two records of a view that does not change
	refreshServed = 3 * time.Second  // interval of the records of a view that contradicts another view
	// contradictFor is the maximum age of a success that contradicts the failures of other nodes.
	contradictFor = 10 * time.Second
	// failedFor is the time within which a failure may become evidence. It becomes evidence if its target responds
	// through another proxy.
	failedFor = time.Minute
	// probeSlack is the time for which the lease of a probe stays after the probe's end, so that the probe's result can
	// be reported.
	probeSlack = 200 * time.Millisecond
)

// enoughViews is the number of views of one kind (supporting or contradicting) that are enough for a decision. A node
// that has received so many views of a kind from other nodes need not share its own view of this kind.
const enoughViews = 8

// closedFor is the time for which the record of a closed or reset breaker stays, so that nodes that were alone
// receive it. The record of an open breaker stays for the same time after the end of its open time.
const closedFor = 24 * time.Hour

// proxy holds a node's data about one proxy that has failures or whose breaker has a record.
type proxy struct {
	views        map[string]view // views of the other nodes, by the node's ID
	mine         view
	sent         view
	sentAt       time.Time // when the view in the field sent was sent; zero if the store may not have it
	since        time.Time // when this node first had a view with failures, its own or another node's; zero without one
	swapInFlight bool      // a Swap is in flight
	failed       time.Time // when the gateway last reported a failure

	record Record // the breaker's record in the store
	rev    int64  // revision of record; 0 if there is no record, or the store has lost it
	open   bool   // the record opens the breaker and has not ended
	breakerRecord

	threshold int // failures that open the gateway's breaker

	learnt Failures // of the last Local.Learn; its Since is 0
	last   int64    // time of the last of these failures, by the store's clock, in ms
}

// view is the record of a node's view of a proxy. Times are of the store's clock, in ms since the Unix epoch.
type view struct {
	Evidence float64 `json:"e,omitempty"` // share of the evidence that opens a breaker
	Failures float64 `json:"f,omitempty"` // share of the failures that open a breaker
	Since    int64   `json:"s,omitempty"` // first failure; 0 if the proxy does not fail for the node
	Served   int64   `json:"k,omitempty"` // last success; 0 if there was none
	Open     bool    `json:"o,omitempty"` // the node's own evidence has opened its breaker
	InARow   int     `json:"n,omitempty"` // see View.InARow
	Streak   int     `json:"a,omitempty"` // see View.Streak
	Last     int64   `json:"l,omitempty"` // the last failure in a row

	rev  int64     // of the record
	ends time.Time // of the store's clock
}

// hasFailures reports whether the view has failures that are evidence against the proxy.
func (v *view) hasFailures() bool { return v.Since > 0 }

// isBad reports whether the last attempt of the node has failed, or hasFailures returns true.
func (v *view) isBad() bool { return v.hasFailures() || v.InARow > 0 }

// breakerRecord is the record of a breaker.
type breakerRecord struct {
	State string   `json:"state"`           // open, closed or reset
	Due   int64    `json:"due,omitempty"`   // end of the open time, by the store's clock, in ms
	Why   string   `json:"why,omitempty"`   // reason, if State is open
	By    string   `json:"by"`              // name of the node that wrote the record
	Nodes []string `json:"nodes,omitempty"` // names of the nodes whose views support the opening
}

const (
	stateOpen   = "open"
	stateClosed = "closed"
	stateReset  = "reset"
)

// trackProxy returns the entry of a proxy, and makes the proxy active (Node.active). The callers of trackProxy and of
// all methods of Node below hold mu.
func (n *Node) trackProxy(key string) *proxy {
	p := n.proxies[key]
	n.active[key] = struct{}{}
	if p == nil {
		p = &proxy{views: map[string]view{}}
		n.proxies[key] = p
	}
	return p
}

func (n *Node) receiveView(key, node string, r *Record) {
	var v view
	if node == n.cfg.ID || json.Unmarshal([]byte(r.Value), &v) != nil {
		return
	}
	v.rev, v.ends = r.Rev, r.Ends
	p := n.trackProxy(key)
	if r.Rev < max(p.views[node].rev, p.rev) { // a later record has come as news
		return
	}
	p.views[node] = v
}

// receiveBreaker takes over the record of a breaker. If the record is older than the previous exchange, it neither
// closes nor resets the local breaker.
func (n *Node) receiveBreaker(key string, r *Record, previous time.Time) {
	p := n.trackProxy(key)
	var rec breakerRecord
	if r.Rev <= p.rev || json.Unmarshal([]byte(r.Value), &rec) != nil {
		return
	}
	p.record, p.rev, p.breakerRecord = *r, r.Rev, rec
	p.open = rec.State == stateOpen
	n.inbox.setGate(key, p.open)
	p.views, p.sent, p.since = map[string]view{}, view{}, time.Time{}
	n.learn(key, p, n.storeTime(n.cfg.Now()))
	if p.open {
		n.followOpen(key, p)
		return
	}
	if n.fresh || r.At.Before(previous.Add(-time.Second)) {
		return // an old record, from before this node's breaker opened
	}
	if rec.State == stateReset {
		n.local.Reset(key)
	} else {
		n.local.Close(key)
	}
}

// followOpen opens the local breaker for the rest of the open time in the record.
func (n *Node) followOpen(key string, p *proxy) {
	if _, held := n.local.View(key); !held {
		return
	}
	n.counts.Followed++
	remaining := time.UnixMilli(p.Due).Sub(n.storeTime(n.cfg.Now()))
	n.local.Open(key, max(remaining, time.Millisecond), p.Why)
}

// shareTransition evaluates a transition of the local breaker. If the transition is the result of a probe, it shares
// this result with the other nodes.
func (n *Node) shareTransition(t *transition) {
	p := n.trackProxy(t.proxy)
	if !p.open || t.From != core.HalfOpen || t.To == core.HalfOpen {
		return
	}
	v, held := n.local.View(t.proxy)
	switch {
	case !held:
	case t.To == core.Closed:
		n.shareProbeResult(t, breakerRecord{State: stateClosed, By: n.cfg.Node}, closedFor)
	case t.fence > 0:
		due := n.storeTime(t.at).Add(v.OpenFor)
		n.shareProbeResult(t, breakerRecord{State: stateOpen, Due: due.UnixMilli(), Why: p.Why, By: n.cfg.Node,
			Nodes: p.Nodes},
			v.OpenFor+closedFor)
	}
}

// shareProbeResult shares the result of a probe with the other nodes. If the probe's lease has ended, the store refuses
// the result (Settle). The probe of a node that was alone had no lease: its result is shared like any other event, with
// the end of the probe as its time.
func (n *Node) shareProbeResult(t *transition, rec breakerRecord, ttl time.Duration) {
	op := Op{Kind: Put, Key: keyOf(breakerKey, t.proxy), Value: encode(rec), TTL: ttl, Urgent: n.hasNews()}
	put := event{op: op, at: t.at}
	if t.fence == 0 {
		n.report(put)
		return
	}
	op.Kind, op.Rev = Settle, t.fence
	n.results = append(n.results, pending{op: op, done: func(result int64) {
		if result > 0 {
			return
		}
		n.counts.Fenced++
		if p := n.trackProxy(t.proxy); p.open {
			n.followOpen(t.proxy, p)
		}
	}, failed: func() { n.report(put) }})
}

// shareReset shares a reset of a breaker. The record of the reset replaces all earlier records of the breaker.
func (n *Node) shareReset(key string) {
	rec := breakerRecord{State: stateReset, By: n.cfg.Node}
	n.report(event{op: Op{Kind: Void, Key: keyOf(breakerKey, key)}})
	n.report(event{op: Op{Kind: Put, Key: keyOf(breakerKey, key), Value: encode(rec), TTL: closedFor}})
	n.inbox.setGate(key, false)
}

// shareBreakers adds the operations for views, openings and leases to ops. The functions below have two parameters for
// the current time: at is the time of the store's clock, and now is the time of this node's clock.
func (n *Node) shareBreakers(ops []pending, now time.Time) []pending {
	ops = append(ops, n.results...)
	n.results = nil
	ops = n.shareLeases(ops, now)
	at := n.storeTime(now)
	live := n.liveNodes()
	keys := slices.Sorted(maps.Keys(n.active))
	for _, key := range keys {
		n.readView(key, at, now)
	}
	n.markFailing(live)
	trusted := n.trustedNodes(live, at)
	n.logIsolation(now)
	for _, key := range keys {
		p := n.proxies[key]
		n.learn(key, p, at)
		if len(ops) < maxOps && !p.open {
			ops = n.shareView(ops, key, at, now)
			ops = n.addOpening(ops, key, trusted, at, now)
		}
		if p.open || len(p.views) == 0 && !p.mine.isBad() && !p.sent.isBad() && !p.swapInFlight &&
			now.Sub(p.failed) > failedFor {
			delete(n.active, key)
			if p.rev == 0 && !p.open { // the record of an open breaker may be lost
				delete(n.proxies, key)
			}
		}
	}
	return ops
}

// expireBreakers removes the breaker records that have ended (Record.Ended).
func (n *Node) expireBreakers(at time.Time) {
	for key, p := range n.proxies {
		if !p.record.Ended(at) {
			continue
		}
		p.open, p.rev, p.record = false, 0, Record{}
		n.inbox.setGate(key, false)
		n.trackProxy(key)
	}
}

// readView reads this node's own view of a proxy, and removes the other nodes' views that have ended.
func (n *Node) readView(key string, at, now time.Time) {
	p := n.proxies[key]
	maps.DeleteFunc(p.views, func(_ string, v view) bool { return !at.Before(v.ends) })
	if p.open {
		return
	}
	v, held := n.local.View(key)
	p.mine, p.threshold = view{}, v.Threshold
	if held && v.InARow > 0 && v.LastFailed < viewFor {
		p.mine.InARow, p.mine.Streak, p.mine.Last = v.InARow, v.Streak, at.Add(-v.LastFailed).UnixMilli()
	}
	if held && v.Served >= 0 {
		p.mine.Served = at.Add(-v.Served).UnixMilli()
	}
	if held && v.Failing > 0 {
		p.mine.Since = at.Add(-v.Failing).UnixMilli()
		p.mine.Evidence = roundedShare(v.Evidence, v.Needed)
		p.mine.Failures = roundedShare(float64(v.Failures), float64(v.Threshold))
		p.mine.Open = v.Open
	}
	if p.since.IsZero() && n.isFailing(p) {
		p.since = now
	} else if !n.isFailing(p) {
		p.since = time.Time{}
	}
}

// roundedShare returns x / whole, rounded down to thousandths; at most 1.
func roundedShare(x, whole float64) float64 {
	return min(float64(int(1000*x/max(whole, 1e-9)))/1000, 1)
}

// isFailing reports whether the proxy fails for at least one node.
func (n *Node) isFailing(p *proxy) bool {
	if p.mine.hasFailures() {
		return true
	}
	for _, v := range p.views {
		if v.hasFailures() {
			return true
		}
	}
	return false
}

// contradicts reports whether a view contradicts failures of other nodes that began at the time since. A view
// contradicts them if it has no failures, and its last success is neither before the time since nor longer than
// contradictFor ago.
func (v *view) contradicts(since int64, at time.Time) bool {
	return !v.hasFailures() && v.Served >= since && at.UnixMilli()-v.Served <= contradictFor.Milliseconds()
}

// firstFailure returns the time of the earliest failure in the views that support an opening; 0 if there is no such
// view.
func (p *proxy) firstFailure() int64 {
	first := p.mine.Since
	for _, v := range p.views {
		if v.hasFailures() && (first == 0 || v.Since < first) {
			first = v.Since
		}
	}
	return first
}

// shareView adds this node's view of a proxy to ops, if the other nodes do not have this view and it can change their
// decision.
func (n *Node) shareView(ops []pending, key string, at, now time.Time) []pending {
	p := n.proxies[key]
	if !n.wantsView(p, at, now) {
		return ops
	}
	p.sent, p.sentAt = p.mine, now
	op := Op{Kind: Put, Key: keyOf(viewKey, key, n.cfg.ID), Value: encode(p.mine), TTL: viewFor, Urgent: n.hasNews()}
	return append(ops, pending{op: op})
}

// wantsView reports whether shareView shares the view.
func (n *Node) wantsView(p *proxy, at, now time.Time) bool {
	supporters, opponents := 0, 0
	first := p.firstFailure()
	for _, v := range p.views {
		if v.hasFailures() {
			supporters++
		} else if v.contradicts(first, at) {
			opponents++
		}
	}
	stale := func(d time.Duration) bool { return p.sentAt.IsZero() || now.Sub(p.sentAt) >= d }
	contradicts := supporters > 0 && p.mine.contradicts(first, at) && opponents < enoughViews &&
		p.mine.Served > p.sent.Served && stale(refreshServed)
	switch {
	case p.mine.isBad():
		changed := p.mine.hasFailures() != p.sent.hasFailures() || p.sent.Open != p.mine.Open ||
			p.mine.Evidence > p.sent.Evidence || p.mine.Failures > p.sent.Failures || p.mine.hasFailedSince(&p.sent)
		return changed && (supporters < enoughViews || p.mine.Open) || stale(refreshView) || contradicts
	case p.sent.isBad():
		return true // the view that was sent last is not true any more
	}
	return contradicts
}

// trustedNodes returns the live nodes that are not isolated, by ID. It sets peer.isolated.
func (n *Node) trustedNodes(live []*peer, at time.Time) map[string]*peer {
	wrong := map[string]int{} // by node: number of its open breakers that other nodes contradict
	for key := range n.active {
		p := n.proxies[key]
		first := p.firstFailure()
		if first == 0 {
			continue
		}
		contradicted := p.mine.contradicts(first, at)
		for _, v := range p.views {
			contradicted = contradicted || v.contradicts(first, at)
		}
		if !contradicted {
			continue
		}
		if p.mine.Open {
			wrong[n.cfg.ID]++
		}
		for id, v := range p.views {
			if v.Open {
				wrong[id]++
			}
		}
	}
	out, failing := map[string]*peer{}, n.failingNodes(live)
	for _, peer := range live {
		if peer.isolated = 2*wrong[peer.id] > peer.Tried || failing[peer.id]; !peer.isolated {
			out[peer.id] = peer
		}
	}
	return out
}

// openDelay returns the time by which the opening of a breaker is delayed, so that each node can report that an attempt
// of its own has succeeded through the proxy.
func (n *Node) openDelay() time.Duration { return 2*n.pollTime() + minExchange }

// addOpening adds the opening of a proxy's breaker for the cluster to ops, if two conditions hold: all trusted nodes
// together have the evidence and the failures that open a breaker, and no trusted node contradicts the failures
// (view.contradicts).
func (n *Node) addOpening(ops []pending, key string, trusted map[string]*peer, at, now time.Time) []pending {
	p := n.proxies[key]
	first := p.firstFailure()
	if first == 0 || p.swapInFlight || n.catching {
		return ops
	}
	var evidence, failures float64
	var names []string
	add := func(id string, v *view) (contradicts bool) {
		peer := trusted[id]
		switch {
		case peer == nil:
		case v.hasFailures():
			evidence, failures = evidence+v.Evidence, failures+v.Failures
			if v.Open {
				evidence, failures = evidence+1, failures+1
			}
			names = append(names, peer.Node)
		default:
			return v.contradicts(first, at)
		}
		return false
	}
	if add(n.cfg.ID, &p.mine) {
		return ops
	}
	for id, v := range p.views {
		if add(id, &v) {
			return ops
		}
	}
	if evidence < 1 || failures < 1 || len(names) < min(2, len(trusted)) {
		return ops
	}
	if len(names) < len(trusted) && now.Sub(p.since) < n.openDelay() {
		return ops
	}
	v, held := n.local.View(key)
	if !held {
		return ops
	}
	slices.Sort(names)
	why := fmt.Sprintf("fails for %d of %d nodes: %s", len(names), len(trusted), strings.Join(names, ", "))
	if here := n.local.Why(key); here != "" {
		why += "; for " + n.cfg.Node + ": " + here
	}
	rec := breakerRecord{State: stateOpen, Due: at.Add(v.OpenFor).UnixMilli(), Why: why, By: n.cfg.Node, Nodes: names}
	p.swapInFlight = true
	return append(ops, pending{
		op: Op{Kind: Swap, Key: keyOf(breakerKey, key), Value: encode(rec), Rev: p.rev, TTL: v.OpenFor + closedFor,
			Urgent: n.hasNews()},
		done: func(result int64) {
			p.swapInFlight = false
			if result > 0 {
				n.counts.Opened++
			}
		},
		failed: func() { p.swapInFlight = false },
	})
}

// shareLeases adds to ops the requests for the leases of wanted probes. It frees the leases whose probe has not begun
// within startFor, and the leases whose probe has ended without a transition.
func (n *Node) shareLeases(ops []pending, now time.Time) []pending {
	b := &n.inbox
	b.mu.Lock()
	var wanted, unused, running []string
	for key, g := range b.gates {
		switch {
		case g.fence == 0:
			if g.asked {
				wanted = append(wanted, key)
			}
		case !now.Before(g.until):
			g.drop()
		case g.probeBegun:
			running = append(running, key)
		case !now.Before(g.start):
			unused = append(unused, key)
		}
	}
	b.mu.Unlock()
	for _, key := range running {
		if n.probeEnded(key, now) {
			unused = append(unused, key)
		}
	}
	slices.Sort(wanted)
	slices.Sort(unused)
	for _, key := range unused {
		b.mu.Lock()
		if g := b.gates[key]; g != nil && g.fence > 0 {
			ops = append(ops, pending{op: Op{Kind: Free, Key: keyOf(breakerKey, key), Rev: g.fence}})
			g.drop()
		}
		b.mu.Unlock()
	}
	ttl := startFor + n.local.ProbeTime()
	for _, key := range wanted {
		if len(ops) >= maxOps {
			break
		}
		op := Op{Kind: Acquire, Key: keyOf(breakerKey, key), Value: n.cfg.ID, Rev: n.trackProxy(key).rev, TTL: ttl}
		ops = append(ops, pending{op: op, done: func(fence int64) {
			b.mu.Lock()
			defer b.mu.Unlock()
			g := b.gates[key]
			if g == nil {
				return
			}
			g.drop()
			if fence > 0 {
				n.counts.Leases++
				g.fence, g.start, g.until = fence, now.Add(startFor), now.Add(ttl)
			}
		}})
	}
	return ops
}

// probeEnded reports whether the probe of a proxy has ended without a transition of the breaker. It returns true when
// probeSlack has passed since the first call that found the probe ended.
func (n *Node) probeEnded(key string, now time.Time) bool {
	probing := n.local.Probing(key)
	b := &n.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.gates[key]
	switch {
	case g == nil:
		return false
	case probing:
		g.endSeenAt = time.Time{}
	case g.endSeenAt.IsZero():
		g.endSeenAt = now
	default:
		return now.Sub(g.endSeenAt) >= probeSlack
	}
	return false
}
