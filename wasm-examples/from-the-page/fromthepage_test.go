package fromthepage

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

func proxy(successRate, inFlight, weight float64) abi.Candidate {
	c := sdktest.Candidate("proxy")
	c.SuccessRate, c.InFlight, c.Weight = successRate, inFlight, weight
	return c
}

func TestAFullProxyIsChosenLess(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	p := exampletest.Scorer(t, wasm, map[string]any{"connections": 4})
	var out strings.Builder
	for n := range 6 {
		f := float64(n)
		scores := p.Score(sdktest.Request(), []abi.Candidate{proxy(1, f, 1), proxy(0.8, f, 1), proxy(1, f, 2)})
		fmt.Fprintf(&out, "%d in flight  %.3f\n", n, scores)
	}
	exampletest.Output(t, ".", out.String())

	busy := []abi.Candidate{proxy(0.9, 3, 1), proxy(0.6, 0, 1)}
	require.Equal(t, 1, sdktest.Best(p.Score(sdktest.Request(), busy)), "the worse one has room")
	p = exampletest.Scorer(t, wasm, nil)
	require.Equal(t, 0, sdktest.Best(p.Score(sdktest.Request(), busy)), "of ten connections three are not many")
	require.Equal(t, 0.05, p.Tolerance())
}

func TestEveryPoolFits(t *testing.T) {
	p := exampletest.Scorer(t, exampletest.Build(t, "."), nil)
	for _, n := range []int{1, 256, 1, 100_000} {
		scores := p.Score(sdktest.Request(), sdktest.Candidates(n))
		require.Equal(t, 1.0, scores[0])
		require.Greater(t, scores[n-1], 0.0)
	}
}

func TestSettingsThatMakeNoSenseAreRefused(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	for status, config := range map[string]map[string]any{
		"status 1":  {"connection": 4},
		"status 1 ": {"connections": 4, "more": 1},
		"status 2":  {"connections": 0},
		"status 2 ": {"connections": "many"},
	} {
		require.Contains(t, exampletest.Refusal(t, wasm, config), strings.TrimSpace(status), config)
	}
}

func TestAProxyThatRecoversIsUsedAgain(t *testing.T) {
	exampletest.Recovers(t, exampletest.Build(t, "."), nil, 1)
}
