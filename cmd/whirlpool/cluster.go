package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/api"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/cluster/redisstore"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// clusterNode is this gateway as a node of a cluster. It implements cluster.Local and breaker.ProbeGate. A nil
// *clusterNode is a gateway without a cluster.
type clusterNode struct {
	node        *cluster.Node
	log         *slog.Logger
	blobs       cluster.Blobs
	changes     *changes.Changes
	engine      atomic.Pointer[engine.Engine] // nil until attach
	uploads     *sharedUploads                // nil until attach
	reports     reports
	shareLimits bool                     // cluster.limits is config.LimitsShared
	onAudited   func(cluster.AuditEntry) // called with the changes by the API of other nodes

	stop context.CancelFunc
	done chan struct{}

	mu        sync.Mutex // guards the fields below
	load      cluster.Load
	loadAt    time.Time
	nextStats int                // number of proxies that EachStats has read since the start
	samples   map[string]float64 // Stats.Uses of a proxy when EachStats last reported it, by the proxy's key
}

var (
	_ cluster.Local     = (*clusterNode)(nil)
	_ breaker.ProbeGate = (*clusterNode)(nil)
)

// openCluster returns the node that [cluster] configures; nil if cluster.url is not set. The method attach starts the
// node.
func openCluster(
	cfg *config.Config, log *slog.Logger, onAudited func(cluster.AuditEntry),
) (*clusterNode, error) {
	c := cfg.Cluster
	if c.URL == "" {
		return nil, nil
	}
	store, err := redisstore.New(string(c.URL), c.Name, cluster.DefaultTimeout)
	if err != nil {
		return nil, err
	}
	unique := strings.ToLower(rand.Text()[:8])
	host, err := os.Hostname()
	if err != nil {
		host = "gateway"
	}
	name := cmp.Or(c.Node, host+"-"+unique[:4])
	m := &clusterNode{
		log: log, blobs: store, shareLimits: c.Limits == config.LimitsShared, done: make(chan struct{}),
		samples: map[string]float64{}, onAudited: onAudited,
	}
	m.node = cluster.New(cluster.Config{
		Name: c.Name, Node: name, ID: name + "~" + unique, Version: version, Address: cfg.API.Listen, Host: host,
		Store: store, Timeout: cluster.DefaultTimeout, Now: time.Now, Log: log,
	})
	m.node.Attach(m)
	return m, nil
}

// setOptions sets the functions in the engine's options through which the node receives failures, transitions of
// breakers, bans and moves of sessions.
func (cn *clusterNode) setOptions(o *engine.Options) {
	if cn == nil {
		return
	}
	o.ProbeGate = cn
	o.OnFailure = func(u *upstream.Upstream) { cn.node.Failed(proxyKey(u)) }
	o.OnSessionMove = func(m session.Move) {
		if u := cn.proxyByID(m.Proxy); u != nil {
			cn.node.Moved(cluster.Move{Session: hex.EncodeToString(m.Key[:]), Proxy: proxyKey(u),
				Generation: m.Generation, TTL: m.TTL})
		}
	}
	transition, banned := o.OnTransition, o.OnBan
	o.OnTransition = func(t core.Transition) {
		transition(t)
		if u := cn.proxyByID(t.ProxyID); u != nil && t.Reason != breaker.ReasonCluster {
			cn.node.Transition(proxyKey(u), t)
		}
	}
	o.OnBan = func(p ban.Pair) {
		banned(p)
		if e, u := cn.engine.Load(), cn.proxyByID(p.ProxyID); u != nil {
			cn.node.Banned(proxyKey(u), p.Host, e.Pool().TimeAt(p.Until))
		}
	}
}

