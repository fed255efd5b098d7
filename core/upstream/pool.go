package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// PoolConfig holds the settings of a pool.
type PoolConfig struct {
	Breaker  breaker.Config // for proxies without their own breaker settings
	Literal  bool           // breakers open by the number of failures, without evidence
	Memory   time.Duration  // see SetMemory
	Now      func() time.Time
	Notify   func(core.Transition)
	OnRemove func(*Upstream) // called after the last attempt through a removed proxy; may be nil
	OnFree   func()          // called when an attempt has released its place in flight; may be nil
	OnChange func(*Snapshot) // called after each change, in order; may be nil

	ProbeGate breaker.ProbeGate // of the breakers' probes; nil for none
	OnFailure func(*Upstream)   // called after each failure that was reported to the breaker; may be nil

	NoSlowStart bool // proxies that have not served a request have no limit on attempts in flight
}

// Pool is the set of proxies. It is safe for concurrent use: readers take a Snapshot, and each change publishes a new
// Snapshot.
type Pool struct {
	snapshot     atomic.Pointer[Snapshot]
	now          func() time.Time
	epoch        time.Time     // time 0 of all elapsed times; has a monotonic reading
	changes      atomic.Uint64 // number of published snapshots and of transitions of breakers
	onTransition func(core.Transition)
	onRemove     func(*Upstream)
	onFree       func()
	onChange     func(*Snapshot)
	breakers     breaker.Shared
	onFailure    func(*Upstream)
	ledger       *evidence.Ledger
	tunnelEnds   *evidence.Ledger // of the ends of followed tunnels
	avoided      *ban.Table       // see Avoided

	uncompared     *ban.Table  // see Uncompared
	literal        atomic.Bool // breakers open by the number of failures, without evidence
	noSlowStart    bool        // PoolConfig.NoSlowStart
	lacksAbilities atomic.Bool // some proxy is known to lack an ability
	hasLimits      atomic.Bool // see HasLimits
	hasPlaces      atomic.Bool // a proxy may have its own max_in_flight
	hasLocate      atomic.Bool // locate is set
	regionsChanged atomic.Bool // the region of a proxy has changed since the last snapshot
	direct         *Upstream   // see Direct
	refusals       ability.Refusals

	mu              sync.Mutex // held during a change of the pool, so that changes happen one at a time
	breaker         *breaker.Config
	limit           limit.Limit                 // of SetLimit
	limitMu         sync.Mutex                  // guards Upstream.inFlightLimit and Upstream.share
	divisor         int64                       // of SetDivisor; 0 if limits are not shared; guarded by mu and limitMu
	locate          func(netip.Addr) string     // of SetLocate; nil for none
	days            share.DayClock              // of the limits on bytes per day
	earlierBytes    map[string]limit.SavedUsage // bytes that proxies transmitted in an earlier process, by id
	vendors         map[string]*traffic.Meter
	absentCosts     map[string]traffic.Total // costs of proxies that are not in the pool, by id
	removedCosts    traffic.Meter            // costs of removed proxies that are not in absentCosts
	drainingProxies []*Upstream              // removed proxies with attempts in flight
	unlistedProxies map[string]unlistedProxy // by id

	memory          atomic.Int64                // ns
	tail            atomic.Uint64               // bits of the largest Tail (seconds) at the end of the last full sweep
	dueExplorations atomic.Pointer[[]*Upstream] // see DueExplorations
	sweepMu         sync.Mutex                  // guards the next three fields

	sweepIndex   int              // index in the snapshot where the next sweep begins
	dueBuffer    []dueExploration // reused by each sweep
	sweepMaxTail float64          // largest Tail of the proxies that were swept since sweepIndex was 0, in seconds

	pendingFailures pendingFailures
	unreached       unreachedReasons

	watchMu       sync.Mutex
	notClosed     map[*Upstream]struct{}      // proxies whose breaker is not closed; guarded by watchMu
	openList      []*Upstream                 // the proxies in notClosed; nil if it has to be made; guarded by watchMu
	overdueProbes atomic.Pointer[[]*Upstream] // see OverdueProbes
	// nextTestTime is the earliest time at which a breaker becomes half-open, in ns after the epoch. It
	// is 0 if it has to be computed.
	nextTestTime atomic.Int64
	// nextCheck is the time at which the next reachability check begins, in ns after the epoch. It
	// is 0 if none is planned.
	nextCheck atomic.Int64
	// nextEarly is a time in ns after the epoch. An early probe may begin up to earlyInterval before this time, so two
	// early probes can begin at the same time.
	nextEarly  atomic.Int64
	nextLook   atomic.Int64  // when a request may look for an early probe again, in ns after the epoch
	lastClosed atomic.Int64  // when Sweep last found a closed breaker, in ns after the epoch
	lastFew    time.Duration // when Sweep last looked for an early probe while few breakers were closed; only for Sweep
	// skippedSweeps is the number of sweeps since the last sweep that read the breakers (see breakersPerSweep); only
	// for Sweep.
	skippedSweeps int
	lastUses      uint64 // attempts of all proxies at the last early probe while few breakers were closed

	pendingRemovals atomic.Int64 // proxies that are removed when their last attempt has ended
}

