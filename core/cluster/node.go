package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// The times of exchanges.
const (
	minExchange  = 50 * time.Millisecond  // shortest time between two exchanges
	idleExchange = 100 * time.Millisecond // time between exchanges of a node with nothing to send; see pollTime
	longestIdle  = 400 * time.Millisecond
	firstRetry   = 100 * time.Millisecond // time until a failed exchange is repeated; it doubles
	longestRetry = 2 * time.Second
)

// The times of nodes.
const (
	beatEvery = time.Second // shortest time between the records by which a node shows that it is alive; see beatTime
	listedFor = time.Minute // time for which a node that ended without notice stays in Status.Nodes
)

// The limits of one exchange.
const (
	maxOps     = 2000
	maxRecords = 2000
)

// The constants are the first parts of the keys of records. The comment after a constant lists the other parts. The
// parts of a key are joined by separator.
const (
	nodeKey    = "n"
	viewKey    = "v" // proxy, node
	breakerKey = "b" // proxy
	banKey     = "r" // proxy, host
	targetKey  = "t" // target, node
	changeKey  = "c" // what was changed
	statsKey   = "s" // proxy
	moveKey    = "m" // session
	auditKey   = "a" // node, number

	separator = "\x1f"
)

func keyOf(parts ...string) string { return strings.Join(parts, separator) }

// Local is the gateway of a node. The parameter proxy of its methods is the key of a proxy, which is the same on all
// nodes. The methods return soon. They may call the methods of Node that report something, but not Node.Step.
type Local interface {
	// View returns the gateway's own observations of a proxy. It returns false if the gateway does not have the proxy.
	View(proxy string) (v View, ok bool)
	// Why returns the evidence against a proxy in words; "" if there is none.
	Why(proxy string) string
	// Open opens the breaker of a proxy for the time d. If the breaker is open already, it changes the open time to
	// d.
	Open(proxy string, d time.Duration, why string)
	// Close closes the breaker of a proxy, because a probe of another node has succeeded.
	Close(proxy string)
	// Reset resets the breaker of a proxy.
	Reset(proxy string)
	// Probing reports whether the probe of a half-open breaker is in flight.
	Probing(proxy string) bool
	// ProbeTime returns the maximum duration of a probe.
	ProbeTime() time.Duration
	// Load returns what the gateway has done lately.
	Load() Load

	// Ban bans a proxy for a host ("" for all hosts) for the time d. A ban that already exists and ends later stays
	// as it is. Ban returns the remaining time of the ban; 0 if the gateway does not have the proxy. EndBan ends a
	// ban.
	Ban(proxy, host string, d time.Duration) time.Duration
	EndBan(proxy, host string)

	// Suspects returns the suspect targets, at most n. Suspect makes a target suspect.
	Suspects(n int) []string
	Suspect(target string)

	// EachStats calls f for at most n proxies whose statistics have changed since the last call. Seed sets the
	// statistics of a proxy that this gateway has not used yet.
	EachStats(n int, f func(proxy string, s Stats))
	Seed(proxy string, s Stats)

	// Move makes a session use another proxy, because a request at another node has moved it.
	Move(m Move)

	// Apply makes changes that other nodes have made. It keeps the order of changes with the same key. It returns an
	// error for each change; nil if the change was made. Change.Redo is nil in these changes.
	Apply(made []Change) []error

	// Audited reports an entry of the audit trail that another node has added.
	Audited(e AuditEntry)
}

// View is what one gateway has observed at a proxy.
type View struct {
	Failures  int           // in the breaker's window
	Threshold int           // failures that open the breaker
	Evidence  float64       // against the proxy, in nats; 0 if it does not fail
	Needed    float64       // evidence that opens the breaker, in nats
	Failing   time.Duration // time since the first of the failures; 0 if it does not fail
	Served    time.Duration // time since the last success; negative if there was none
	Open      bool          // the gateway's own evidence has opened its breaker
	OpenFor   time.Duration // remaining open time or, for a closed breaker, the time for which it would open
}

