// Package upstream holds the proxies of the pool: each with its breaker, its
// requests in flight and the window of its last 100 attempts; and the pool
// itself, whose snapshots are immutable.
package upstream

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// Upstream is one proxy of the pool. It is safe for concurrent use.
//
// It is a row of 128 bytes, two cache lines, that holds all that a choice reads of
// a proxy, so that looking at hundreds of them stays cheap. What is needed only of
// the one that is chosen lies behind details.
type Upstream struct {
	*details
	word     breaker.Word
	inFlight atomic.Int64
	room     atomic.Int32 // places in flight it may have; 0 once draining
	slow     slowStart
	weight   atomic.Uint64
	lastUse  atomic.Int64 // ns after the epoch, of the last Acquire; 0 if never

	regionHash atomic.Uint64 // 0 without a region
	cost       atomic.Uint64
	idHash     float64
	uses       atomic.Uint64
	stats      stats
}

// details are what a choice does not read.
type details struct {
	id       string
	spec     atomic.Pointer[Spec]
	breaker  *breaker.Breaker
	now      func() time.Time
	epoch    time.Time     // the pool's
	added    time.Duration // when it joined the pool, after the epoch
	draining atomic.Bool
	leaving  bool // draining with requests running; guarded by the pool's mu
	window   window

	pool *Pool
	book evidence.Book                // failures, beside those of the rest of the pool
	why  atomic.Pointer[evidence.Why] // of the last opening by evidence

	failedToReach atomic.Bool // the last failure was that no connection to the proxy could be opened
}

func (p *Pool) newUpstream(spec Spec, cfg breaker.Config) *Upstream {
	d := &details{id: spec.ID, now: p.now, epoch: p.epoch, pool: p, added: p.Elapsed(p.now())}
	u := &Upstream{details: d, idHash: core.Hash53(spec.ID)}
	u.breaker = breaker.NewAt(&u.word, p.epoch, spec.ID, cfg, p.now, p.notify)
	u.stats.init()
	u.slow.limit.Store(unproven)
	if p.literal.Load() {
		u.slow.limit.Store(unlimited)
	}
	u.window.lastSuccess.Store(int64(u.added))
	u.configure(spec)
	return u
}

// configure takes another configuration. Requires the pool's mu.
func (u *Upstream) configure(spec Spec) {
	u.spec.Store(&spec)
	store(&u.weight, spec.Weight)
	store(&u.cost, spec.Cost)
	region := 0.0
	if spec.Region != "" {
		region = core.Hash53(spec.Region)
	}
	store(&u.regionHash, region)
	room := math.MaxInt32
	if spec.MaxInFlight > 0 {
		room = min(spec.MaxInFlight, room)
	}
	u.room.Store(int32(room))
}

// drain lets nothing new through.
func (u *Upstream) drain() {
	u.draining.Store(true)
	u.room.Store(0)
}

// ID is the proxy's stable id; IDHash its core.Hash53.
func (u *Upstream) ID() string      { return u.id }
func (u *Upstream) IDHash() float64 { return u.idHash }

// RegionHash is the core.Hash53 of the proxy's region; 0 without one.
func (u *Upstream) RegionHash() float64 { return load(&u.regionHash) }

// Spec is the proxy's configuration; not to be changed.
func (u *Upstream) Spec() *Spec { return u.spec.Load() }

// Breaker is the proxy's circuit breaker.
func (u *Upstream) Breaker() *breaker.Breaker { return u.breaker }

// InFlight is the number of attempts and tunnels running through the proxy.
func (u *Upstream) InFlight() int64 { return u.inFlight.Load() }

// Load is InFlight divided by the proxy's weight.
func (u *Upstream) Load() float64 {
	n := u.inFlight.Load()
	if n == 0 {
		return 0
	}
	return float64(n) / load(&u.weight)
}

// Direct reports whether there is no proxy: targets are reached from here.
func (u *Upstream) Direct() bool { return u.Spec().Address.Scheme == Direct }

// HasServed reports whether an attempt through the proxy has succeeded since it was added.
func (u *Upstream) HasServed() bool { return time.Duration(u.window.lastSuccess.Load()) > u.added }

// FailedToReach reports whether the proxy's last failure was that no connection to it
// could be opened.
func (u *Upstream) FailedToReach() bool { return u.failedToReach.Load() }

// Draining reports whether the proxy is being removed and takes nothing new.
func (u *Upstream) Draining() bool { return u.draining.Load() }

// Full reports whether the proxy is at its max_in_flight, or draining.
func (u *Upstream) Full() bool { return u.inFlight.Load() >= int64(u.room.Load()) }

// Free reports whether the breaker is closed and the proxy not full: the common
// case of Admissible, whatever its arguments.
func (u *Upstream) Free() bool { return u.word.Closed() && !u.Full() }

