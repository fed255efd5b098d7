package main

import (
	"math"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/lru"
	"github.com/whirlpool-proxy/whirlpool/sdk/random"
)

// peakEWMA chooses two proxies at random and prefers the proxy with the lower load. The load is the proxy's latency
// times its attempts in flight. The latency is a mean that rises to a longer latency at once, and falls to a shorter
// latency slowly.
type peakEWMA struct {
	decay   float64 // s; after this time a latency has 1/e of its weight
	failure float64 // s; the minimum latency that counts for a failed attempt
	costs   *lru.Map[cost]
}

// cost is the mean latency of one proxy. The field at is the time at which the latency was computed.
type cost struct{ latency, at float64 }

// unknownLoad is the load of a proxy that has attempts in flight but no finished attempt. It exceeds all known
// loads.
const unknownLoad = 1e6

func (p *peakEWMA) Configure(s *configure.Settings) error {
	p.decay = s.Float("decay", 10, 0.1, 3600)
	p.failure = s.Float("failure", 1, 0, 3600)
	p.costs = lru.New[cost](s.Int("max_proxies", 4096, 1, 65536))
	return nil
}

func (p *peakEWMA) Observe(o *abi.Observation) {
	latency := o.Latency
	if o.Success == 0 {
		latency = max(latency, p.failure) // a proxy that fails quickly must not count as fast
	}
	p.costs.Put(o.IDHash).update(latency, o.Now, p.decay)
}

// update adds a latency to the mean of the proxy. A latency of 0 makes the mean fall with time.
func (c *cost) update(latency, now, decay float64) {
	weight := math.Exp(-max(now-c.at, 0) / decay)
	c.at = max(now, c.at)
	if latency > c.latency {
		c.latency = latency // a longer latency replaces the mean
	} else {
		c.latency = c.latency*weight + latency*(1-weight)
	}
}

func (p *peakEWMA) Score(req *abi.RankRequest, candidates []abi.Candidate, scores []float64) {
	n := len(candidates)
	r := random.From(req.Seed)
	a := r.Intn(n)
	scores[a] = 2
	if n == 1 {
		return
	}
	b := r.Intn(n - 1)
	if b >= a {
		b++
	}
	scores[b] = 1 // all others have 0: the host chooses one of them only if it can use neither a nor b
	if p.load(&candidates[b], req.Now) < p.load(&candidates[a], req.Now) {
		scores[a], scores[b] = 1, 2
	}
}

// load estimates how long a request would take, in s.
func (p *peakEWMA) load(c *abi.Candidate, now float64) float64 {
	known := p.costs.Get(c.IDHash)
	switch {
	case known != nil:
		known.update(0, now, p.decay)
		return known.latency * (c.InFlight + 1)
	case c.InFlight > 0:
		return unknownLoad + c.InFlight
	}
	return 0
}
