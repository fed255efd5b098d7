package simulate

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Columns is the number of columns of a plot over time.
const Columns = 60

// ScorerReport is the report on scorers and one trace.
type ScorerReport struct {
	Requests int      `json:"requests"`
	Duration float64  `json:"duration"` // s
	Proxies  []string `json:"proxies"`
	Results  []Result `json:"results"` // results of the plugin, performance, random and the oracle
}

// Result is the result of one scorer.
type Result struct {
	Scorer      string      `json:"scorer"`
	SuccessRate float64     `json:"success_rate"` // share of all requests, 0 to 1
	Latency     float64     `json:"mean_latency"` // mean latency of all attempts, s
	Cost        float64     `json:"mean_cost"`    // mean cost per attempt
	Regret      float64     `json:"regret"`       // expected successes of the oracle minus those of the scorer
	Refused     int         `json:"refused"`      // requests without an attempt, because every breaker was open
	Faults      int         `json:"faults"`       // plugin faults: calls in which rotation replaced the scorer
	LastFault   string      `json:"last_fault,omitempty"`
	Shares      []float64   `json:"shares"`   // share of each proxy in the attempts
	Timeline    [][]float64 `json:"timeline"` // share of each proxy in the attempts of each column
}

// sweepInterval is the interval of Pool.Sweep in the gateway.
const sweepInterval = 100 * time.Millisecond

// oracle is the name of the scorer that reads the trace and always chooses the best proxy.
const oracle = "oracle"

// Plugin is a plugin to simulate.
type Plugin struct {
	Name   string
	Code   []byte
	Config map[string]any
}

func builtInPlugin(name string) Plugin { return Plugin{Name: name, Code: builtin.Modules()[name]} }

// NoBreaker returns the settings of a breaker that never opens, so that only the scorer avoids bad proxies.
func NoBreaker() breaker.Config {
	c := breaker.Default()
	c.FailureThreshold = math.MaxInt
	return c
}

