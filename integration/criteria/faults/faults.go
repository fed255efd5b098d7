// Package faults generates traces of failing proxies. A trace is a Pool: the behaviour of each proxy at each moment.
// The random numbers of a trace depend only on its seed. Times count from the beginning of a run.
package faults

import (
	"math"
	"math/rand/v2"
	"sort"
	"time"
)

// State is the behaviour of a proxy towards one target at one moment.
type State struct {
	Refuses bool          // refuses connections
	Hangs   bool          // accepts connections and never responds
	Drops   bool          // accepts a CONNECT and closes the tunnel when the first byte arrives
	Fails   float64       // probability that an attempt gets a 503, 0 to 1
	Latency time.Duration // median time until the response
}

// Loss returns the probability that an attempt fails, 0 to 1.
func (s State) Loss() float64 {
	if s.Refuses || s.Hangs {
		return 1
	}
	return s.Fails
}

// badLoss is the lowest probability of failure of a bad proxy.
const badLoss = 0.7

// Bad reports whether a proxy in this state is bad: at least 70 % of its attempts fail.
func (s State) Bad() bool { return s.Loss() >= badLoss }

// Change is a State and the time at which it begins.
type Change struct {
	At time.Duration
	State
}

// Span is a period that includes From and excludes To.
type Span struct{ From, To time.Duration }

// Proxy is the behaviour of one proxy over time.
type Proxy struct {
	Changes []Change       // ordered by time; the first is at 0
	Bans    map[int][]Span // by target: the periods in which the target refuses this proxy with a 503
}

// Pool is the behaviour of all proxies over time.
type Pool []Proxy

// At returns the state that the proxy has towards a target at a given time.
func (p *Proxy) At(target int, at time.Duration) State {
	i := sort.Search(len(p.Changes), func(i int) bool { return p.Changes[i].At > at })
	s := p.Changes[max(i-1, 0)].State
	if isWithin(p.Bans[target], at) {
		s.Fails = 1
	}
	return s
}

// LastChange returns the time of the last change of the proxy's state towards a target, not later than the given time.
// It returns 0 if there was no change.
func (p *Proxy) LastChange(target int, at time.Duration) (last time.Duration) {
	for _, c := range p.Changes {
		if c.At <= at {
			last = max(last, c.At)
		}
	}
	for _, b := range p.Bans[target] {
		for _, t := range []time.Duration{b.From, b.To} {
			if t <= at {
				last = max(last, t)
			}
		}
	}
	return last
}

// Habits returns two properties of the proxy in a run of the given length: the share of time in which it failed
// (mean), and the number of seconds after which an observed state shows little about the current one (memory). For a
// Markov chain, memory is 1 / (the rate of beginnings + the rate of ends of bad periods). It is infinite for a state
// that never changes.
func (p *Proxy) Habits(length time.Duration) (mean, memory float64) {
	if len(p.Changes) == 1 && len(p.Bans) == 0 {
		return p.Changes[0].Loss(), math.Inf(1)
	}
	bad, periods := 0.0, 0.0
	add := func(from, to time.Duration) {
		if from < length {
			bad += (min(to, length) - from).Seconds()
			periods++
		}
	}
	for i, c := range p.Changes {
		if c.Loss() < 0.5 {
			continue
		}
		to := length
		if i+1 < len(p.Changes) {
			to = p.Changes[i+1].At
		}
		add(c.At, to)
	}
	for _, spans := range p.Bans {
		for _, s := range spans {
			add(s.From, s.To)
		}
	}
	all := length.Seconds() * float64(max(len(p.Bans), 1))
	if periods == 0 {
		return 0, math.Inf(1)
	}
	return bad / all, 1 / (periods/bad + periods/max(all-bad, 1))
}

// CountFailing returns the number n of proxies that fail most attempts at a target at a given time. The second result
// is the time that has passed since a proxy last changed its state towards that target.
func (p Pool) CountFailing(target int, at time.Duration) (n int, since time.Duration) {
	last := time.Duration(0)
	for i := range p {
		if p[i].At(target, at).Loss() > 0.5 {
			n++
		}
		last = max(last, p[i].LastChange(target, at))
	}
	return n, at - last
}