// Snapshot is the pool at one time. It is immutable.
type Snapshot struct {
	*Group
	regions map[float64]*Group // by core.RegionHash
	tags    map[float64]*Group // by core.Hash53 of the tag

	tiers     []Tier // see Tiers
	anyRegion *Group // the proxies with exits in all regions (Upstream.AnyRegion); nil if there are none
}

// Group holds the proxies that a selection chooses from: the whole pool, or the proxies of a region, with a tag, or
// of a tier.
type Group struct {
	All   []*Upstream   // in the order of configuration
	Mixed []*Upstream   // in the order of IDHash, which is practically random
	Turn  atomic.Uint64 // number of first attempts through this group since the snapshot
}

// Region returns the proxies of the region with the given core.RegionHash, or nil if there are none. The group
// includes the proxies with exits in all regions.
func (s *Snapshot) Region(hash float64) *Group {
	if g := s.regions[hash]; g != nil {
		return g
	}
	return s.anyRegion
}

// eachGroup calls f with the group of each region to which the proxy belongs.
func (s *Snapshot) eachGroup(u *Upstream, f func(*Group)) {
	if !u.AnyRegion() {
		if g := s.regions[u.RegionHash()]; g != nil {
			f(g)
		}
		return
	}
	f(s.anyRegion)
	for _, g := range s.regions {
		f(g)
	}
}

// Get returns the proxy with the given id, or nil. It searches Mixed, because a map of a long list takes much memory.
func (s *Snapshot) Get(id string) *Upstream {
	hash := core.Hash53(id)
	i, _ := slices.BinarySearchFunc(s.Mixed, hash, func(u *Upstream, h float64) int { return cmp.Compare(u.idHash, h) })
	for ; i < len(s.Mixed) && s.Mixed[i].idHash == hash; i++ {
		if s.Mixed[i].id == id {
			return s.Mixed[i]
		}
	}
	return nil
}

// NewPool returns an empty pool.
func NewPool(cfg PoolConfig) *Pool {
	p := &Pool{
		now: cfg.Now, epoch: cfg.Now(), onRemove: cfg.OnRemove, onFree: cfg.OnFree, onTransition: cfg.Notify,
		onChange:        cfg.OnChange,
		onFailure:       cfg.OnFailure,
		breaker:         &cfg.Breaker,
		noSlowStart:     cfg.NoSlowStart,
		notClosed:       map[*Upstream]struct{}{},
		earlierBytes:    map[string]limit.SavedUsage{},
		vendors:         map[string]*traffic.Meter{},
		absentCosts:     map[string]traffic.Total{},
		unlistedProxies: map[string]unlistedProxy{},
	}
	p.breakers = breaker.Shared{Now: p.now, Epoch: p.epoch, ProbeGate: cfg.ProbeGate}
	p.ledger = evidence.NewLedger(evidence.Config{})
	p.tunnelEnds = evidence.NewLedger(evidence.Config{MaxTargets: 1024, ComparedOnly: true})
	p.avoided, p.uncompared = ban.New(ban.DefaultMax), ban.New(ban.DefaultMax)
	p.literal.Store(cfg.Literal)
	p.SetMemory(cfg.Memory)
	p.snapshot.Store(&Snapshot{Group: &Group{}})
	p.direct = p.newUpstream(&Spec{ID: DirectID, Address: Address{Scheme: Direct}, Weight: 1}, p.breaker)
	p.direct.slowStart.limit.Store(noLimit)
	return p
}

