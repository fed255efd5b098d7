package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// PoolConfig is what a Pool is built from.
type PoolConfig struct {
	Breaker  breaker.Config // of proxies without their own
	Literal  bool           // breakers count failures, and ask for no evidence
	Memory   time.Duration  // as SetMemory takes it
	Now      func() time.Time
	Notify   func(core.Transition)
	OnRemove func(*Upstream) // after the last request through it; may be nil
	OnChange func(*Snapshot) // after each change, in order; may be nil
}

// Pool is the set of proxies. It is safe for concurrent use: readers take a
// Snapshot, changes make a new one.
type Pool struct {
	snapshot atomic.Pointer[Snapshot]
	now      func() time.Time
	epoch    time.Time     // what moments are counted from; has a monotonic reading
	changes  atomic.Uint64 // published snapshots and breakers' transitions
	notify   func(core.Transition)
	onRemove func(*Upstream)
	onChange func(*Snapshot)
	ledger   *evidence.Ledger
	literal  atomic.Bool // breakers count failures, and ask the ledger for nothing

	mu      sync.Mutex // one change at a time
	breaker breaker.Config
	retired []*Upstream // removed, with requests still running

	memory  atomic.Int64                // ns
	tail    atomic.Uint64               // float64 bits of s: the largest Tail of its proxies, as of the last sweeps
	idle    atomic.Pointer[[]*Upstream] // to be explored, as of the last Sweep
	sweepMu sync.Mutex
	swept   int       // guarded by sweepMu: the next place in the snapshot that a sweep looks at
	waiting []waiting // guarded by sweepMu: memory for a sweep

	sweptTail float64 // guarded by sweepMu: the largest Tail (s) since the sweeps began anew

	watchMu   sync.Mutex
	notClosed map[string]struct{}         // ids whose breaker is not closed
	overdue   atomic.Pointer[[]*Upstream] // half-open and unchosen for too long, as of the last Sweep
	nextTest  atomic.Int64                // the earliest due time, ns after the epoch; 0: to be found again
	leaving   atomic.Int64                // proxies that leave when their last request has ended
}

// Snapshot is the pool at one moment; it never changes.
type Snapshot struct {
	*Group
	byID    map[string]*Upstream
	regions map[float64]*Group // by RegionHash
}

// Group is the proxies that a choice is made of: the whole pool's or a region's.
type Group struct {
	All   []*Upstream   // in the order of configuration
	Mixed []*Upstream   // in the order of their IDHash: as good as a random one
	Turn  atomic.Uint64 // first attempts that asked for this group; from 0 with each snapshot
}

// Region returns the proxies of a region by its core.Hash53; nil if there are none.
func (s *Snapshot) Region(hash float64) *Group { return s.regions[hash] }

// Get returns the proxy with that id, or nil.
func (s *Snapshot) Get(id string) *Upstream { return s.byID[id] }

// NewPool returns an empty pool.
func NewPool(cfg PoolConfig) *Pool {
	p := &Pool{now: cfg.Now, epoch: cfg.Now(), onRemove: cfg.OnRemove, onChange: cfg.OnChange, breaker: cfg.Breaker, notClosed: map[string]struct{}{}}
	p.ledger = evidence.NewLedger(evidence.Config{})
	p.literal.Store(cfg.Literal)
	p.notify = func(t core.Transition) {
		p.watch(t)
		if cfg.Notify != nil {
			cfg.Notify(t)
		}
	}
	p.SetMemory(cfg.Memory)
	p.snapshot.Store(&Snapshot{Group: &Group{}, byID: map[string]*Upstream{}})
	return p
}

// Epoch is the moment that moments are counted from.
func (p *Pool) Epoch() time.Time { return p.epoch }

// At is the moment that long after the pool's epoch. It is counted from now, since the
// epoch's time of day is wrong once the clock has been set or the machine has slept.
func (p *Pool) At(elapsed time.Duration) time.Time {
	now := p.now()
	return now.Add(elapsed - p.Elapsed(now))
}

// DefaultMemory is what a pool's memory is by default.
const DefaultMemory = 10 * time.Minute

// SetMemory says how long an attempt counts in its proxy's statistics, from its
// end on, in steps of 0.1 s; 0 is for ever. Without another attempt the statistics
// follow within 0.1 s, in a pool of more than 1000 proxies within 0.1 s for every 1000.
func (p *Pool) SetMemory(d time.Duration) { p.memory.Store(int64(d)) }