// Stats are the statistics of a proxy.
type Stats struct {
	SuccessRate float64       `json:"r"` // 0 to 1
	Samples     int           `json:"n"`
	Latency     time.Duration `json:"l"` // mean of the successes
}

// LoadWindow is the period of the requests that a Load counts.
const LoadWindow = 5 * time.Minute

// Load is what a gateway has done lately, and the state of its pool.
type Load struct {
	Tried     int    `json:"tried"`       // proxies through which there was an attempt within the last minute
	Requests  uint64 `json:"q,omitempty"` // requests within LoadWindow, as are Delivered and Refused
	Delivered uint64 `json:"d,omitempty"` // requests that succeeded
	Refused   uint64 `json:"f,omitempty"` // of Delivered, with status 403 or 429
	Attempts  uint64 `json:"at,omitempty"`
	Retries   uint64 `json:"y,omitempty"`
	Proxies   int    `json:"p,omitempty"`
	InService int    `json:"s,omitempty"` // with a closed breaker; neither draining nor banned nor unreached
	Uploads   int    `json:"u,omitempty"` // shared uploads that the gateway cannot have
}

// Config holds the settings and parts of a node.
type Config struct {
	Name    string // name of the cluster
	Node    string // name of the node
	ID      string // different for each process, even if two processes have the same Node
	Version string // of the program
	Address string // of the API, to be shown
	Host    string // name of the machine, to be shown
	Store   Store
	Timeout time.Duration // longest time of an exchange
	Now     func() time.Time
	Log     *slog.Logger
}

// DefaultTimeout is the usual Config.Timeout.
const DefaultTimeout = 500 * time.Millisecond

// Node is a member of a cluster. It is safe for concurrent use. Attach completes it.
type Node struct {
	cfg   Config
	local Local
	inbox inbox
	wake  chan struct{} // has an element if there is something to send to the store

	mu           sync.Mutex // held while an exchange is prepared and evaluated, not during it
	epoch        string
	cursor       int64
	started      time.Time
	hasReached   bool      // the store has responded at least once
	alone        bool      // the last exchange failed
	aloneAt      time.Time // when alone became true
	failed       int       // failed exchanges in a row
	problem      string    // error of the last failed exchange
	syncedAt     time.Time // the time of the store's clock at the last exchange
	localAt      time.Time // the time of this node's clock when that exchange ended
	exchangeTime time.Duration
	lastBeat     time.Time
	lastSlow     time.Time // time of the last shareSlowly
	lastStats    time.Time
	catching     bool // more records have changed than the last reply could hold
	fresh        bool // all records received so far are from before this node's first exchange
	nodes        map[string]*peer
	proxies      map[string]*proxy
	active       map[string]struct{} // the proxies that fail for a node, and whose breaker is not open for the cluster
	results      []pending           // results of probes
	bans         map[string]Record   // records of bans, as the store has them
	suspects     map[string]map[string]time.Time
	stats        map[string]knownStats
	events       events
	moves        events            // of sessions
	trail        map[string]Record // the audit trail, by key
	audited      int               // entries that this process has added to it
	draining     bool
	warned       map[string]struct{} // nodes with the name of this one that the log has named, by ID

	trailVersion uint64 // see AuditVersion
	dropping     bool   // an event was dropped since the store could be reached
	offers       offers
	offered      string              // epoch of the store for which this node has written again what was lost
	offering     map[string]struct{} // other nodes that may write again what was lost, by ID; see mayOffer
	offerBy      time.Time           // when the wait for them ends
	waiters      []chan struct{}     // channels of calls of Reset that wait; closed when the store has all events
	counts       Counts

	changes changes
	sharing sharing
}

// Counts are the counters of a node since its start.
type Counts struct {
	Exchanges uint64 // exchanges that succeeded
	Failures  uint64 // exchanges that failed
	Alone     uint64 // times that the node went on alone
	Sent      uint64 // operations sent to the store
	Received  uint64 // records received from the store
	Dropped   uint64 // events that were not shared, because more than maxEvents waited
	Opened    uint64 // breakers that this node opened for the cluster
	Followed  uint64 // breakers that opened here because the cluster opened them
	Leases    uint64 // leases of probes that this node got
	Fenced    uint64 // results of probes that came after the end of their lease
}