// Epoch returns the time from which Elapsed counts.
func (p *Pool) Epoch() time.Time { return p.epoch }

// TimeAt converts a result of Elapsed to a time of day. It computes the time relative to now, because the sum of
// epoch and elapsed would be wrong after a change of the clock or a suspension of the machine.
func (p *Pool) TimeAt(elapsed time.Duration) time.Time {
	now := p.now()
	return now.Add(elapsed - p.Elapsed(now))
}

// DefaultMemory is the default of the maximum age that SetMemory sets.
const DefaultMemory = 10 * time.Minute

// SetMemory sets the maximum age of the attempts in the statistics of the proxies, in steps of 0.1 s; 0 for no maximum.
// If a proxy has no traffic, its older attempts are removed with a delay of up to 0.1 s per 1000 proxies of the pool.
func (p *Pool) SetMemory(d time.Duration) { p.memory.Store(int64(d)) }

// Elapsed converts a time to the duration since the pool's epoch. The methods of Upstream take such durations.
func (p *Pool) Elapsed(now time.Time) time.Duration { return now.Sub(p.epoch) }

// setSnapshot completes a snapshot and makes it the current one. The caller holds mu.
func (p *Pool) setSnapshot(next *Snapshot) {
	byHash := func(a, b *Upstream) int { return cmp.Compare(a.idHash, b.idHash) }
	next.Mixed = slices.SortedFunc(slices.Values(next.All), byHash)
	next.regions = map[float64]*Group{}
	for _, u := range next.All {
		if hash := u.RegionHash(); hash != 0 && next.regions[hash] == nil {
			next.regions[hash] = &Group{}
		}
		if u.AnyRegion() && next.anyRegion == nil {
			next.anyRegion = &Group{}
		}
	}
	for _, u := range next.All {
		next.eachGroup(u, func(g *Group) { g.All = append(g.All, u) })
		next.addToTags(u, func(g *Group) *[]*Upstream { return &g.All })
	}
	for _, u := range next.Mixed {
		next.eachGroup(u, func(g *Group) { g.Mixed = append(g.Mixed, u) })
		next.addToTags(u, func(g *Group) *[]*Upstream { return &g.Mixed })
	}
	next.sortTiers()
	p.regionsChanged.Store(false)
	p.snapshot.Store(next)
	p.changes.Add(1)
	if p.onChange != nil {
		p.onChange(next)
	}
}

// Changes returns a number that increases with each published snapshot and each transition of a breaker. A conclusion
// from the snapshot and the breakers' states remains valid while this number stays the same, but at most until the
// time that Pool.NextTestTime returns: a breaker may then admit a probe.
func (p *Pool) Changes() uint64 { return p.changes.Load() }

// Ledger returns the evidence of the pool.
func (p *Pool) Ledger() *evidence.Ledger { return p.ledger }

