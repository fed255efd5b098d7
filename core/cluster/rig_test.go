package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// The evidence of a failure and of a success in these tests, in nats.
const (
	failureNats = 4.4
	successNats = 1.9
	neededNats  = 13.5
)

// rig is a cluster over one Memory. It runs within testing/synctest.
type rig struct {
	t      testing.TB
	store  *Memory
	dead   map[string]bool // proxies that fail for all nodes
	nodes  []*gateway
	probes []probe // with a lease
	mu     sync.Mutex
}

// probe is a probe with a lease, from its beginning to its result or the end of the lease.
type probe struct {
	proxy, node string
	begin, end  time.Time
}

// gateway is a gateway without a network: breakers with a simple evidence.
type gateway struct {
	rig      *rig
	current  atomic.Pointer[Node] // of the present process
	name     string
	broken   atomic.Bool   // every attempt fails here
	skew     time.Duration // of its clock
	mu       sync.Mutex
	breakers map[string]*watched
	bans     map[string]time.Time
	values   map[string]string // made changes
	suspect  map[string]bool   // own
	succeeds map[string]bool   // targets at which attempts succeed; "" for any target
	told     map[string]bool   // suspect because of other nodes
	seeds    map[string]Stats
	moves    map[string]Move // learnt
	learnt   map[string]Failures
	audited  []string // entries of the audit trail of other nodes
	stop     context.CancelFunc
	done     chan struct{}
	store    *link
	onApply  func(made []Change) // called by Apply, if it is set
}

type watched struct {
	breaker.Breaker
	evidence  float64
	began     time.Time // of the failures
	served    time.Time
	byCluster bool
	used      time.Time
	tries     int
	failures  int
	streak    int
	failed    time.Time
}

// link is a node's connection to the store.
type link struct {
	Store
	mu   sync.Mutex
	err  error
	hang bool
}

func (l *link) set(err error, hang bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.hang = err, hang
}

func (l *link) Exchange(ctx context.Context, b Batch) (Reply, error) {
	l.mu.Lock()
	err, hang := l.err, l.hang
	l.mu.Unlock()
	if hang {
		<-ctx.Done()
		return Reply{}, ctx.Err()
	}
	if err != nil {
		return Reply{}, err
	}
	time.Sleep(time.Millisecond) // the round trip
	return l.Store.Exchange(ctx, b)
}

// Listen passes the news of the store while the link has no fault.
func (l *link) Listen(ctx context.Context, f func(News)) error {
	return l.Store.Listen(ctx, func(news News) {
		l.mu.Lock()
		broken := l.hang || l.err != nil
		l.mu.Unlock()
		if !broken {
			f(news)
		}
	})
}

func (l *link) Close() {}

var errCut = errors.New("connection refused")

func newRig(t testing.TB, nodes int) *rig {
	r := &rig{t: t, store: NewMemory(time.Now), dead: map[string]bool{}}
	time.Sleep(time.Second)
	_, err := r.store.Exchange(context.Background(), Batch{Limit: 1}) // begins the time without leases
	require.NoError(t, err)
	time.Sleep(time.Minute)
	for range nodes {
		r.add()
	}
	time.Sleep(3 * time.Second) // all are live
	return r
}

func (r *rig) add() *gateway {
	g := &gateway{
		rig: r, name: fmt.Sprintf("node%d", len(r.nodes)), breakers: map[string]*watched{},
		bans: map[string]time.Time{}, values: map[string]string{}, suspect: map[string]bool{},
		told: map[string]bool{}, seeds: map[string]Stats{}, store: &link{Store: r.store},
	}
	r.nodes = append(r.nodes, g)
	g.start()
	return g
}

func (g *gateway) node() *Node { return g.current.Load() }

func (r *rig) setDead(key string, dead bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead[key] = dead
}

func (r *rig) isDead(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead[key]
}

func (g *gateway) now() time.Time { return time.Now().Add(g.skew) }

var runs int

// start starts the node as a new process.
func (g *gateway) start() {
	runs++
	g.current.Store(New(Config{
		Name: "test", Node: g.name, ID: fmt.Sprint(g.name, "~", runs), Store: g.store, Timeout: DefaultTimeout,
		Now: g.now, Log: slog.New(slog.DiscardHandler),
	}))
	g.node().Attach(g)
	ctx, cancel := context.WithCancel(context.Background())
	g.stop, g.done = cancel, make(chan struct{})
	go func(node *Node, done chan struct{}) {
		defer close(done)
		node.Run(ctx)
	}(g.node(), g.done)
}

