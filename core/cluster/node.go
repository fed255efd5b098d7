package cluster

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/share"
)

// The times of exchanges.
const (
	minExchange  = 50 * time.Millisecond  // shortest time between two exchanges that are not urgent
	idleExchange = 100 * time.Millisecond // time between exchanges of a node with nothing to send; see pollTime
	longestIdle  = 400 * time.Millisecond
	firstRetry   = 100 * time.Millisecond // time until a failed exchange is repeated; doubles after each failure
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
	changeKey  = "c" // key of the change (Change.Key)
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
	// Load returns the load of the gateway.
	Load() Load

	// Ban bans a proxy for a host ("" for all hosts) for the time d. A ban that already exists and ends later stays
	// as it is. Ban returns the remaining time of the ban; 0 if the gateway does not have the proxy. EndBan ends a
	// ban.
	Ban(proxy, host string, d time.Duration) time.Duration
	EndBan(proxy, host string)

	// Suspects returns the suspect targets, at most n. Suspect makes a target suspect. Succeeds reports whether an
	// attempt has succeeded at a target within the last 10 s; "" for any target.
	Suspects(n int) []string
	Suspect(target string)
	Succeeds(target string) bool

	// EachStats calls f for at most n proxies whose statistics have changed since the last call. Seed sets the
	// statistics of a proxy that this gateway has not used yet.
	EachStats(n int, f func(proxy string, s Stats))
	Seed(proxy string, s Stats)

	// Learn reports the latest failures of a proxy on other nodes. When a proxy is chosen, they count like failures of
	// this gateway, until an attempt through the proxy succeeds here. The zero value ends that.
	Learn(proxy string, f Failures)

	// Move makes a session use another proxy, because a request at another node has moved it.
	Move(m Move)

	// Apply makes changes that other nodes have made. It keeps the order of changes with the same key. It returns an
	// error for each change; nil if the change was made. Change.Redo is nil in these changes.
	Apply(made []Change) []error

	// SetStoreTime reports that the store's clock showed the time store when the gateway's clock showed local. The
	// days of limits begin by the store's clock.
	SetStoreTime(local, store time.Time)

	// Audited reports an entry of the audit trail that another node has added.
	Audited(e AuditEntry)
}

// View holds the observations of one gateway at a proxy.
type View struct {
	Failures  int           // in the breaker's window
	Threshold int           // failures that open the breaker
	Evidence  float64       // against the proxy, in nats; 0 if the proxy does not fail
	Needed    float64       // evidence that opens the breaker, in nats
	Failing   time.Duration // time since the first of the failures; 0 if the proxy does not fail
	Served    time.Duration // time since the last success; negative if there was none
	Open      bool          // the gateway's own evidence has opened the breaker
	OpenFor   time.Duration // remaining open time or, for a closed breaker, the time for which it would open

	InARow     int           // failures since the last success, also those that a target may have caused
	Streak     int           // those of them that are in the statistics
	LastFailed time.Duration // time since the last of them, if InARow is not 0
}

// Failures are the latest failures of a proxy on other nodes.
type Failures struct {
	Number int           // failures in a row
	Since  time.Duration // time since the last of them
	// Avoid is set if all nodes together have so many failures in a row that a breaker might open. Until it opens or a
	// node contradicts, the proxy should get no attempt that another one can get.
	Avoid bool
}

// Stats are the statistics of a proxy.
type Stats struct {
	SuccessRate float64       `json:"r"` // 0 to 1
	Samples     int           `json:"n"`
	Latency     time.Duration `json:"l"` // mean of the successes
}

// LoadWindow is the period of the requests that a Load counts.
const LoadWindow = 5 * time.Minute