// ForgetTargets removes the targets without a recent failure from the ledger. The caller calls it a few
// times a minute.
func (p *Pool) ForgetTargets() {
	now := p.Elapsed(p.now())
	p.ledger.Sweep(now)
	p.tunnelEnds.Sweep(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetUnlisted()
}

// Literal reports whether breaker.blame is "literal": breakers then open by the number of failures, without evidence.
func (p *Pool) Literal() bool { return p.literal.Load() }

// Literal reports whether breaker.blame is "literal" in the proxy's pool (Pool.Literal).
func (u *Upstream) Literal() bool { return u.pool.Literal() }

// SetLiteral sets whether breaker.blame is "literal". If it is, SetLiteral also deletes the recorded abilities, the
// pairs of a proxy and a target in Avoided and in Uncompared, the limits of the slow starts, and what Learn has set.
func (p *Pool) SetLiteral(literal bool) {
	p.literal.Store(literal)
	if literal {
		p.avoided.EndAll(p.Elapsed(p.now()))
		p.uncompared.EndAll(p.Elapsed(p.now()))
		for _, u := range p.Snapshot().All {
			u.slowStart.limit.Store(noLimit)
			if u.flags.has(hasLearnt) {
				u.Learn(0, 0, false)
			}
			if x := u.attemptFields.Load(); x != nil {
				x.abilities.Reset()
			}
		}
	}
}

// Snapshot returns the pool as it is now.
func (p *Pool) Snapshot() *Snapshot { return p.snapshot.Load() }

// Reconfigure replaces the configured proxies and the default settings of breakers. Proxies with the same id and
// address keep their breakers and statistics. Proxies added through the API stay. A spec without an id gets the id of
// the same proxy in the pool (NameSpecs has the rules). If Reconfigure returns an error, the pool is unchanged. The
// proxies may keep the elements of specs, so the caller must not change specs any more.
func (p *Pool) Reconfigure(defaults breaker.Config, specs []Spec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	running := p.Snapshot()
	list := specPointers(nameAs(specs, running))
	byAPI := map[string]*Spec{} // the proxies that the API has added
	for _, u := range running.All {
		if spec := u.Spec(); spec.Source == SourceAPI && !u.Draining() {
			byAPI[spec.ID] = spec
		}
	}
	for _, spec := range list {
		delete(byAPI, spec.ID)
	}
	for _, u := range running.All {
		if spec := byAPI[u.id]; spec != nil {
			list = append(list, spec)
		}
	}
	return p.apply(&defaults, list)
}

// Apply is like Reconfigure, but keeps the default settings of breakers.
func (p *Pool) Apply(specs []Spec) error {
	p.mu.Lock()
	defaults := *p.breaker
	p.mu.Unlock()
	return p.Reconfigure(defaults, specs)
}

// Add adds proxies and returns them. If it returns an error, it has added none.
func (p *Pool) Add(specs []Spec) ([]*Upstream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.Snapshot()
	added := slices.Clone(specs)
	for i := range added {
		if added[i].ID != "" && old.Get(added[i].ID) != nil {
			return nil, fmt.Errorf("proxy %q %w", added[i].ID, core.ErrConflict)
		}
	}
	assignIDs(added, func(id string) bool { u := old.Get(id); return u != nil && !u.Draining() })
	if err := p.apply(p.breaker, append(old.specs(), specPointers(added)...)); err != nil {
		return nil, err
	}
	s := p.Snapshot()
	out := make([]*Upstream, len(added))
	for i := range added {
		out[i] = s.Get(added[i].ID)
	}
	return out, nil
}

// Updates holds changes of proxies by their ids. Each function changes the configuration of one proxy.
type Updates = map[string]func(*Spec) error

// UpdateAll changes the configuration of proxies. If the address of a proxy changes, the proxy gets a new breaker and
// new statistics. If UpdateAll returns an error, it has changed no proxy.
func (p *Pool) UpdateAll(changes Updates) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.Snapshot()
	for id := range changes {
		switch u := old.Get(id); {
		case u == nil:
			return fmt.Errorf("proxy %q %w", id, core.ErrNotFound)
		case u.Draining():
			return fmt.Errorf("proxy %q %w", id, ErrDraining)
		}
	}
	specs := old.specs()
	for i, spec := range specs {
		if change := changes[spec.ID]; change != nil {
			next := *spec
			if err := change(&next); err != nil {
				return err
			}
			next.ID = spec.ID
			specs[i] = &next
		}
	}
	return p.apply(p.breaker, specs)
}

// ErrDraining reports that a proxy is being removed and cannot be changed.
var ErrDraining = errors.New("is being removed")

// specs returns the specs of the proxies that are not draining.
func (s *Snapshot) specs() []*Spec {
	out := make([]*Spec, 0, len(s.All)+1)
	for _, u := range s.All {
		if !u.Draining() {
			out = append(out, u.Spec())
		}
	}
	return out
}

func specPointers(specs []Spec) []*Spec {
	out := make([]*Spec, len(specs))
	for i := range specs {
		out[i] = &specs[i]
	}
	return out
}

// Remove removes a proxy. From then on the proxy admits no attempts. If drain is set, the proxy stays in the snapshot
// until its last attempt has ended.
func (p *Pool) Remove(id string, drain bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.Snapshot()
	u := old.Get(id)
	if u == nil {
		return fmt.Errorf("proxy %q %w", id, core.ErrNotFound)
	}
	u.drain()
	if drain && u.InFlight() > 0 { // read only once, because Acquire may increase it before it refuses an attempt
		if !u.removalPending {
			u.removalPending = true
			p.pendingRemovals.Add(1)
		}
		return nil // Sweep removes it
	}
	p.removeMatching(func(o *Upstream) bool { return o == u })
	return nil
}