// SimulateScorer simulates a trace with a scorer plugin, the built-ins performance and random, and an oracle that
// always chooses the proxy with the highest probability of success. All get the same requests and random numbers. The
// same seed gives the same report. Each request is one attempt.
func SimulateScorer(host *wasmhost.Host, plugin Plugin, t *Trace, breakers breaker.Config, seed uint64) (ScorerReport,
	error) {
	report := ScorerReport{Duration: t.Duration}
	for _, p := range t.Proxies {
		report.Proxies = append(report.Proxies, p.ID)
	}
	for _, c := range []Plugin{plugin, builtInPlugin("performance"), builtInPlugin("random")} {
		m, err := host.Load(c.Code, c.Config)
		if err != nil {
			return ScorerReport{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		p := newScorerRun(t, seed)
		err = p.simulateScorer(m, breakers)
		m.Close()
		if err != nil {
			return ScorerReport{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		report.Results = append(report.Results, p.result(c.Name))
	}
	p := newScorerRun(t, seed)
	p.simulateOracle()
	report.Requests = p.requests
	report.Results = append(report.Results, p.result(oracle))
	return report, nil
}

// scorerRun is one run over a trace.
type scorerRun struct {
	trace      *Trace
	seed       uint64
	luckSeed   float64    // seed of luck
	arrivals   *rand.Rand // times of requests, the same for all scorers
	index      map[string]int
	stateIndex []int // index of each proxy's current State

	requests, attempts, successes, refused int
	latency, cost, regret                  float64
	attemptsByColumn                       [][]int // attempts by proxy and column
	inFlight                               []int   // attempts in flight by proxy
	scorer                                 *countingScorer
}

func newScorerRun(t *Trace, seed uint64) *scorerRun {
	p := &scorerRun{
		trace: t, seed: seed, luckSeed: float64(rand.NewPCG(seed, 3).Uint64() >> 11),
		arrivals: rand.New(rand.NewPCG(seed, 1)),
		index:    map[string]int{}, stateIndex: make([]int, len(t.Proxies)), attemptsByColumn: make([][]int,
			len(t.Proxies)),
		inFlight: make([]int, len(t.Proxies)), scorer: &countingScorer{},
	}
	for i := range t.Proxies {
		p.index[t.Proxies[i].ID] = i
		p.attemptsByColumn[i] = make([]int, Columns)
	}
	return p
}

// module has the methods of wasmhost.Module that a simulation calls.
type module interface {
	core.Scorer
	core.Tolerance
	SetPool([]wasmhost.Proxy)
	Observe(*core.Observation) error
}

// countingScorer counts the failed calls of a scorer. After a failed call, the selector chooses the proxies in
// rotation.
type countingScorer struct {
	module
	faults    int
	lastFault string
}

func (c *countingScorer) countFault(err error) error {
	if err != nil {
		c.faults++
		c.lastFault = err.Error()
	}
	return err
}

func (c *countingScorer) Score(candidates core.Candidates, scores []float64) error {
	return c.countFault(c.module.Score(candidates, scores))
}

// attemptInFlight is an attempt in flight, with its result.
type attemptInFlight struct {
	end         time.Time
	proxy       int // index of the proxy
	lease       upstream.Lease
	outcome     core.Outcome
	observation core.Observation
}

// attemptHeap is a heap of attempts, the earliest end first.
type attemptHeap []*attemptInFlight

func (h attemptHeap) Len() int           { return len(h) }
func (h attemptHeap) Less(i, j int) bool { return h[i].end.Before(h[j].end) }
func (h attemptHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *attemptHeap) Push(x any)        { *h = append(*h, x.(*attemptInFlight)) }
func (h *attemptHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// eachRequest calls f with the time of every request, in seconds from the beginning of the trace.
func (sr *scorerRun) eachRequest(f func(t float64)) {
	rate := sr.trace.Rate
	for t := sr.arrivals.ExpFloat64() / rate; t < sr.trace.Duration; t += sr.arrivals.ExpFloat64() / rate {
		f(t)
		sr.requests++
	}
}

// simulateScorer simulates the trace with the scorer m.
func (sr *scorerRun) simulateScorer(m module, breakers breaker.Config) error {
	sr.scorer = &countingScorer{module: m}
	begin := time.Unix(0, int64(sr.trace.Start*1e9))
	now := begin
	clock := func() time.Time { return now }
	pool := upstream.NewPool(upstream.PoolConfig{Breaker: breakers, Memory: upstream.DefaultMemory, Now: clock})
	if err := pool.Apply(sr.specs()); err != nil {
		return err
	}
	m.SetPool(sr.pool())
	choose := selector.New(pool, rand.New(rand.NewPCG(sr.seed, 2)).Uint64, selector.DefaultMaxCandidates)
	hosts, targets := make([]float64, sr.trace.Hosts), make([]evidence.Target, sr.trace.Hosts)
	for i := range hosts {
		name := fmt.Sprintf("host-%d.test", i+1)
		hosts[i], targets[i] = core.Hash53(name), upstream.Target(name+":80")
	}
	var running attemptHeap
	end := func(until time.Time) {
		for len(running) > 0 && !running[0].end.After(until) {
			e := heap.Pop(&running).(*attemptInFlight)
			now = e.end
			sr.inFlight[e.proxy]--
			e.lease.Settle(&e.outcome)
			e.lease.Release()
			sr.scorer.countFault(m.Observe(&e.observation))
		}
		now = until
	}
	q := &selector.Query{}
	swept := begin
	sr.eachRequest(func(t float64) {
		end(begin.Add(time.Duration(t * 1e9)))
		if now.Sub(swept) >= sweepInterval {
			pool.Sweep()
			swept = now
		}
		q.Reset()
		host := int(sr.luck(-1) * float64(len(hosts)))
		q.Idempotent, q.Retryable, q.HostHash = true, true, hosts[host]
		q.RegionHash = core.RegionHash(sr.trace.Region)
		lease, err := choose.Select(q, sr.scorer, now)
		if err != nil {
			sr.refused++
			sr.regret += sr.bestState(t).Success
			return
		}
		lease.Target = targets[host]
		i := sr.index[lease.Proxy.ID()]
		ok, latency := sr.attempt(i, t)
		e := &attemptInFlight{end: now.Add(latency), proxy: i, lease: lease, outcome: core.Outcome{
			Verdict: core.Failure, Charge: core.ChargeProxyOrTarget, Status: 503, Latency: latency,
		}}
		if ok {
			e.outcome.Verdict, e.outcome.Status = core.Success, 200
		}
		e.observation = core.Observation{
			Now: float64(e.end.UnixNano()) / 1e9, IDHash: lease.Proxy.IDHash(), HostHash: q.HostHash,
			Success: toFloat(ok),
			Latency: latency.Seconds(), Status: float64(e.outcome.Status),
		}
		heap.Push(&running, e)
	})
	end(begin.Add(time.Duration(math.MaxInt64)))
	return nil
}

// simulateOracle simulates the trace with the oracle.
func (sr *scorerRun) simulateOracle() {
	var running attemptHeap
	sr.eachRequest(func(t float64) {
		now := time.Unix(0, int64(t*1e9))
		for len(running) > 0 && !running[0].end.After(now) {
			sr.inFlight[heap.Pop(&running).(*attemptInFlight).proxy]--
		}
		i := sr.bestIndex(t)
		_, latency := sr.attempt(i, t)
		heap.Push(&running, &attemptInFlight{end: now.Add(latency), proxy: i})
	})
}

func toFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (sr *scorerRun) specs() []upstream.Spec {
	specs := make([]upstream.Spec, len(sr.trace.Proxies))
	for i, x := range sr.trace.Proxies {
		address := upstream.Address{Scheme: upstream.HTTP, Host: "simulated:1"}
		specs[i] = upstream.Spec{ID: x.ID, Region: x.Region, Weight: x.Weight, Cost: x.Cost, Address: address}
	}
	return specs
}

func (sr *scorerRun) pool() []wasmhost.Proxy {
	list := make([]wasmhost.Proxy, len(sr.trace.Proxies))
	for i, x := range sr.trace.Proxies {
		list[i] = wasmhost.Proxy{ID: x.ID, Region: x.Region, Weight: x.Weight, Cost: x.Cost, Metadata: x.Metadata}
	}
	return list
}

// luck returns a random number in [0, 1) for the current request and a purpose. The number is the same for all scorers.
func (sr *scorerRun) luck(purpose int) float64 {
	return core.Pair53(core.Pair53(sr.luckSeed, float64(sr.requests)), float64(purpose+1)) / (1 << 53)
}

// attempt begins and counts an attempt through proxy i. When the latency has passed, the caller must subtract 1 from
// sr.inFlight[i].
func (sr *scorerRun) attempt(i int, t float64) (ok bool, latency time.Duration) {
	x := &sr.trace.Proxies[i]
	s := sr.state(i, t)
	ok = sr.luck(2*i) < s.Success
	seconds := s.Latency * (0.8 + 0.4*sr.luck(2*i+1))
	sr.attempts++
	if ok {
		sr.successes++
	}
	sr.latency += seconds
	sr.cost += x.Cost
	sr.regret += sr.bestState(t).Success - s.Success
	sr.inFlight[i]++
	sr.attemptsByColumn[i][min(int(t/sr.trace.Duration*Columns), Columns-1)]++
	return ok, time.Duration(seconds * 1e9)
}

// state returns the state of proxy i for its next attempt. If this attempt exceeds the proxy's capacity, the latency is
// higher and the probability of success is lower.
func (sr *scorerRun) state(i int, t float64) State {
	s := sr.trace.Proxies[i].stateAt(t, &sr.stateIndex[i])
	if n := float64(sr.inFlight[i] + 1); s.Capacity > 0 && n > s.Capacity {
		s.Success *= s.Capacity / n
		s.Latency *= min(n/s.Capacity, maxSlowdown)
	}
	return s
}

// maxSlowdown is the largest factor by which latencies increase beyond the capacity.
const maxSlowdown = 10

// bestIndex returns the index of the proxy with the highest probability of success and, among equals, the lowest
// latency.
func (sr *scorerRun) bestIndex(t float64) int {
	best, bestState := 0, State{Success: -1}
	for i := range sr.trace.Proxies {
		s := sr.state(i, t)
		if s.Success > bestState.Success || s.Success == bestState.Success && s.Latency < bestState.Latency {
			best, bestState = i, s
		}
	}
	return best
}

func (sr *scorerRun) bestState(t float64) State {
	return sr.state(sr.bestIndex(t), t)
}

func (sr *scorerRun) result(name string) Result {
	r := Result{Scorer: name, Regret: sr.regret, Refused: sr.refused, Faults: sr.scorer.faults,
		LastFault: sr.scorer.lastFault}
	if sr.requests > 0 {
		r.SuccessRate = float64(sr.successes) / float64(sr.requests)
	}
	if sr.attempts > 0 {
		r.Latency, r.Cost = sr.latency/float64(sr.attempts), sr.cost/float64(sr.attempts)
	}
	all := make([]int, Columns)
	for _, columns := range sr.attemptsByColumn {
		for c, n := range columns {
			all[c] += n
		}
	}
	for _, columns := range sr.attemptsByColumn {
		total, line := 0, make([]float64, Columns)
		for c, n := range columns {
			total += n
			if all[c] > 0 {
				line[c] = float64(n) / float64(all[c])
			}
		}
		r.Timeline = append(r.Timeline, line)
		r.Shares = append(r.Shares, float64(total)/float64(max(sr.attempts, 1)))
	}
	return r
}