// peer is a node as its record shows it.
type peer struct {
	heartbeat
	id       string
	seen     time.Time // time of the record, by the store's clock
	since    time.Time // time of the first record of those without a gap, by the store's clock
	isolated bool      // see Node.trustedNodes
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
	// Draining is set while the node ends. A new process may have its name by then.
	Draining bool   `json:"draining,omitempty"`
	Epoch    string `json:"epoch"` // see Node.offered; "" in the first record
	Load
}

// pending is an operation of an exchange. The function done is called with the operation's result. If the exchange
// fails, the function failed is called instead. Both may be nil. They are called with Node.mu held.
type pending struct {
	op           Op
	done         func(result int64)
	failed       func()             // the exchange failed
	onShareReply func(r ShareReply) // in place of done, of an operation Share
}

// New returns a node that has not exchanged anything yet.
func New(cfg Config) *Node {
	n := &Node{
		cfg: cfg, wake: make(chan struct{}, 1), started: cfg.Now(), fresh: true,
		nodes: map[string]*peer{}, proxies: map[string]*proxy{}, active: map[string]struct{}{},
		bans:     map[string]Record{},
		suspects: map[string]map[string]time.Time{}, stats: map[string]knownStats{}, trail: map[string]Record{},
		warned: map[string]struct{}{},
	}
	n.alone, n.aloneAt = true, n.started // until the first exchange
	n.inbox.alone, n.inbox.aloneAt, n.inbox.gates = true, n.started, map[string]*gate{}
	n.changes.init()
	return n
}

// Name returns the node's name.
func (n *Node) Name() string { return n.cfg.Node }

// Attach sets the gateway of the node. It must be called before Run and Step.
func (n *Node) Attach(l Local) { n.local = l }

// Run exchanges data with the store until ctx ends. Then it tells the other nodes that this node leaves the cluster.
func (n *Node) Run(ctx context.Context) {
	defer n.cfg.Store.Close()
	defer n.announceLeave()
	for ctx.Err() == nil {
		wait, interruptible := n.Step(ctx)
		first := min(wait, minExchange)
		pause(ctx, first, nil)
		if interruptible {
			pause(ctx, wait-first, n.wake)
		} else {
			pause(ctx, wait-first, nil)
		}
	}
}

// pause waits for the time d, until ctx ends, or until wake has an element.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}

// notify ends the wait of Run.
func (n *Node) notify() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Step makes one exchange, and returns the time until the next one. If interruptible is set, the next exchange may
// begin earlier, when the node has something to send.
func (n *Node) Step(ctx context.Context) (wait time.Duration, interruptible bool) {
	batch, ops := n.prepareExchange()
	sent := n.cfg.Now()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Timeout)
	defer cancel()
	reply, err := n.cfg.Store.Exchange(ctx, batch)
	if err == nil && len(reply.Results) != len(ops) {
		err = fmt.Errorf("the store gave %d results for %d operations", len(reply.Results), len(ops))
	}
	if err != nil {
		wait = n.recordFailure(err, ops)
		n.makeChanges()
		return wait, false
	}
	wait = n.applyReply(&reply, ops, sent)
	if n.makeChanges() {
		wait = 0
	}
	return wait, true
}

// prepareExchange returns the operations of the next exchange.
func (n *Node) prepareExchange() (Batch, []pending) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.cfg.Now()
	var ops []pending
	n.takeInbox(now)
	if now.Sub(n.lastBeat) >= n.beatTime() {
		ops = append(ops, n.heartbeatOp(now, false))
	}
	if !n.alone {
		ops = n.shareBreakers(ops, now)
		ops = n.shareSlowly(ops, now)
	}
	ops = n.prepareChanges(ops, now)
	ops = n.addShareRequests(ops, now)
	ops = n.events.send(ops, now)
	ops = n.shareMoves(ops, now)
	ops = n.offers.send(ops, n.storeTime(now))
	b := Batch{Epoch: n.epoch, Cursor: n.cursor, Limit: maxRecords, Ops: make([]Op, len(ops))}
	for i := range ops {
		b.Ops[i] = ops[i].op
	}
	return b, ops
}

