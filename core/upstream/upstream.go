// Package upstream holds the proxies of the pool: each with its breaker, its
// requests in flight and the window of its last 100 attempts; and the pool
// itself, whose snapshots are immutable.
package upstream

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// Spec is what is configured of one proxy.
type Spec struct {
	ID          string
	Address     Address
	Region      string
	Weight      float64 // > 0; 0 means 1
	Cost        float64 // >= 0
	MaxInFlight int     // 0 for no limit
	Metadata    map[string]string
	Breaker     *breaker.Config // nil for the pool's
	Source      string          // who put it there: "config", "api", or a file's name
}

func (s *Spec) equal(o *Spec) bool {
	return s.ID == o.ID && s.Address == o.Address && s.Region == o.Region && s.Weight == o.Weight && s.Cost == o.Cost &&
		s.MaxInFlight == o.MaxInFlight && maps.Equal(s.Metadata, o.Metadata) && s.Source == o.Source &&
		(s.Breaker == nil) == (o.Breaker == nil) && (s.Breaker == nil || *s.Breaker == *o.Breaker)
}

// Upstream is one proxy of the pool. It is safe for concurrent use.
type Upstream struct {
	id      string
	idHash  float64
	spec    atomic.Pointer[Spec]
	breaker *breaker.Breaker
	born    time.Time

	draining atomic.Bool
	leaving  bool // draining with requests running; guarded by the pool's mu
	inFlight atomic.Int64
	uses     atomic.Uint64
	lastUse  atomic.Int64 // ns after born, of the last Acquire; 0 if never
	window   window
}

func newUpstream(spec Spec, b *breaker.Breaker, now time.Time) *Upstream {
	u := &Upstream{id: spec.ID, idHash: core.Hash53(spec.ID), breaker: b, born: now}
	u.spec.Store(&spec)
	u.window.init()
	return u
}

// ID is the proxy's stable id; IDHash its core.Hash53.
func (u *Upstream) ID() string      { return u.id }
func (u *Upstream) IDHash() float64 { return u.idHash }

// Spec is the proxy's configuration; not to be changed.
func (u *Upstream) Spec() *Spec { return u.spec.Load() }

// Breaker is the proxy's circuit breaker.
func (u *Upstream) Breaker() *breaker.Breaker { return u.breaker }

// InFlight is the number of attempts and tunnels running through the proxy.
func (u *Upstream) InFlight() int64 { return u.inFlight.Load() }

// Draining reports whether the proxy is being removed and takes nothing new.
func (u *Upstream) Draining() bool { return u.draining.Load() }

// Full reports whether the proxy is at its max_in_flight.
func (u *Upstream) Full() bool {
	limit := u.Spec().MaxInFlight
	return limit > 0 && u.inFlight.Load() >= int64(limit)
}

// Lease is one attempt's hold on a proxy: a place in flight and the breaker's
// permit. The zero Lease holds nothing. It belongs to one goroutine.
type Lease struct {
	U       *Upstream
	permit  breaker.Permit
	settled bool
}

// Acquire begins an attempt, unless the proxy is full or its breaker admits
// nothing: this is where a half-open breaker's slot is taken.
func (u *Upstream) Acquire(now time.Time) (Lease, bool) {
	limit := int64(u.Spec().MaxInFlight)
	if n := u.inFlight.Add(1); limit > 0 && n > limit {
		u.inFlight.Add(-1)
		return Lease{}, false
	}
	permit, ok := u.breaker.Acquire()
	if !ok {
		u.inFlight.Add(-1)
		return Lease{}, false
	}
	u.uses.Add(1)
	u.lastUse.Store(int64(max(now.Sub(u.born), 1)))
	return Lease{U: u, permit: permit}, true
}

// Settle tells breaker and statistics how the attempt went. A second call does
// nothing.
func (l *Lease) Settle(o *core.Outcome) {
	if l.U == nil || l.settled {
		return
	}
	l.settled = true
	l.permit.Report(o.Verdict)
	if o.Verdict != core.Excluded {
		l.U.window.add(o.Verdict, o.Latency)
	}
}

// Release ends the attempt. One that was not settled says nothing about the
// proxy, and gives a probe's slot back.
func (l *Lease) Release() {
	if l.U == nil {
		return
	}
	l.Settle(&core.Outcome{Verdict: core.Excluded})
	l.U.inFlight.Add(-1)
	*l = Lease{}
}

// Fill writes what the proxy knows of itself into a candidate's row. Region,
// affinity, rotation and normalized latency are for the selector.
func (u *Upstream) Fill(c *core.Candidate, now time.Time) {
	spec := u.Spec()
	w := &u.window
	c.SuccessRate = load(&w.successRate)
	c.Samples = load(&w.samples)
	c.LatencyMean = load(&w.mean)
	c.LatencyEWMA = load(&w.ewma)
	c.ConsecutiveFailures = load(&w.failures)
	c.InFlight = float64(u.inFlight.Load())
	c.Weight = spec.Weight
	c.Cost = spec.Cost
	c.Uses = float64(u.uses.Load())
	c.SinceUse = -1
	if last := u.lastUse.Load(); last > 0 {
		c.SinceUse = max(now.Sub(u.born)-time.Duration(last), 0).Seconds()
	}
	c.BreakerState = float64(u.breaker.State())
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
	w := &u.window
	s := Stats{
		SuccessRate: load(&w.successRate), Samples: int(load(&w.samples)),
		LatencyMean: time.Duration(load(&w.mean) * 1e9), LatencyEWMA: time.Duration(load(&w.ewma) * 1e9),
		InFlight: u.inFlight.Load(), Uses: u.uses.Load(),
	}
	if last := u.lastUse.Load(); last > 0 {
		s.LastUsed = u.born.Add(time.Duration(last))
	}
	return s
}
