package main

import (
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/random"
	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

// plugin is a scorer in Go, the scorer in the module, or another one for a comparison.
type plugin struct {
	score   func(abi.RankRequest, []abi.Candidate) []float64
	observe func(abi.Observation)
}

func fresh(t *testing.T, settings ...configure.Setting) *peakEWMA {
	p := &peakEWMA{}
	require.NoError(t, configure.Apply(p, configure.New(settings...)))
	return p
}

func native(p *peakEWMA) plugin {
	return plugin{
		func(q abi.RankRequest, c []abi.Candidate) []float64 { return sdktest.Score(p, q, c) },
		func(o abi.Observation) { p.Observe(&o) },
	}
}

func roundRobin() plugin {
	turn := -1
	return plugin{func(_ abi.RankRequest, c []abi.Candidate) []float64 {
		turn++
		scores := make([]float64, len(c))
		scores[turn%len(c)] = 1
		return scores
	}, func(abi.Observation) {}}
}

// leastInFlight is the built-in least_in_flight. It chooses among equal proxies at random.
func leastInFlight() plugin {
	return plugin{func(q abi.RankRequest, c []abi.Candidate) []float64 {
		scores, r := make([]float64, len(c)), random.From(q.Seed)
		for i := range c {
			scores[i] = -c[i].InFlight - r.Float64()/2
		}
		return scores
	}, func(abi.Observation) {}}
}

// server is a proxy that serves four requests at the same time. Other requests wait.
type server struct {
	candidate abi.Candidate
	mean      float64    // mean time of a request, s
	free      [4]float64 // time when each of the four places is free
	requests  int
}

// end is the end of a request.
type end struct {
	at, latency float64
	server      *server
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// farm is six servers with 100 requests a second.
type farm struct {
	plugin
	servers []*server
	running ends
	now     float64
	chance  random.Source
}

func newFarm(p plugin) *farm {
	f := &farm{plugin: p, now: sdktest.Epoch, chance: random.From(3)}
	for i, mean := range []float64{0.02, 0.02, 0.03, 0.03, 0.05, 0.1} {
		f.servers = append(f.servers, &server{candidate: sdktest.Candidate(strconv.Itoa(i)), mean: mean})
	}
	return f
}

func (f *farm) exponential(mean float64) float64 { return -mean * math.Log(1-f.chance.Float64()) }

// run simulates the given seconds, and returns the latencies of the requests.
func (f *farm) run(seconds float64) (latencies []float64) {
	for _, s := range f.servers {
		s.requests = 0
	}
	until := f.now + seconds
	for f.now < until {
		f.now += f.exponential(0.01)
		for len(f.running) > 0 && f.running[0].at <= f.now {
			e := heap.Pop(&f.running).(end)
			e.server.candidate.InFlight--
			f.observe(abi.Observation{Now: e.at, IDHash: e.server.candidate.IDHash, Success: 1, Latency: e.latency,
				Status: 200})
		}
		q := sdktest.Request()
		q.Now, q.Seed = f.now, float64(f.chance.Uint64()>>11)
		candidates := make([]abi.Candidate, len(f.servers))
		for i, s := range f.servers {
			candidates[i] = s.candidate
		}
		s := f.servers[sdktest.Best(f.score(q, candidates))]
		slices.Sort(s.free[:])
		s.free[0] = max(s.free[0], f.now) + f.exponential(s.mean)
		s.requests++
		s.candidate.InFlight++
		heap.Push(&f.running, end{s.free[0], s.free[0] - f.now, s})
		latencies = append(latencies, s.free[0]-f.now)
	}
	slices.Sort(latencies)
	return latencies
}

// figures returns the median and the 99th percentile in ms.
func figures(latencies []float64) (p50, p99 float64) {
	return 1000 * latencies[len(latencies)/2], 1000 * latencies[len(latencies)*99/100]
}

// outcome compares the scorer with others, and simulates a server that becomes slow. slow is the share of
// this server.
func outcome(p func() plugin) (text string, p99 map[string]float64, slow [3]float64) {
	var out strings.Builder
	p99 = map[string]float64{}
	for _, way := range []struct {
		name  string
		fresh func() plugin
	}{{"p2c-peak-ewma", p}, {"least in flight", leastInFlight}, {"round robin", roundRobin}} {
		median, tail := figures(newFarm(way.fresh()).run(300))
		p99[way.name] = tail
		fmt.Fprintf(&out, "%-16s median %3.0f ms, 99th percentile %4.0f ms\n", way.name, median, tail)
	}
	f := newFarm(p())
	f.run(30)
	for i, part := range []struct {
		what    string
		mean    float64
		seconds float64
	}{{"a fast one's share, in the minute before", 0.02, 60}, {"while it is 50 times slower", 1,
		20}, {"in the minute after it", 0.02, 60}} {
		f.servers[0].mean = part.mean
		all := len(f.run(part.seconds))
		slow[i] = float64(f.servers[0].requests) / float64(all)
		fmt.Fprintf(&out, "%-42s %4.1f %%\n", part.what, 100*slow[i])
	}
	return out.String(), p99, slow
}

func TestTailLatencyAndAServerThatBecomesSlow(t *testing.T) {
	_, p99, slow := outcome(func() plugin { return native(fresh(t)) })
	require.Less(t, p99["p2c-peak-ewma"], 0.85*p99["least in flight"])
	require.Less(t, p99["p2c-peak-ewma"], 0.75*p99["round robin"])
	require.Greater(t, slow[0], 0.2)
	require.Less(t, slow[1], 0.03)
	require.Greater(t, slow[2], 0.15, "it comes back")
}

// The scorer chooses two proxies at random, each pair equally often. The other proxies have lower scores.
func TestItChoosesAmongTwo(t *testing.T) {
	p := native(fresh(t))
	candidates := sdktest.Candidates(5)
	pairs := map[[2]int]int{}
	r := random.From(5)
	for range 10_000 {
		q := sdktest.Request()
		q.Seed = float64(r.Uint64() >> 11)
		scores := p.score(q, candidates)
		first, second := slices.Index(scores, 2), slices.Index(scores, 1)
		require.True(t, first >= 0 && second >= 0)
		pairs[[2]int{min(first, second), max(first, second)}]++
	}
	require.Len(t, pairs, 10)
	for pair, n := range pairs {
		require.InDelta(t, 1000, n, 150, "%v", pair)
	}
	require.Equal(t, []float64{2}, p.score(sdktest.Request(), candidates[:1]))
}

func TestTheLoadIsThatOfFinagle(t *testing.T) {
	p := fresh(t)
	c := sdktest.Candidate("a")
	at := func(seconds float64) float64 { return sdktest.Epoch + seconds }
	hear := func(seconds, latency, success float64) {
		p.Observe(&abi.Observation{Now: at(seconds), IDHash: c.IDHash, Success: success, Latency: latency})
	}
	require.Zero(t, p.load(&c, at(0)), "a new one is tried")
	c.InFlight = 2
	require.Greater(t, p.load(&c, at(0)), 1e6, "once")
	hear(0, 0.1, 1)
	require.InDelta(t, 0.1*3, p.load(&c, at(0)), 1e-12)
	hear(1, 0.5, 1)
	require.InDelta(t, 0.5*3, p.load(&c, at(1)), 1e-12, "a peak counts at once")
	hear(11, 0.1, 1)
	mean := 0.5/math.E + 0.1*(1-1/math.E)
	require.InDelta(t, mean*3, p.load(&c, at(11)), 1e-12, "and comes down slowly")
	require.InDelta(t, mean/math.E*3, p.load(&c, at(21)), 1e-12, "without news too")
	require.InDelta(t, mean/math.E*3, p.load(&c, at(5)), 1e-12, "a clock that goes back does nothing")
	hear(21, 0.001, 0)
	require.InDelta(t, 1*3, p.load(&c, at(21)), 1e-12, "a quick failure counts a second")
}

func TestTheScorerPassesTheChecks(t *testing.T) {
	require.NoError(t, sdktest.CheckScorer(func() scorer.Scorer { return &peakEWMA{} }))
}

func TestTheNumberOfKeptProxiesIsBounded(t *testing.T) {
	p := fresh(t, configure.Setting{Key: "max_proxies", Value: "3"})
	for i := range 10 {
		o := sdktest.Observation(fmt.Sprint("proxy-", i), true)
		p.Observe(&o)
	}
	require.Equal(t, 3, p.costs.Len())
}

func TestTheModule(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	text, p99, slow := outcome(func() plugin {
		p := exampletest.Scorer(t, wasm, nil)
		return plugin{p.Score, p.Observe}
	})
	require.Less(t, p99["p2c-peak-ewma"], 0.85*p99["least in flight"])
	require.Less(t, slow[1], 0.03)
	exampletest.Output(t, ".", text)

	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"decays": 1}),
		"there is no setting decays; there are decay, failure, max_proxies")

	// In each call, the module has the same result as the native code.
	module, here := exampletest.Scorer(t, wasm, map[string]any{"decay": 5}), native(fresh(t,
		configure.Setting{Key: "decay", Value: "5"}))
	module.MatchesNative(here.score, here.observe, 0)
}

func TestAProxyThatRecoversIsUsedAgain(t *testing.T) {
	exampletest.Recovers(t, exampletest.Build(t, "."), nil, 1)
}