func (n *Node) heartbeatOp(now time.Time, left bool) pending {
	n.lastBeat = now
	b := heartbeat{Node: n.cfg.Node, Version: n.cfg.Version, Address: n.cfg.Address, Host: n.cfg.Host,
		Started: n.started.UTC(), Load: n.local.Load(), Alone: n.counts.Alone, Left: left, Draining: n.draining,
		Epoch: n.offered}
	return pending{op: Op{Kind: Put, Key: keyOf(nodeKey, n.cfg.ID), Value: encode(b), TTL: listedFor}}
}

// encode returns the JSON of v. The caller passes only values that can be encoded.
func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic("a record that cannot be encoded: " + err.Error())
	}
	return string(data)
}

// recordFailure records that an exchange failed. From then on the node is alone. recordFailure returns the time until
// the next exchange.
func (n *Node) recordFailure(err error, ops []pending) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Failures++
	n.failed++
	n.endWaits()
	n.problem = err.Error()
	n.lastBeat = time.Time{}
	if !n.alone {
		n.alone, n.aloneAt = true, n.cfg.Now()
		n.counts.Alone++
		n.inbox.setAlone(true, n.aloneAt)
		n.cfg.Log.Warn("the cluster's store cannot be reached: this gateway goes on alone",
			slog.String("error", n.problem))
	} else if n.failed == 1 {
		n.cfg.Log.Warn("the cluster's store cannot be reached yet: this gateway serves alone until then",
			slog.String("error", n.problem))
	}
	for _, p := range n.proxies {
		p.sentAt = time.Time{} // it is unknown whether the view has arrived
	}
	for i := range ops {
		if ops[i].failed != nil {
			ops[i].failed()
		}
	}
	wait := min(firstRetry<<min(n.failed-1, 6), longestRetry)
	return wait - time.Duration(rand.Float64()*float64(wait)/2)
}

// endWaits ends the waits of all calls of Reset. The caller holds mu.
func (n *Node) endWaits() {
	for _, c := range n.waiters {
		close(c)
	}
	n.waiters = nil
}

// applyReply evaluates the reply of an exchange that began at the time sent. It returns the time until the next
// exchange.
func (n *Node) applyReply(r *Reply, ops []pending, sent time.Time) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.cfg.Now()
	n.counts.Exchanges++
	n.counts.Sent += uint64(len(ops))
	n.counts.Received += uint64(len(r.Changed))
	previous := n.syncedAt
	lost := n.epoch != "" && r.Epoch != n.epoch
	if lost {
		n.expectOffers(now)
	}
	n.exchangeTime, n.localAt, n.syncedAt = now.Sub(sent), now, r.Now
	n.epoch, n.cursor, n.catching = r.Epoch, r.Cursor, r.More
	replies := 0
	for i := range ops {
		switch {
		case ops[i].onShareReply != nil:
			ops[i].onShareReply(r.ShareReplies[replies])
			replies++
		case ops[i].done != nil:
			ops[i].done(r.Results[i])
		}
	}
	n.sharing.reportGrowth()
	if n.events.count() == 0 {
		n.endWaits()
	}
	if lost {
		n.cfg.Log.Warn("the cluster's store has lost data: this gateway writes again what it has")
		n.offerLostRecords()
		n.sharing.reportAllAgain()
	}
	for i := range r.Changed {
		n.applyRecord(&r.Changed[i], previous)
	}
	if !r.More {
		n.fresh = false
	}
	if n.offers.count() == 0 && n.offered != n.epoch {
		if n.offered != "" {
			n.lastBeat = time.Time{} // the others wait for it
		}
		n.offered = n.epoch
	}
	n.failed = 0
	if n.alone && !r.More {
		n.endAlone(now)
	}
	switch {
	case r.More:
		return 0
	case n.offers.count() > 0 || n.sharing.wantsMore:
		return minExchange
	}
	return n.pollTime()
}