// Elapsed counts a moment from the pool's epoch: the form in which an Upstream
// takes moments.
func (p *Pool) Elapsed(now time.Time) time.Duration { return now.Sub(p.epoch) }

// publish requires mu.
func (p *Pool) publish(next *Snapshot) {
	next.Mixed = slices.SortedFunc(slices.Values(next.All), func(a, b *Upstream) int { return cmp.Compare(a.idHash, b.idHash) })
	next.regions = map[float64]*Group{}
	for _, u := range next.All {
		hash := u.RegionHash()
		if hash == 0 {
			continue
		}
		if next.regions[hash] == nil {
			next.regions[hash] = &Group{}
		}
		next.regions[hash].All = append(next.regions[hash].All, u)
	}
	for _, u := range next.Mixed {
		if g := next.regions[u.RegionHash()]; g != nil {
			g.Mixed = append(g.Mixed, u)
		}
	}
	p.snapshot.Store(next)
	p.changes.Add(1)
	if p.onChange != nil {
		p.onChange(next)
	}
}

// Changes goes up with each snapshot published and each transition of a breaker.
// While it stays the same, what was concluded from snapshot and breakers still
// holds, except for what the passing of time changes (NextTest).
func (p *Pool) Changes() uint64 { return p.changes.Load() }

// Ledger is what the pool knows of targets, by which breakers judge failures.
func (p *Pool) Ledger() *evidence.Ledger { return p.ledger }

// ForgetTargets drops what the ledger holds of targets without a recent failure. It is
// meant to be called a few times a minute.
func (p *Pool) ForgetTargets() { p.ledger.Sweep(p.Elapsed(p.now())) }

// SetLiteral says whether breakers count failures without asking for evidence.
func (p *Pool) SetLiteral(literal bool) {
	p.literal.Store(literal)
	if literal {
		for _, u := range p.Snapshot().All {
			u.slow.limit.Store(unlimited)
		}
	}
}

// Snapshot returns the pool as it is now.
func (p *Pool) Snapshot() *Snapshot { return p.snapshot.Load() }

// Reconfigure replaces the configured proxies and the breakers' defaults.
// Proxies that stay (same id and address) keep breaker and statistics; those
// added through the API stay. Specs without an id keep the one that their
// address has, or get one (AssignIDs). If there is an error, nothing has changed.
func (p *Pool) Reconfigure(defaults breaker.Config, specs []Spec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	specs = slices.Clone(specs)
	p.Snapshot().keepIDs(specs)
	configured := make(map[string]struct{}, len(specs))
	for i := range specs {
		configured[specs[i].ID] = struct{}{}
	}
	for _, u := range p.Snapshot().All {
		if _, taken := configured[u.id]; u.Spec().Source == SourceAPI && !taken && !u.Draining() {
			specs = append(specs, *u.Spec())
		}
	}
	AssignIDs(specs) // none that a proxy of the API's has
	return p.apply(defaults, specs)
}

// Apply is Reconfigure with the breakers' defaults as they are.
func (p *Pool) Apply(specs []Spec) error {
	p.mu.Lock()
	defaults := p.breaker
	p.mu.Unlock()
	return p.Reconfigure(defaults, specs)
}

// Add adds proxies; all or, on an error, none.
func (p *Pool) Add(specs []Spec) ([]*Upstream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.Snapshot()
	merged := old.specs()
	stay := len(merged)
	added := slices.Clone(specs)
	for i := range added {
		if added[i].ID != "" && old.byID[added[i].ID] != nil {
			return nil, fmt.Errorf("proxy %q %w", added[i].ID, core.ErrConflict)
		}
	}
	merged = append(merged, added...)
	AssignIDs(merged)
	if err := p.apply(p.breaker, merged); err != nil {
		return nil, err
	}
	s := p.Snapshot()
	out := make([]*Upstream, 0, len(added))
	for _, spec := range merged[stay:] {
		out = append(out, s.byID[spec.ID])
	}
	return out, nil
}