// end ends all nodes.
func (r *rig) end() {
	for _, g := range r.nodes {
		g.stop()
		<-g.done
	}
}

func (g *gateway) breaker(key string) *watched {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.breakers[key]
	if w == nil {
		w = &watched{}
		cfg := breaker.Default()
		shared := &breaker.Shared{Now: g.now, Epoch: g.now(), ProbeGate: gateOf{g}}
		w.Init(new(breaker.StateWord), &cfg, shared, breaker.OwnerOf(key, func(t core.Transition) {
			g.mu.Lock()
			if t.To == core.Open {
				w.byCluster = t.Reason == breaker.ReasonCluster
			}
			if t.To == core.Closed {
				w.evidence = 0
			}
			g.mu.Unlock()
			if t.Reason != breaker.ReasonCluster {
				g.node().Transition(key, t)
			}
		}))
		g.breakers[key] = w
	}
	return w
}

// gateOf passes the calls to the current node of a gateway, and records the probes that have a lease.
type gateOf struct{ g *gateway }

func (o gateOf) MayProbe(key string) bool { return o.g.node().MayProbe(key) }

func (o gateOf) BeginProbe(key string) (time.Time, bool) {
	until, ok := o.g.node().BeginProbe(key)
	if ok && !until.IsZero() {
		r := o.g.rig
		r.mu.Lock()
		defer r.mu.Unlock()
		r.probes = append(r.probes, probe{key, o.g.node().cfg.ID, time.Now(), until.Add(-o.g.skew)})
	}
	return until, ok
}

// try makes an attempt that takes the time d. It returns false if the breaker does not admit it.
func (g *gateway) try(key string, d time.Duration) bool {
	w := g.breaker(key)
	permit, ok := w.Acquire()
	if !ok {
		return false
	}
	node := g.node()
	time.Sleep(d)
	g.mu.Lock()
	w.used = g.now()
	w.tries++
	v := core.Success
	if g.broken.Load() || g.rig.isDead(key) {
		v = core.Failure
		w.failures++
		if w.evidence <= 0 {
			w.evidence, w.began = 0, g.now()
		}
		w.evidence += failureNats
		w.streak++
		w.failed = g.now()
	} else {
		w.streak = 0
		w.evidence = max(w.evidence-successNats, 0)
		w.served = g.now()
	}
	enough := w.evidence >= neededNats
	g.mu.Unlock()
	if permit.IsProbe() {
		g.rig.endProbe(key, node.cfg.ID)
	}
	permit.Report(v, breaker.Evidence{IsEnough: enough})
	if v == core.Failure {
		g.node().Failed(key)
	}
	return true
}

// endProbe records the end of the node's last probe of a proxy.
func (r *rig) endProbe(key, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.probes) - 1; i >= 0; i-- {
		if p := &r.probes[i]; p.proxy == key && p.node == node {
			if now := time.Now(); now.Before(p.end) {
				p.end = now
			}
			return
		}
	}
}

// requireOneProbe requires that no two probes of a proxy were valid at the same time.
func (r *rig) requireOneProbe() {
	byProxy := map[string][]probe{}
	for _, p := range r.probes {
		byProxy[p.proxy] = append(byProxy[p.proxy], p)
	}
	for _, list := range byProxy {
		slices.SortFunc(list, func(a, b probe) int { return a.begin.Compare(b.begin) })
		for i := 1; i < len(list); i++ {
			require.False(r.t, list[i].begin.Before(list[i-1].end), "%+v begins during %+v", list[i], list[i-1])
		}
	}
}

func (g *gateway) View(key string) (v View, ok bool) {
	w := g.breaker(key)
	s := w.Snapshot()
	openFor := w.OpenTime()
	g.mu.Lock()
	defer g.mu.Unlock()
	v = View{Failures: s.FailureCount, Threshold: s.Config.FailureThreshold, Needed: neededNats, Served: -1,
		Open: s.State != core.Closed && !w.byCluster, OpenFor: openFor}
	if v.Streak, v.InARow = w.streak, w.streak; w.streak > 0 {
		v.LastFailed = g.now().Sub(w.failed)
	}
	if !w.served.IsZero() {
		v.Served = g.now().Sub(w.served)
	}
	if w.evidence > 0 || v.Open {
		v.Evidence, v.Failing = w.evidence, max(g.now().Sub(w.began), time.Millisecond)
	}
	if v.Open {
		v.Evidence, v.Failures = v.Needed, v.Threshold
	}
	return v, true
}

