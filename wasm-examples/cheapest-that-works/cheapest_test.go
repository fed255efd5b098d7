package cheapest

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

// proxy returns a candidate with a hundred attempts, the last one a moment ago.
func proxy(cost, successRate float64) abi.Candidate {
	c := sdktest.Candidate("proxy")
	c.Cost, c.SuccessRate, c.Samples, c.SinceUse = cost, successRate, 100, 1
	return c
}

func TestCheapestThatWorks(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	t.Run("the cheapest is left when it fails", func(t *testing.T) { leaves(t, wasm) })
	t.Run("a proxy that recovers is used again", func(t *testing.T) { exampletest.Recovers(t, wasm, nil, 1) })
	t.Run("settings", func(t *testing.T) { settings(t, wasm) })
}

func leaves(t *testing.T, wasm exampletest.Wasm) {
	p := exampletest.Scorer(t, wasm, nil)
	pool := []abi.Candidate{proxy(5, 0.99), proxy(1, 0.97), proxy(2, 0.98), proxy(0, 0.2)}
	var out strings.Builder
	step := func(name string, want int) {
		scores := p.Score(sdktest.Request(), pool)
		fmt.Fprintf(&out, "%-28s %.3f\n", name, scores)
		require.Equal(t, want, sdktest.Best(scores), name)
	}
	step("free, but fails", 1)
	pool[1].ConsecutiveFailures = 3
	step("the cheapest fails, too", 2)
	pool[2].SuccessRate = 0.79
	step("the next one as well", 0)
	pool[1].SinceUse = 60
	step("the cheapest has rested", 1)
	pool[1].SinceUse = 0
	step("and fails again", 0)
	pool[1].ConsecutiveFailures = 0
	step("or has recovered", 1)
	exampletest.Output(t, ".", out.String())
}

func settings(t *testing.T, wasm exampletest.Wasm) {
	slow := proxy(1, 1)
	slow.LatencyEWMA = 2.5
	pool := []abi.Candidate{slow, proxy(2, 0.6)}
	p := exampletest.Scorer(t, wasm, map[string]any{"latency": 2, "success": 0.5})
	require.Equal(t, 1, sdktest.Best(p.Score(sdktest.Request(), pool)))
	p = exampletest.Scorer(t, wasm, map[string]any{"latency": 3, "failures": 5, "rest": 10})
	require.Equal(t, 0, sdktest.Best(p.Score(sdktest.Request(), pool)))

	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"rest": 10, "sucess": 0.5}),
		`the setting sucess is "0.5"; there are success, failures, latency and rest`)
	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"latency": "fast"}),
		`the setting latency is "fast"; it must be seconds, 0 for any`)
}

func TestTheRustTestsOfTheExamplePass(t *testing.T) {
	cmd := exec.Command("../../sdk/rust/cargo.sh", "test", "--quiet", "--offline", "--locked")
	cmd.Env = append(cmd.Environ(), "CARGO_TARGET_DIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "4 passed")
}