// removeMatching publishes a snapshot without the proxies for which the function match returns true. The caller holds
// mu.
func (p *Pool) removeMatching(match func(*Upstream) bool) {
	old := p.Snapshot()
	n := len(old.All)
	next := &Snapshot{Group: &Group{All: make([]*Upstream, 0, n)}}
	var dropped []*Upstream
	for _, u := range old.All {
		if match(u) {
			dropped = append(dropped, u)
			continue
		}
		next.All = append(next.All, u)
	}
	p.setSnapshot(next)
	for _, u := range dropped { // after publish, because a transition of these breakers then adds nothing to notClosed
		p.releaseProxy(u)
	}
}

// apply checks all specs, then publishes a snapshot of them. The caller holds mu. It makes no map of all ids, because a
// reload of a long list already has the old and the new list in memory.
func (p *Pool) apply(defaults *breaker.Config, specs []*Spec) error {
	if err := check(specs); err != nil {
		return err
	}
	old := p.Snapshot()
	next := &Snapshot{Group: &Group{All: make([]*Upstream, len(specs))}}
	var added []int
	for i, spec := range specs {
		if spec.Weight == 0 {
			spec.Weight = 1
		}
		u := old.Get(spec.ID)
		if u == nil || u.Spec().Address != spec.Address || u.Draining() {
			added = append(added, i)
			continue
		}
		switch before := u.Spec(); {
		case before == spec:
		case before.equal(spec):
			*spec = *before // keeps the strings of before, so that the strings of spec take no memory
			u.replaceSpec(spec)
		default:
			u.configure(spec)
		}
		u.breaker.Configure(spec.breaker(defaults))
		next.All[i] = u
	}
	// New proxies are allocated in the order of Mixed, so that proxies that are neighbours in Mixed are neighbours in
	// memory.
	hash := func(i int) float64 { return core.Hash53(specs[i].ID) }
	slices.SortFunc(added, func(i, j int) int { return cmp.Compare(hash(i), hash(j)) })
	p.forgetUnlisted()
	var resumed []*Upstream
	for _, i := range added {
		u := p.newUpstream(specs[i], specs[i].breaker(defaults))
		if next.All[i] = u; p.restoreState(u) {
			resumed = append(resumed, u)
		}
	}
	next.All = append(next.All, drainingExcept(old, specs)...)
	for _, u := range next.All {
		u.keptInPool = true
	}
	p.breaker = defaults
	p.setSnapshot(next)
	for _, u := range resumed {
		p.watchBreaker(u)
	}
	for _, u := range old.All {
		if !u.keptInPool {
			if next.Get(u.id) == nil {
				p.keepUnlistedProxy(u)
			}
			p.releaseProxy(u)
		}
	}
	for _, u := range next.All {
		u.keptInPool = false
	}
	return nil
}

// drainingExcept returns the draining proxies of a snapshot, except those with the id of a spec.
func drainingExcept(s *Snapshot, specs []*Spec) (draining []*Upstream) {
	for _, u := range s.All {
		if u.Draining() {
			draining = append(draining, u)
		}
	}
	if len(draining) == 0 {
		return nil
	}
	ids := make(map[string]struct{}, len(specs))
	for _, spec := range specs {
		ids[spec.ID] = struct{}{}
	}
	return slices.DeleteFunc(draining, func(u *Upstream) bool { _, replaced := ids[u.id]; return replaced })
}

// ShareTexts makes an address use the texts of the proxy with the same address and the id host:port, if the pool has
// this proxy. When a long list is read again, its texts would otherwise be in memory twice.
func (p *Pool) ShareTexts(a *Address) {
	if u := p.Snapshot().Get(a.Host); u != nil {
		if known := &u.Spec().Address; *known == *a {
			*a = *known
		}
	}
}

// releaseProxy drains a proxy that is no longer in the pool. If no attempts are in flight, it calls onRemove; otherwise
// Sweep calls onRemove later. The caller holds mu.
func (p *Pool) releaseProxy(u *Upstream) {
	u.drain()
	if u.removalPending {
		u.removalPending = false
		p.pendingRemovals.Add(-1)
	}
	p.keepCosts(u)
	p.watchMu.Lock()
	p.forgetOpen(u)
	p.watchMu.Unlock()
	if u.InFlight() > 0 {
		p.drainingProxies = append(p.drainingProxies, u)
		p.pendingRemovals.Add(1)
		return
	}
	if p.onRemove != nil {
		p.onRemove(u)
	}
}
