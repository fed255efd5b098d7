package main

import (
	"fmt"
	"math"
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

// plugin is the scorer in Go or in the module.
type plugin struct {
	score   func(abi.RankRequest, []abi.Candidate) []float64
	observe func(abi.Observation)
}

func native(t *testing.T, settings ...configure.Setting) plugin {
	s := &thompson{}
	require.NoError(t, configure.Apply(s, configure.New(settings...)))
	return plugin{
		func(q abi.RankRequest, c []abi.Candidate) []float64 { return sdktest.Score(s, q, c) },
		func(o abi.Observation) { s.Observe(&o) },
	}
}

// sim is a pool whose proxies succeed with fixed probabilities, with ten requests a second.
type sim struct {
	plugin
	rates  map[string]float64
	ids    []string
	now    float64
	turn   int
	chance random.Source
}

func newSim(p plugin) *sim {
	return &sim{
		plugin: p, ids: []string{"alpha", "bravo", "charlie", "delta"}, now: sdktest.Epoch, chance: random.From(1),
		rates: map[string]float64{"alpha": 0.95, "bravo": 0.7, "charlie": 0.5, "delta": 0.1},
	}
}

// run makes n requests, and returns the share of each proxy.
func (s *sim) run(n int) map[string]float64 {
	share := map[string]float64{}
	candidates := make([]abi.Candidate, len(s.ids))
	for i, id := range s.ids {
		candidates[i] = sdktest.Candidate(id)
	}
	for range n {
		s.now += 0.1
		s.turn++
		q := sdktest.Request()
		q.Now, q.Seed = s.now, float64(s.chance.Uint64()>>11)
		id := s.ids[sdktest.Best(s.score(q, candidates))]
		share[id] += 1 / float64(n)
		o := sdktest.Observation(id, s.chance.Float64() < s.rates[id])
		o.Now = s.now
		s.observe(o)
	}
	return share
}

// outcome runs the example of the README, and returns its text.
func outcome(p plugin) (text string, warm, swapped map[string]float64) {
	s := newSim(p)
	var out strings.Builder
	tell := func(what string, share map[string]float64) map[string]float64 {
		fmt.Fprintf(&out, "%-34s", what)
		for _, id := range s.ids {
			fmt.Fprintf(&out, " %s %3.0f %%", id, 100*share[id])
		}
		fmt.Fprintln(&out)
		return share
	}
	tell("the first 100 requests", s.run(100))
	s.run(200)
	warm = tell("requests 301 to 1300", s.run(1000))
	s.rates["alpha"], s.rates["bravo"] = 0.2, 0.95
	tell("alpha turns bad, bravo good: 100", s.run(100))
	s.run(900)
	swapped = tell("a thousand later: 1000", s.run(1000))
	return out.String(), warm, swapped
}

func TestItFindsTheBestProxyAndTheNextBest(t *testing.T) {
	_, warm, swapped := outcome(native(t))
	require.Greater(t, warm["alpha"], 0.9)
	require.Greater(t, swapped["bravo"], 0.9)
}

// The scorer tries a proxy again that it has avoided, because old attempts lose their weight.
func TestItExploresAgain(t *testing.T) {
	s := newSim(native(t, configure.Setting{Key: "half_life", Value: "10"}))
	s.run(500)
	s.rates["delta"] = 1 // better than all others
	require.Greater(t, s.run(3000)["delta"], 0.3)
	require.Greater(t, s.run(1000)["delta"], 0.7)
}

func TestBetaHasItsMeanAndVariance(t *testing.T) {
	r := random.From(7)
	for _, p := range [][2]float64{{1, 1}, {1, 9}, {30, 3}, {500, 100}} {
		a, b := p[0], p[1]
		const n = 50_000
		var sum, square float64
		for range n {
			x := beta(&r, a, b)
			sum, square = sum+x, square+x*x
		}
		mean, variance := a/(a+b), a*b/((a+b)*(a+b)*(a+b+1))
		require.InDelta(t, mean, sum/n, 5*math.Sqrt(variance/n))
		require.InEpsilon(t, variance, square/n-sum/n*sum/n, 0.05)
	}
}

func TestTheScorerPassesTheChecks(t *testing.T) {
	require.NoError(t, sdktest.CheckScorer(func() scorer.Scorer { return &thompson{} }))
}

func TestTheNumberOfKeptProxiesIsBounded(t *testing.T) {
	s := &thompson{}
	require.NoError(t, configure.Apply(s, configure.New(configure.Setting{Key: "max_proxies", Value: "3"})))
	for i := range 10 {
		o := sdktest.Observation(fmt.Sprint("proxy-", i), true)
		s.Observe(&o)
	}
	require.Equal(t, 3, s.arms.Len())
}

func TestTheModule(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	p := exampletest.Scorer(t, wasm, map[string]any{"half_life": 60})
	text, warm, swapped := outcome(plugin{p.Score, p.Observe})
	require.Greater(t, warm["alpha"], 0.9)
	require.Greater(t, swapped["bravo"], 0.9)
	exampletest.Output(t, ".", text)

	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"half_life": 0}),
		"the setting half_life is \"0\"; it must be a number from 0.1 to 86400")

	// In each call, the module has the same result as the native code.
	module, here := exampletest.Scorer(t, wasm, nil), native(t)
	module.MatchesNative(here.score, here.observe, 1e-9)
}

func TestAProxyThatRecoversIsUsedAgain(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	exampletest.Recovers(t, wasm, nil, 0.8)
	exampletest.Recovers(t, wasm, nil, 1)
}