// Update changes one proxy's configuration. A new address begins anew.
func (p *Pool) Update(id string, change func(*Spec) error) (*Upstream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.Snapshot()
	switch u := old.byID[id]; {
	case u == nil:
		return nil, fmt.Errorf("proxy %q %w", id, core.ErrNotFound)
	case u.Draining():
		return nil, fmt.Errorf("proxy %q %w", id, ErrDraining)
	}
	specs := old.specs()
	for i := range specs {
		if specs[i].ID == id {
			if err := change(&specs[i]); err != nil {
				return nil, err
			}
			specs[i].ID = id
		}
	}
	if err := p.apply(p.breaker, specs); err != nil {
		return nil, err
	}
	return p.Snapshot().byID[id], nil
}

// ErrDraining says that a proxy is being removed, and cannot be changed any more.
var ErrDraining = errors.New("is being removed")

// specs are those of the proxies that stay.
func (s *Snapshot) specs() []Spec {
	out := make([]Spec, 0, len(s.All)+1)
	for _, u := range s.All {
		if !u.Draining() {
			out = append(out, *u.Spec())
		}
	}
	return out
}

// Remove takes a proxy out: at once nothing new goes through it. With drain it
// stays listed until its last request has ended.
func (p *Pool) Remove(id string, drain bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.Snapshot()
	u := old.byID[id]
	if u == nil {
		return fmt.Errorf("proxy %q %w", id, core.ErrNotFound)
	}
	u.drain()
	if drain && u.InFlight() > 0 { // looked at once: an attempt that is refused counts for a moment
		if !u.leaving {
			u.leaving = true
			p.leaving.Add(1)
		}
		return nil // Sweep takes it out
	}
	p.drop(func(o *Upstream) bool { return o == u })
	return nil
}

// drop publishes a snapshot without the proxies that match. Requires mu.
func (p *Pool) drop(match func(*Upstream) bool) {
	old := p.Snapshot()
	next := &Snapshot{Group: &Group{All: make([]*Upstream, 0, len(old.All))}, byID: make(map[string]*Upstream, len(old.All))}
	for _, u := range old.All {
		if match(u) {
			p.forget(u)
			continue
		}
		next.All = append(next.All, u)
		next.byID[u.id] = u
	}
	p.publish(next)
}

// apply checks specs whole, then publishes them. Requires mu.
func (p *Pool) apply(defaults breaker.Config, specs []Spec) error {
	if err := check(specs); err != nil {
		return err
	}
	old := p.Snapshot()
	next := &Snapshot{Group: &Group{All: make([]*Upstream, len(specs))}, byID: make(map[string]*Upstream, len(specs))}
	var fresh []int
	for i := range specs {
		spec := &specs[i]
		if spec.Weight == 0 {
			spec.Weight = 1
		}
		u := old.byID[spec.ID]
		if u == nil || u.Spec().Address != spec.Address || u.Draining() {
			fresh = append(fresh, i)
			continue
		}
		if !u.Spec().equal(spec) {
			u.configure(*spec)
		}
		u.breaker.Configure(spec.breaker(defaults))
		next.All[i] = u
	}
	// New ones are made in the mixed order, so that it is the order of memory.
	slices.SortFunc(fresh, func(i, j int) int { return cmp.Compare(core.Hash53(specs[i].ID), core.Hash53(specs[j].ID)) })
	for _, i := range fresh {
		next.All[i] = p.newUpstream(specs[i], specs[i].breaker(defaults))
	}
	for _, u := range next.All {
		next.byID[u.id] = u
	}
	for _, u := range old.All { // what drains stays listed, whatever else changes
		if u.Draining() && next.byID[u.id] == nil {
			next.All = append(next.All, u)
			next.byID[u.id] = u
		}
	}
	p.breaker = defaults
	p.publish(next)
	for _, u := range old.All {
		if next.byID[u.id] != u {
			p.forget(u)
		}
	}
	return nil
}

// forget drains a proxy that is out of the pool, and gives it up at once or when
// its last request has ended. Requires mu.
func (p *Pool) forget(u *Upstream) {
	u.drain()
	if u.leaving {
		u.leaving = false
		p.leaving.Add(-1)
	}
	p.watchMu.Lock()
	delete(p.notClosed, u.id)
	p.watchMu.Unlock()
	if u.InFlight() > 0 {
		p.retired = append(p.retired, u)
		p.leaving.Add(1)
		return
	}
	if p.onRemove != nil {
		p.onRemove(u)
	}
}