func (g *gateway) Why(string) string { return "" }

func (g *gateway) Open(key string, d time.Duration, why string) {
	g.breaker(key).OpenForCluster(d, why)
}
func (g *gateway) Close(key string)         { g.breaker(key).CloseForCluster() }
func (g *gateway) Reset(key string)         { g.breaker(key).Reset() }
func (g *gateway) Probing(key string) bool  { return g.breaker(key).HasProbe() }
func (g *gateway) ProbeTime() time.Duration { return 11 * time.Second }

func (g *gateway) Load() (l Load) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range g.breakers {
		if !w.used.IsZero() && g.now().Sub(w.used) < time.Minute {
			l.Tried++
		}
		l.Requests += uint64(w.tries)
	}
	l.Proxies = len(g.breakers)
	return l
}

func (g *gateway) Ban(proxy, host string, d time.Duration) time.Duration {
	g.mu.Lock()
	key := keyOf(proxy, host)
	until := g.now().Add(d)
	later := until.After(g.bans[key])
	if later {
		g.bans[key] = until
	}
	longest := g.bans[key]
	g.mu.Unlock()
	if later {
		g.node().Banned(proxy, host, longest)
	}
	return longest.Sub(g.now())
}

func (g *gateway) EndBan(proxy, host string) {
	g.mu.Lock()
	delete(g.bans, keyOf(proxy, host))
	g.mu.Unlock()
	g.node().Banned(proxy, host, g.now())
}

func (g *gateway) banned(proxy, host string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.bans[keyOf(proxy, host)].Sub(g.now()), 0)
}

func (g *gateway) Suspects(int) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.suspect))
}

func (g *gateway) Succeeds(target string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.succeeds[target]
}

// succeedsAt sets the targets at which attempts of the gateway succeed.
func (g *gateway) succeedsAt(targets ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.succeeds = map[string]bool{"": len(targets) > 0}
	for _, target := range targets {
		g.succeeds[target] = true
	}
}

func (g *gateway) Suspect(target string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told[target] = true
}

func (g *gateway) EachStats(_ int, f func(string, Stats)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(g.breakers)) {
		if w := g.breakers[key]; w.tries > 0 {
			f(key, Stats{SuccessRate: 1 - float64(w.failures)/float64(w.tries), Samples: w.tries, Latency: time.Second})
		}
	}
}

func (g *gateway) Seed(proxy string, s Stats) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seeds[proxy] = s
}

// Learn keeps the failures of other nodes.
func (g *gateway) Learn(proxy string, f Failures) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.learnt == nil {
		g.learnt = map[string]Failures{}
	}
	g.learnt[proxy] = f
}

// Move keeps the session's proxy and the end of the session.
func (g *gateway) Move(m Move) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.moves == nil {
		g.moves = map[string]Move{}
	}
	g.moves[m.Session] = m
}

// move returns the last move of a session that the gateway has learnt.
func (g *gateway) move(session string) Move {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.moves[session]
}

func (g *gateway) SetStoreTime(time.Time, time.Time) {}

func (g *gateway) Audited(e AuditEntry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.audited = append(g.audited, e.Node+" "+e.Path)
}

func (g *gateway) Apply(made []Change) []error {
	if g.onApply != nil {
		g.onApply(made)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range made {
		g.values[c.Key] = c.Value
	}
	return make([]error, len(made))
}

// set changes one field of a value through the API of the gateway.
func (g *gateway) set(key, field string, to int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	do := func() (string, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		fields := map[string]int{}
		if v := g.values[key]; v != "" {
			if err := json.Unmarshal([]byte(v), &fields); err != nil {
				return "", err
			}
		}
		fields[field] = to
		data, err := json.Marshal(fields)
		g.values[key] = string(data)
		return string(data), err
	}
	err := g.node().Change(ctx, func() ([]Change, error) {
		value, err := do()
		return []Change{{Key: key, Value: value, Redo: do}}, err
	})
	require.NoError(g.rig.t, err)
}

func (g *gateway) value(key string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.values[key]
}

func (g *gateway) state(key string) core.State { return g.breaker(key).State() }

// suspects makes a target suspect by the gateway's own attempts.
func (g *gateway) suspects(target string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suspect[target] = true
}

func (g *gateway) wasTold(target string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told[target]
}

func (g *gateway) seeded(key string) Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seeds[key]
}