func isWithin(spans []Span, at time.Duration) bool {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].To > at })
	return i < len(spans) && spans[i].From <= at
}

// SteadyProxy returns a proxy whose state never changes.
func SteadyProxy(s State) Proxy { return Proxy{Changes: []Change{{0, s}}} }

// SwitchingProxy returns a proxy that changes once from one state to another. The parameter at is the time of the
// change.
func SwitchingProxy(before, after State, at time.Duration) Proxy {
	return Proxy{Changes: []Change{{0, before}, {at, after}}}
}

// GilbertElliott is a Markov chain with two states, a model of bursts of errors (Gilbert, "Capacity
// of a Burst-Noise Channel", 1960; Elliott 1963), in continuous time: the lengths of good periods
// and of bursts are exponential.
type GilbertElliott struct {
	Good  time.Duration // mean length of a good period, above 0
	Burst time.Duration // mean length of a burst, above 0
}

// Stationary returns the share of time spent in bursts.
func (g GilbertElliott) Stationary() float64 {
	return g.Burst.Seconds() / (g.Good + g.Burst).Seconds()
}

// Bursts returns the bursts of a run of the given length. The chain begins in its
// stationary distribution.
func (g GilbertElliott) Bursts(rng *rand.Rand, length time.Duration) (bursts []Span) {
	draw := func(mean time.Duration) time.Duration { return time.Duration(rng.ExpFloat64() * float64(mean)) }
	at := time.Duration(0)
	bad := rng.Float64() < g.Stationary()
	for at < length {
		if !bad {
			at += draw(g.Good)
		} else {
			end := at + draw(g.Burst)
			bursts = append(bursts, Span{at, end})
			at = end
		}
		bad = !bad
	}
	if n := len(bursts); n > 0 && bursts[n-1].From >= length {
		bursts = bursts[:n-1]
	}
	return bursts
}

// BurstyProxy returns a proxy that is in state bad during bursts and in state good otherwise.
func BurstyProxy(good, bad State, bursts []Span) Proxy {
	p := SteadyProxy(good)
	for _, b := range bursts {
		if b.From == 0 {
			p.Changes[0].State = bad
		} else {
			p.Changes = append(p.Changes, Change{b.From, bad})
		}
		p.Changes = append(p.Changes, Change{b.To, good})
	}
	return p
}

// Independent returns a pool of n proxies, whose bursts are independent of each other.
func (g GilbertElliott) Independent(rng *rand.Rand, n int, good, bad State, length time.Duration) Pool {
	pool := make(Pool, n)
	for i := range pool {
		pool[i] = BurstyProxy(good, bad, g.Bursts(rng, length))
	}
	return pool
}

// Correlated returns a pool of n proxies. Proxy i belongs to the vendor i modulo vendors. All proxies of a vendor
// have their bursts at the same time.
func (g GilbertElliott) Correlated(rng *rand.Rand, n, vendors int, good, bad State, length time.Duration) Pool {
	bursts := make([][]Span, vendors)
	for v := range bursts {
		bursts[v] = g.Bursts(rng, length)
	}
	pool := make(Pool, n)
	for i := range pool {
		pool[i] = BurstyProxy(good, bad, bursts[i%vendors])
	}
	return pool
}

// Banned returns a pool of n proxies in a steady state. Each pair of a target and a proxy has its own bursts,
// in which the target bans the proxy.
func (g GilbertElliott) Banned(rng *rand.Rand, n, targets int, good State, length time.Duration) Pool {
	pool := make(Pool, n)
	for i := range pool {
		pool[i] = SteadyProxy(good)
		pool[i].Bans = map[int][]Span{}
		for target := range targets {
			pool[i].Bans[target] = g.Bursts(rng, length)
		}
	}
	return pool
}
