package main

import (
	"math"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/lru"
	"github.com/whirlpool-proxy/whirlpool/sdk/random"
)

// peakEWMA takes two proxies by chance and prefers the one with the lower load:
// its latency, by a mean that jumps to a worse one at once and comes down
// slowly, times what runs through it.
type peakEWMA struct {
	decay   float64 // s, in which a latency falls to 1/e of what it counted
	failure float64 // s, what a failed attempt counts as if it took less
	costs   *lru.Map[cost]
}

// cost is the latency of one proxy, as of at.
type cost struct{ latency, at float64 }

// unknown is the load of a proxy that has something running and nothing
// finished yet: more than any that is known.
const unknown = 1e6

func (p *peakEWMA) Configure(s *configure.Settings) error {
	p.decay = s.Float("decay", 10, 0.1, 3600)
	p.failure = s.Float("failure", 1, 0, 3600)
	p.costs = lru.New[cost](s.Int("max_proxies", 4096, 1, 65536))
	return nil
}

func (p *peakEWMA) Observe(o *abi.Observation) {
	latency := o.Latency
	if o.Success == 0 {
		latency = max(latency, p.failure) // a quick failure is not a fast proxy
	}
	p.costs.Put(o.IDHash).hear(latency, o.Now, p.decay)
}

// hear takes in a latency; 0 if only time has passed.
func (c *cost) hear(latency, now, decay float64) {
	weight := math.Exp(-max(now-c.at, 0) / decay)
	c.at = max(now, c.at)
	if latency > c.latency {
		c.latency = latency // the peak, at once
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
	scores[b] = 1 // what is left has 0: it is used if the host may use neither
	if p.load(&candidates[b], req.Now) < p.load(&candidates[a], req.Now) {
		scores[a], scores[b] = 1, 2
	}
}

// load is what a request would have to wait for, in s and by guess.
func (p *peakEWMA) load(c *abi.Candidate, now float64) float64 {
	known := p.costs.Get(c.IDHash)
	switch {
	case known != nil:
		known.hear(0, now, p.decay)
		return known.latency * (c.InFlight + 1)
	case c.InFlight > 0:
		return unknown + c.InFlight
	}
	return 0
}