// BreakerAdmits peeks: it reports whether the breaker would probably give a
// permit at a moment (Pool.Elapsed), and takes nothing.
func (u *Upstream) BreakerAdmits(at time.Duration) bool { return u.word.Closed() || u.probable(at) }

// Admissible reports whether Acquire would probably succeed at a moment, and
// takes nothing. probe says whether it would do to be the probe of a half-open
// breaker.
func (u *Upstream) Admissible(at time.Duration, probe bool) bool {
	return !u.Full() && (u.word.Closed() || probe && u.probable(at))
}

// probable is for a breaker that was not closed a moment ago.
func (u *Upstream) probable(at time.Duration) bool {
	return !u.word.Open(at) && u.breaker.Admissible()
}

// Lease is one attempt's hold on a proxy: a place in flight and the breaker's
// permit. The zero Lease holds nothing. It belongs to one goroutine.
type Lease struct {
	Proxy         *Upstream
	Target        evidence.Target // of the attempt; the caller sets it
	ServedByOther bool            // another proxy has served the same request; the caller sets it
	permit        breaker.Permit
	began         time.Duration // after the pool's epoch
	settled       bool
	parted        bool // its place in flight was given back
}

// Acquire begins an attempt, unless the proxy is full or draining or its
// breaker admits nothing: this is where a half-open breaker's slot is taken.
func (u *Upstream) Acquire(now time.Time) (Lease, bool) {
	if u.inFlight.Add(1) > int64(u.room.Load()) {
		u.inFlight.Add(-1)
		return Lease{}, false
	}
	permit, ok := u.breaker.Acquire()
	if !ok {
		u.inFlight.Add(-1)
		return Lease{}, false
	}
	u.uses.Add(1)
	began := max(now.Sub(u.epoch), 1)
	u.lastUse.Store(int64(began))
	return Lease{Proxy: u, permit: permit, began: began}, true
}

// Answered tells the breaker that an answer's head has come.
func (l *Lease) Answered() { l.permit.Answered() }

// Part gives the place in flight back and returns what is left of the lease, to
// be settled and released later; l itself holds nothing then.
func (l *Lease) Part() Lease {
	rest := *l
	rest.parted = true
	l.Proxy.inFlight.Add(-1)
	*l = Lease{}
	return rest
}

// Release ends the attempt. One that was not settled says nothing about the
// proxy, and gives a probe's slot back.
func (l *Lease) Release() {
	if l.Proxy == nil {
		return
	}
	l.Settle(&core.Outcome{Verdict: core.Excluded})
	if !l.parted {
		l.Proxy.inFlight.Add(-1)
	}
	*l = Lease{}
}

// Fill writes what the proxy knows of itself at a moment (Pool.Elapsed) into a
// candidate's row; region is the wanted region's core.Hash53, 0 for none.
// Affinity, rotation and normalized latency are for the selector.
func (u *Upstream) Fill(c *core.Candidate, at time.Duration, region float64) {
	s := &u.stats
	c.SuccessRate = load(&s.successRate)
	c.Samples = load(&s.samples)
	c.LatencyMean = load(&s.mean)
	c.LatencyEWMA = load(&s.ewma)
	c.InFlight = float64(u.inFlight.Load())
	c.Weight = load(&u.weight)
	c.Cost = load(&u.cost)
	c.RegionMatch = 0
	if region != 0 && load(&u.regionHash) == region {
		c.RegionMatch = 1
	}
	c.ConsecutiveFailures = load(&s.failures)
	c.SinceUse = -1
	if last := u.lastUse.Load(); last > 0 {
		c.SinceUse = max(float64(int64(at)-last)/1e9, 0)
	}
	c.Uses = float64(u.uses.Load())
	c.BreakerState = 0
	if !u.word.Closed() {
		c.BreakerState = float64(u.breaker.State())
	}
	c.IDHash = u.idHash
}

// Stats are the proxy's figures for people.
type Stats struct {
	SuccessRate float64 // over Samples; 0.5 without any
	Samples     int
	LatencyMean time.Duration // 0 without any
	LatencyEWMA time.Duration
	InFlight    int64
	Uses        uint64
	LastUsed    time.Time // zero if never
}

// Stats returns the figures as they are now.
func (u *Upstream) Stats() Stats {
	s := Stats{
		SuccessRate: load(&u.stats.successRate), Samples: int(load(&u.stats.samples)),
		LatencyMean: time.Duration(load(&u.stats.mean) * 1e9), LatencyEWMA: time.Duration(load(&u.stats.ewma) * 1e9),
		InFlight: u.inFlight.Load(), Uses: u.uses.Load(),
	}
	if last := u.lastUse.Load(); last > 0 {
		now := u.now()
		s.LastUsed = now.Add(time.Duration(last) - now.Sub(u.epoch))
	}
	return s
}
