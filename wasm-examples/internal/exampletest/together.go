package exampletest

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// The pool and the times of the simulations of this file. The first half of the proxies has an outage.
const (
	poolSize   = 8
	failing    = poolSize / 2
	outageFrom = 60 * time.Second
	counted    = 30 * time.Second // the shares are those of this time, from 60 s after the outage on
	sweepEvery = 100 * time.Millisecond
)

// latencies lists functions that return the latency of an attempt, in seconds. With the last one, performance and
// others prefer the proxies without a recent long latency, so that the shares of equal proxies differ at any time.
var latencies = []struct {
	name string
	of   func(r *rand.Rand) float64
}{
	{"1 ms", func(r *rand.Rand) float64 { return 0.001 * (0.8 + 0.4*r.Float64()) }},
	{"30 ms", func(r *rand.Rand) float64 { return 0.030 * (0.8 + 0.4*r.Float64()) }},
	{"30 ms, with a tail", func(r *rand.Rand) float64 { return 0.020 + 0.010*r.ExpFloat64() }},
	{"1 ms, a twentieth 30 ms", func(r *rand.Rand) float64 {
		if r.Float64() < 0.05 {
			return 0.030 * r.ExpFloat64()
		}
		return 0.001
	}},
}

// EachRecovers checks four proxies that have an outage together. From 60 s after the outage on, each of them must get
// at least 40 % of an equal share. The pool has four more proxies, which do not fail. It is meant for scorers that
// share requests among equal proxies. It skips the test under the race detector.
func EachRecovers(t *testing.T, w Wasm) {
	t.Helper()
	if raceEnabled {
		t.Skip("a simulation in one goroutine")
	}
	p := load(t, w, wasmhost.Scorer, nil)
	for _, lasts := range []time.Duration{time.Second, 8 * time.Second} {
		for _, l := range latencies[:3] {
			for seed := uint64(9); seed < 15; seed++ { // seeds for which docs/decisions/near-ties.md was necessary
				for _, share := range p.sharesAfter(lasts, 60, l.of, seed) {
					require.Greater(t, share, 0.4/poolSize, "%s, an outage of %v, seed %d", l.name, lasts, seed)
				}
			}
		}
	}
}

// halfRecovers checks that four proxies get enough requests again after an outage of 8 s: from 60 s after it on, at
// least three quarters of the requests that they get without an outage.
func halfRecovers(t *testing.T, w Wasm, config map[string]any) {
	t.Helper()
	for _, l := range latencies {
		before, after := 0.0, 0.0 // shares of the four in both simulations
		for seed := range uint64(2) {
			without := load(t, w, wasmhost.Scorer, config).sharesAfter(0, 20, l.of, seed)
			with := load(t, w, wasmhost.Scorer, config).sharesAfter(8*time.Second, 20, l.of, seed)
			for i := range failing {
				before += without[i]
				after += with[i]
			}
		}
		t.Logf("four proxies, %s: shares of %.2f without an outage, %.2f after one", l.name, before/2, after/2)
		require.Greater(t, after, 0.75*min(before, 1), l.name)
	}
}

// flight is an attempt in flight.
type flight struct {
	end   time.Time
	query *selector.Query
	proxy *upstream.Upstream
	lease upstream.Lease
	ok    bool
	took  time.Duration
}

// flights is a heap of attempts, the earliest end first.
type flights []*flight

func (f flights) Len() int           { return len(f) }
func (f flights) Less(i, j int) bool { return f[i].end.Before(f[j].end) }
func (f flights) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)        { *f = append(*f, x.(*flight)) }
func (f *flights) Pop() any {
	old := *f
	last := old[len(old)-1]
	*f = old[:len(old)-1]
	return last
}

// simulation is a pool on a virtual clock, with a scorer that chooses the proxy of each attempt. A request has up to
// three attempts.
type simulation struct {
	t       *testing.T
	now     time.Time
	pool    *upstream.Pool
	choose  *selector.Selector
	scorer  *Plugin
	running flights
	luck    *rand.Rand
	latency func(*rand.Rand) float64
	fails   func(proxy int) bool
	counts  [poolSize]float64
}

