package main

import (
	"math"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/lru"
)

// adaptive waits until the outage at hand is likely over, judged by those of
// the same target, or, for a target not known, of the same proxy.
type adaptive struct {
	quiet   float64 // s without news after which nothing is known of an outage
	targets *lru.Map[party]
	proxies *lru.Map[party]
}

// party is a target, through whatever proxy, or a proxy, to whatever target.
type party struct {
	failing     bool    // its last attempt failed
	began, last float64 // the first and the last failure of the outage, s since the Unix epoch
	outages     [remembered]float64
	ended       int // outages, also those no longer remembered
}

const (
	remembered = 16
	enough     = 2    // outages to have seen before they are believed
	shortest   = 0.1  // s waited at least
	margin     = 1.15 // of an outage's length, for good measure
	soonest    = 0.05 // s, an outage's length at least
)

func (a *adaptive) Configure(s *configure.Settings) error {
	a.quiet = s.Float("quiet", 60, 1, 3600)
	size := s.Int("max_parties", 1024, 1, 16384)
	a.targets, a.proxies = lru.New[party](size), lru.New[party](size)
	return nil
}

func (a *adaptive) Observe(o *abi.Observation) {
	a.targets.Put(o.HostHash).hear(o.Now, o.Success != 0, a.quiet)
	a.proxies.Put(o.IDHash).hear(o.Now, o.Success != 0, a.quiet)
}

func (p *party) hear(now float64, success bool, quiet float64) {
	if p.failing && now-p.last > quiet {
		p.failing = false // it may have ended any time since: no outage to learn from
	}
	switch {
	case success && p.failing:
		p.failing = false
		p.outages[p.ended%remembered] = length(p.last-p.began, now-p.began)
		p.ended++
	case !success:
		if !p.failing {
			p.failing, p.began = true, now
		}
		p.last = now
	}
}

// length is what an outage may have lasted that was there after low seconds and
// gone after high: by ratio a quarter of the way down from high, since little
// traffic sees an outage end late.
func length(low, high float64) float64 {
	low, high = max(low, soonest), max(high, soonest)
	return math.Sqrt(high * math.Sqrt(high*low))
}

func (a *adaptive) Delay(r *abi.BackoffRequest) float64 {
	cold := exponential(r)
	p := a.targets.Get(r.HostHash)
	if p == nil || p.ended < enough {
		p = a.proxies.Get(r.IDHash)
	}
	if p == nil || p.ended < enough {
		return cold
	}
	if !p.failing { // another request has got through meanwhile
		return shortest
	}
	var left [remembered]float64 // of those that lasted longer than this one so far
	n := 0
	for _, o := range p.outages[:min(p.ended, remembered)] {
		if l := o*margin - (r.Now - p.began); l > 0 {
			at := n
			for ; at > 0 && left[at-1] > l; at-- {
				left[at] = left[at-1]
			}
			left[at] = l
			n++
		}
	}
	if n == 0 {
		return cold // it is the longest yet
	}
	wait := choose(left[:n], cold, r.Retry >= r.MaxAttempts-1)
	if r.Jitter != 0 {
		wait *= 1 + 0.25*r.Random
	}
	return min(max(wait, shortest), r.Cap)
}

// choose is the wait, left being what outages such as this one have had left,
// in order, and cold the exponential wait. If that would do for half of them,
// the wait ends with the last for which it would: as likely to do, and sooner.
// Otherwise it ends when half are over. The last retry waits for nine in ten.
func choose(left []float64, cold float64, last bool) float64 {
	if last {
		return left[len(left)*9/10]
	}
	over := 0
	for _, l := range left {
		if l <= cold {
			over++
		}
	}
	if 2*over >= len(left) {
		return left[over-1]
	}
	return left[len(left)/2]
}

// exponential is the built-in of that name.
func exponential(r *abi.BackoffRequest) float64 {
	d := min(r.BaseDelay*math.Pow(r.Multiplier, r.Retry-1), r.Cap)
	if r.Jitter == 0 {
		return d
	}
	return 0.5*d + (min(1.5*d, r.Cap)-0.5*d)*r.Random
}