// Load holds counts of the latest requests of a gateway, and the state of its pool.
type Load struct {
	Tried     int    `json:"tried"`       // proxies through which there was an attempt within the last minute
	Requests  uint64 `json:"q,omitempty"` // requests within LoadWindow; Delivered and Refused count parts of them
	Delivered uint64 `json:"d,omitempty"` // requests that succeeded
	Refused   uint64 `json:"f,omitempty"` // of Delivered, with status 403 or 429
	Attempts  uint64 `json:"at,omitempty"`
	Retries   uint64 `json:"y,omitempty"`
	Proxies   int    `json:"p,omitempty"`
	InService int    `json:"s,omitempty"` // with a closed breaker; neither draining nor banned nor unreached
	Uploads   int    `json:"u,omitempty"` // shared uploads that have failed on the gateway (UploadFailed)
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
	hurry chan struct{} // has an element if that is urgent

	mu           sync.Mutex // held while an exchange is prepared and evaluated, not during the exchange
	epoch        string
	cursor       int64
	started      time.Time
	hasReached   bool      // the store has responded at least once
	alone        bool      // the last exchange failed
	aloneAt      time.Time // when alone became true
	failed       int       // failed exchanges in a row
	problem      string    // error of the last failed exchange
	onlyTimeouts bool      // each of the failed exchanges in a row has timed out
	syncedAt     time.Time // the time of the store's clock at the last exchange
	localAt      time.Time // the time of this node's clock when that exchange ended
	exchangeTime time.Duration
	days         share.DayClock // of the last Local.SetStoreTime
	sentAt       time.Time      // when the last exchange with operations began
	wasIsolated  bool           // as the log has it, see logIsolation
	isolatedAt   time.Time      // when the log got that; zero before
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
	stats        map[string]knownStats
	events       events
	moves        events            // of sessions
	trail        map[string]Record // the audit trail, by key
	audited      int               // entries that this process has added to the audit trail
	draining     bool
	warned       map[string]struct{} // IDs of the nodes with the name of this node that the log has named (warnOfTwins)

	// suspects are the reports of targets, by target and ID of the node.
	suspects map[string]map[string]targetReport

	trailVersion uint64 // see AuditVersion
	dropping     bool   // an event was dropped since the store could be reached
	offers       offers
	offered      string              // epoch of the store for which this node has written the lost records again
	offering     map[string]struct{} // IDs of the other nodes that may still write lost records again; see mayOffer
	offerBy      time.Time           // when the wait for the nodes in offering ends
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

// New returns a node that has not exchanged anything yet.
func New(cfg Config) *Node {
	n := &Node{
		cfg: cfg, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), started: cfg.Now(), fresh: true,
		nodes: map[string]*peer{}, proxies: map[string]*proxy{}, active: map[string]struct{}{},
		bans:     map[string]Record{},
		suspects: map[string]map[string]targetReport{}, stats: map[string]knownStats{}, trail: map[string]Record{},
		warned: map[string]struct{}{},
	}
	n.alone, n.aloneAt = true, n.started // alone until the first exchange
	n.inbox.alone, n.inbox.aloneAt, n.inbox.gates = true, n.started, map[string]*gate{}
	n.changes.init()
	return n
}

// Name returns the node's name.
func (n *Node) Name() string { return n.cfg.Node }

// Attach sets the gateway of the node. It must be called before Run and Step.
func (n *Node) Attach(l Local) { n.local = l }

// Run exchanges data with the store until ctx ends. Then it reports to the other nodes that this node leaves the
// cluster.
func (n *Node) Run(ctx context.Context) {
	defer n.cfg.Store.Close()
	defer n.announceLeave()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { n.listen(ctx) })
	for ctx.Err() == nil {
		n.takeWakes()
		wait, interruptible := n.Step(ctx)
		n.pause(ctx, wait, interruptible)
	}
}

// pause waits for the time d. If the pause is interruptible, it ends earlier if there is something to send: not before
// minExchange or, if that is urgent, at once, unless the last exchange had something to send or was urgent itself.
func (n *Node) pause(ctx context.Context, d time.Duration, interruptible bool) {
	first := min(d, minExchange)
	var hurry, wake <-chan struct{}
	if interruptible {
		wake = n.wake
		if !n.hasJustSent() {
			hurry = n.hurry
		}
	}
	if !sleep(ctx, first, hurry) {
		sleep(ctx, d-first, wake)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sentAt = n.cfg.Now()
}

// hasJustSent reports whether the last exchange that had operations or was urgent began within minExchange.
func (n *Node) hasJustSent() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cfg.Now().Sub(n.sentAt) < minExchange
}

// takeWakes empties wake and hurry. The next exchange has all that was reported before.
func (n *Node) takeWakes() {
	for _, c := range []chan struct{}{n.wake, n.hurry} {
		select {
		case <-c:
		default:
		}
	}
}

// sleep waits for the time d, until ctx ends, or until wake has an element. In the last case, it returns true.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) (woken bool) {
	if d <= 0 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
		return true
	case <-ctx.Done():
	}
	return false
}

// notify ends the wait of Run.
func (n *Node) notify() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// notifyUrgent ends the wait of Run sooner than notify.
func (n *Node) notifyUrgent() {
	n.notify()
	select {
	case n.hurry <- struct{}{}:
	default:
	}
}