// sharesAfter simulates rate requests per second. It returns the shares of the proxies from 60 s after an outage on.
func (p *Plugin) sharesAfter(outage time.Duration, rate float64, latency func(*rand.Rand) float64,
	seed uint64) (shares [poolSize]float64) {
	begin := time.Unix(1767225600, 0)
	s := &simulation{t: p.t.(*testing.T), now: begin, scorer: p, luck: rand.New(rand.NewPCG(seed, 1)), latency: latency}
	s.fails = func(proxy int) bool {
		at := s.now.Sub(begin)
		return proxy < failing && at >= outageFrom && at < outageFrom+outage
	}
	s.pool = upstream.NewPool(upstream.PoolConfig{
		Breaker: breaker.Default(), Memory: upstream.DefaultMemory, Now: func() time.Time { return s.now },
	})
	specs, list := make([]upstream.Spec, poolSize), make([]wasmhost.Proxy, poolSize)
	for i := range specs {
		id := fmt.Sprint(i)
		specs[i] = upstream.Spec{ID: id, Weight: 1,
			Address: upstream.Address{Scheme: upstream.HTTP, Host: "simulated:1"}}
		list[i] = wasmhost.Proxy{ID: id, Weight: 1}
	}
	require.NoError(p.t, s.pool.Apply(specs))
	p.SetPool(list)
	s.choose = selector.New(s.pool, rand.New(rand.NewPCG(seed, 2)).Uint64, selector.DefaultMaxCandidates)
	counting := begin.Add(outageFrom + outage + time.Minute)
	swept := begin
	for next := begin; next.Before(counting.Add(counted)); {
		for ; next.Sub(swept) >= sweepEvery; s.pool.Sweep() {
			swept = swept.Add(sweepEvery)
			s.runUntil(swept)
		}
		s.runUntil(next)
		if next.Before(counting) {
			s.counts = [poolSize]float64{}
		}
		target := upstream.Target(fmt.Sprintf("host-%d.test:80", s.luck.IntN(3)))
		s.attempt(&selector.Query{Idempotent: true, Retryable: true, Host: target.Name,
			HostHash: core.Hash53(target.Name), TargetHash: target.Hash})
		next = next.Add(time.Duration(s.luck.ExpFloat64() / rate * 1e9))
	}
	total := 0.0
	for _, n := range s.counts {
		total += n
	}
	for i, n := range s.counts {
		shares[i] = n / total
	}
	return shares
}

func (s *simulation) attempt(q *selector.Query) {
	lease, err := s.choose.Select(q, s.scorer.Module, s.now)
	if err != nil {
		return // every breaker is open
	}
	lease.Target = upstream.Target(q.Host)
	var proxy int
	_, err = fmt.Sscan(lease.Proxy.ID(), &proxy)
	require.NoError(s.t, err)
	s.counts[proxy]++
	f := &flight{query: q, proxy: lease.Proxy, lease: lease, ok: !s.fails(proxy), took: time.Millisecond}
	if f.ok {
		f.took = time.Duration(s.latency(s.luck) * 1e9)
	}
	f.end = s.now.Add(f.took)
	heap.Push(&s.running, f)
}

// runUntil advances the clock, and ends the attempts until then.
func (s *simulation) runUntil(end time.Time) {
	for len(s.running) > 0 && !s.running[0].end.After(end) {
		f := heap.Pop(&s.running).(*flight)
		s.now = f.end
		s.finish(f)
	}
	s.now = end
}

// finish ends an attempt. If it has failed, the request is retried.
func (s *simulation) finish(f *flight) {
	o := core.Outcome{Verdict: core.Failure, Charge: core.ChargeProxyOrTarget, Status: 503, Latency: f.took}
	seen := core.Observation{Now: float64(s.now.UnixNano()) / 1e9, IDHash: f.proxy.IDHash(), HostHash: f.query.HostHash,
		Attempt: float64(f.query.Attempt), Latency: f.took.Seconds(), Status: 503}
	if f.ok {
		o.Verdict, o.Status, seen.Success, seen.Status = core.Success, 200, 1, 200
	}
	f.lease.Settle(&o)
	f.lease.Release()
	require.NoError(s.t, s.scorer.Module.Observe(&seen))
	if q := f.query; !f.ok && q.Attempt < 2 {
		q.Tried = append(q.Tried, selector.TriedProxy{Proxy: f.proxy})
		q.Attempt++
		s.attempt(q)
	}
}