// attach makes the node join the cluster. The function inUse returns the place where a plugin is used (see
// plugins.Registry.Delete). The parameter stateDir is the path of the state folder; "" without one.
func (cn *clusterNode) attach(
	e *engine.Engine, c *changes.Changes, reg *plugins.Registry, inUse func(plugin string) string, stateDir string,
) {
	if cn == nil {
		return
	}
	cn.changes = c
	cn.uploads = newSharedUploads(cn, reg, inUse)
	cn.engine.Store(e)
	if cn.shareLimits {
		cn.node.AttachLimits(newClusterLimits(e), readHolderName(stateDir, cn.log), strings.ToLower(rand.Text()))
	}
	e.Metrics().SetClusterSource(cn.metricsState)
	ctx, cancel := context.WithCancel(context.Background())
	cn.stop = cancel
	go func() {
		defer close(cn.done)
		var wg sync.WaitGroup
		wg.Go(func() { cn.uploads.run(ctx) })
		wg.Go(func() { cn.writeReports(ctx) })
		cn.node.Run(ctx)
		wg.Wait()
	}()
}

// close makes the node leave the cluster.
func (cn *clusterNode) close() {
	if cn != nil && cn.stop != nil {
		cn.stop()
		<-cn.done
	}
}

// drain announces to the other nodes that this node ends soon.
func (cn *clusterNode) drain() {
	if cn != nil {
		cn.node.Drain()
	}
}

// api returns cn as an api.Cluster. Without a cluster, it returns nil.
func (cn *clusterNode) api() api.Cluster {
	if cn == nil {
		return nil
	}
	return cn
}

// proxyKey returns the key of a proxy in the cluster: its id, and a hash of its address, because two configurations may
// give the same id to different proxies.
func proxyKey(u *upstream.Upstream) string {
	a := &u.Spec().Address
	return fmt.Sprintf("%s@%08x", u.ID(), uint32(core.Hash53(a.Scheme+"://"+a.Host)))
}

func (cn *clusterNode) proxyByID(id string) *upstream.Upstream {
	e := cn.engine.Load()
	if e == nil {
		return nil
	}
	return e.Pool().Snapshot().Get(id)
}

// proxy returns the proxy with a key; nil if the pool does not have it.
func (cn *clusterNode) proxy(key string) *upstream.Upstream {
	i := strings.LastIndexByte(key, '@')
	if i < 0 {
		return nil
	}
	if u := cn.proxyByID(key[:i]); u != nil && proxyKey(u) == key {
		return u
	}
	return nil
}

// MayProbe implements breaker.ProbeGate.
func (cn *clusterNode) MayProbe(id string) bool {
	u := cn.proxyByID(id)
	return u == nil || cn.node.MayProbe(proxyKey(u))
}

// BeginProbe implements breaker.ProbeGate.
func (cn *clusterNode) BeginProbe(id string) (until time.Time, ok bool) {
	u := cn.proxyByID(id)
	if u == nil {
		return time.Time{}, true
	}
	return cn.node.BeginProbe(proxyKey(u))
}

// View implements cluster.Local.
func (cn *clusterNode) View(key string) (v cluster.View, ok bool) {
	u := cn.proxy(key)
	if u == nil {
		return v, false
	}
	return cluster.View(u.Observed()), true
}

// Why implements cluster.Local.
func (cn *clusterNode) Why(key string) string {
	u := cn.proxy(key)
	if u == nil || cn.engine.Load().Pool().Literal() {
		return ""
	}
	return u.WhyText()
}

// Open implements cluster.Local.
func (cn *clusterNode) Open(key string, d time.Duration, why string) {
	if u := cn.proxy(key); u != nil {
		u.Breaker().OpenForCluster(d, why)
	}
}

// Close implements cluster.Local.
func (cn *clusterNode) Close(key string) {
	if u := cn.proxy(key); u != nil {
		u.Breaker().CloseForCluster()
	}
}

// Reset implements cluster.Local.
func (cn *clusterNode) Reset(key string) {
	if u := cn.proxy(key); u != nil {
		u.Reset()
	}
}