// endAlone ends the time in which the node was alone. The caller holds mu.
func (n *Node) endAlone(now time.Time) {
	if n.hasReached {
		n.cfg.Log.Info("the cluster's store can be reached again",
			slog.Duration("after", now.Sub(n.aloneAt).Round(time.Millisecond)))
	} else {
		n.cfg.Log.Info("this gateway is a node of a cluster", slog.String("cluster", n.cfg.Name),
			slog.String("node", n.cfg.Node), slog.Int("nodes", len(n.liveNodes())))
	}
	n.alone, n.aloneAt, n.problem, n.hasReached, n.dropping = false, now, "", true, false
	n.inbox.setAlone(false, now)
	n.sharing.endEqualShares()
}

// storeTime converts a time of this node's clock to a time of the store's clock. The caller holds mu.
func (n *Node) storeTime(now time.Time) time.Time { return n.syncedAt.Add(now.Sub(n.localAt)) }

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

// beatTime returns the time between two beats of a node, the records that show that it is alive. It grows with the
// number of nodes, because each node reads the records of all nodes. The caller holds mu.
func (n *Node) beatTime() time.Duration {
	return max(time.Duration(len(n.nodes))*10*time.Millisecond, beatEvery)
}

// liveTime returns the maximum age of a node's record (beat) at which the node counts as alive. The caller holds mu.
func (n *Node) liveTime() time.Duration { return 3*n.beatTime() + time.Second }

// pollTime returns the time between two exchanges of a node that has nothing to send. It grows with the number of
// nodes, so that the store serves a limited number of exchanges. The caller holds mu.
func (n *Node) pollTime() time.Duration {
	return min(max(time.Duration(len(n.nodes))*1500*time.Microsecond, idleExchange), longestIdle)
}

// applyRecord takes over a record of the store. The parameter previous is the store's time at the previous exchange.
// The caller holds mu.
func (n *Node) applyRecord(r *Record, previous time.Time) {
	n.offers.received(r)
	parts := strings.Split(r.Key, separator)
	switch {
	case parts[0] == nodeKey && len(parts) == 2:
		n.receiveNode(parts[1], r)
	case parts[0] == viewKey && len(parts) == 3:
		n.receiveView(parts[1], parts[2], r)
	case parts[0] == breakerKey && len(parts) == 2:
		n.receiveBreaker(parts[1], r, previous)
	case parts[0] == banKey && len(parts) == 3:
		n.receiveBan(parts[1], parts[2], r)
	case parts[0] == targetKey && len(parts) == 3:
		n.receiveTarget(parts[1], parts[2], r)
	case parts[0] == statsKey && len(parts) == 2:
		n.receiveStats(parts[1], r)
	case parts[0] == moveKey && len(parts) == 2:
		n.receiveMove(parts[1], r)
	case parts[0] == auditKey && len(parts) == 3:
		n.receiveAudit(parts[1], r)
	case parts[0] == changeKey && len(parts) > 1:
		n.receiveChange(r)
	}
}

func (n *Node) receiveNode(id string, r *Record) {
	var b heartbeat
	if json.Unmarshal([]byte(r.Value), &b) != nil {
		return
	}
	if n.nodes[id] == nil && id != n.cfg.ID && !n.fresh && !b.Left {
		n.cfg.Log.Info("a node of the cluster has come", slog.String("node", b.Node))
	}
	if b.Left && n.nodes[id] != nil && !n.nodes[id].Left && id != n.cfg.ID {
		n.cfg.Log.Info("a node of the cluster has left", slog.String("node", b.Node))
	}
	p := &peer{heartbeat: b, id: id, seen: r.At, since: r.At}
	if old := n.nodes[id]; old != nil {
		p.isolated = old.isolated
		if r.At.Sub(old.seen) <= n.liveTime() {
			p.since = old.since
		}
	}
	n.nodes[id] = p
}

// offerLostRecords makes this node write the records that the store has lost. Other nodes write the same records with
// the same times, so the store keeps the first copy of each record. Records that are left from an earlier loss are
// still offered. The caller holds mu.
func (n *Node) offerLostRecords() {
	for _, r := range n.bans {
		n.offers.add(r)
	}
	for _, r := range n.trail {
		if r.Rev > 0 { // the others wait among the events
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