// ResetProxy resets the breaker of a proxy on the other nodes of the cluster, because it was reset on this node.
func (cn *clusterNode) ResetProxy(u *upstream.Upstream) {
	ctx, cancel := context.WithTimeout(context.Background(), shareTimeout)
	defer cancel()
	cn.node.Reset(ctx, proxyKey(u))
}

// Probing implements cluster.Local.
func (cn *clusterNode) Probing(key string) bool {
	u := cn.proxy(key)
	return u != nil && u.Breaker().HasProbe()
}

// ProbeTime implements cluster.Local.
func (cn *clusterNode) ProbeTime() time.Duration {
	return cn.engine.Load().Config().AttemptTimeout + time.Second
}

// loadMaxAge is the time for which Load returns the result of an earlier call. A new result takes long to compute if
// the pool has many proxies.
const loadMaxAge = 5 * time.Second

// Load implements cluster.Local.
func (cn *clusterNode) Load() cluster.Load {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	now := time.Now()
	if now.Sub(cn.loadAt) < loadMaxAge {
		return cn.load
	}
	e := cn.engine.Load()
	pool, w := e.Pool(), e.Metrics().CountsWithin(cluster.LoadWindow)
	all := pool.Snapshot().All
	cn.load, cn.loadAt = cluster.Load{
		Tried: pool.UsedSince(pool.Elapsed(now) - time.Minute), Requests: w.Requests, Delivered: w.Delivered,
		Refused: w.Refused, Attempts: w.Attempts, Retries: w.Retries, Proxies: len(all),
		Uploads: cn.uploads.failedCount(),
	}, now
	for _, u := range all {
		if _, banned := e.BannedUntil(u); u.InService(banned) {
			cn.load.InService++
		}
	}
	return cn.load
}

// Ban implements cluster.Local.
func (cn *clusterNode) Ban(key, host string, d time.Duration) time.Duration {
	u := cn.proxy(key)
	if u == nil {
		return 0
	}
	e := cn.engine.Load()
	p := e.Ban(u, host, d)
	return time.Until(e.Pool().TimeAt(p.Until))
}

// EndBan implements cluster.Local.
func (cn *clusterNode) EndBan(key, host string) {
	if u := cn.proxy(key); u != nil {
		cn.engine.Load().EndBan(u, host)
	}
}

// Suspects implements cluster.Local.
func (cn *clusterNode) Suspects(n int) []string {
	pool := cn.engine.Load().Pool()
	if pool.Literal() {
		return nil
	}
	return pool.Ledger().OwnSuspects(n)
}

// Suspect implements cluster.Local.
func (cn *clusterNode) Suspect(target string) {
	if pool := cn.engine.Load().Pool(); !pool.Literal() {
		pool.Ledger().RecordClusterSuspect(upstream.Target(target), pool.Elapsed(time.Now()))
	}
}

// Succeeds implements cluster.Local.
func (cn *clusterNode) Succeeds(target string) bool {
	pool := cn.engine.Load().Pool()
	now := pool.Elapsed(time.Now())
	if target == "" {
		return pool.Ledger().SucceedsAnywhere(now)
	}
	return pool.Ledger().Succeeds(upstream.Target(target), now)
}

// maxStatsScanned is the maximum number of proxies that one call of EachStats reads, so that the call returns soon.
const maxStatsScanned = 20_000

// EachStats implements cluster.Local.
func (cn *clusterNode) EachStats(n int, f func(key string, s cluster.Stats)) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	all := cn.engine.Load().Pool().Snapshot().All
	if len(cn.samples) > len(all) { // some samples are of removed proxies
		maps.DeleteFunc(cn.samples, func(key string, _ float64) bool { return cn.proxy(key) == nil })
	}
	for range min(len(all), maxStatsScanned) {
		if n == 0 {
			return
		}
		u := all[cn.nextStats%len(all)]
		cn.nextStats++
		s := u.Stats()
		if key := proxyKey(u); s.Samples > 0 && float64(s.Uses) != cn.samples[key] {
			cn.samples[key] = float64(s.Uses)
			rate := math.Round(1000*s.SuccessRate) / 1000
			f(key, cluster.Stats{SuccessRate: rate, Samples: s.Samples, Latency: s.LatencyMean})
			n--
		}
	}
}

// Seed implements cluster.Local.
func (cn *clusterNode) Seed(key string, s cluster.Stats) {
	if u := cn.proxy(key); u != nil {
		u.Seed(s.SuccessRate, s.Samples, s.Latency)
	}
}

// Learn implements cluster.Local.
func (cn *clusterNode) Learn(key string, f cluster.Failures) {
	if u := cn.proxy(key); u != nil {
		u.Learn(f.Number, u.Elapsed(time.Now())-f.Since, f.Avoid)
	}
}

// Move implements cluster.Local.
func (cn *clusterNode) Move(m cluster.Move) {
	var key session.Key
	u, name := cn.proxy(m.Proxy), []byte(m.Session)
	if u == nil || len(name) != hex.EncodedLen(len(key)) {
		return
	}
	if _, err := hex.Decode(key[:], name); err != nil {
		return
	}
	cn.engine.Load().LearnMove(session.Move{Key: key, Proxy: u.ID(), Generation: m.Generation, TTL: m.TTL})
}

// SetStoreTime implements cluster.Local.
func (cn *clusterNode) SetStoreTime(local, store time.Time) {
	cn.engine.Load().SetStoreTime(local, store)
}

// Audited implements cluster.Local.
func (cn *clusterNode) Audited(e cluster.AuditEntry) { cn.onAudited(e) }

// Name returns the name of this node.
func (cn *clusterNode) Name() string { return cn.node.Name() }

// Audit adds an entry of this node to the audit trail.
func (cn *clusterNode) Audit(e cluster.AuditEntry) { cn.node.Audit(e) }

// AuditTrail returns the entries of all nodes, the latest first.
func (cn *clusterNode) AuditTrail() []cluster.AuditEntry { return cn.node.AuditTrail() }

// AuditVersion returns a number. As long as the number is the same, AuditTrail returns the same entries.
func (cn *clusterNode) AuditVersion() uint64 { return cn.node.AuditVersion() }

// Status returns the state of the cluster from the records that this node has received.
func (cn *clusterNode) Status() cluster.Status {
	s := cn.node.Status()
	s.Uploads = cn.uploads.status()
	return s
}

// Alone reports whether this node cannot reach the store, and why.
func (cn *clusterNode) Alone() (bool, string) { return cn.node.Alone() }

// metricsState returns the figures of the cluster for the metrics.
func (cn *clusterNode) metricsState() metrics.ClusterState {
	s := cn.Status()
	out := metrics.ClusterState{
		Alone: s.Alone, OpenBreakers: s.Open, WaitingEvents: s.Waiting, Lag: s.Lag, ExchangeTime: s.Took,
		Exchanges: s.Counts.Exchanges, Failures: s.Counts.Failures, TimesAlone: s.Counts.Alone, Sent: s.Counts.Sent,
		Received: s.Counts.Received, DroppedEvents: s.Counts.Dropped, Leases: s.Counts.Leases,
		FencedResults: s.Counts.Fenced, FollowedOpenings: s.Counts.Followed, Limits: s.LimitsUsed,
		ShortLimits: s.LimitsShort, ShareRequests: s.Parts.Requests,
		Uploads: map[string]int{cluster.UploadReady: 0, cluster.UploadWaiting: 0, cluster.UploadFailed: 0},
	}
	for _, u := range s.Uploads {
		out.Uploads[u.State]++
	}
	for _, n := range s.Nodes {
		if n.Live {
			out.Nodes++
		}
		if n.Self {
			out.Isolated = n.Isolated
		}
	}
	return out
}
