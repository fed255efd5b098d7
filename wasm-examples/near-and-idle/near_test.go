package near

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

// proxy returns a candidate with a hundred attempts.
func proxy(latency, inFlight, here float64) abi.Candidate {
	c := sdktest.Candidate("proxy")
	c.LatencyEWMA, c.InFlight, c.RegionMatch, c.SuccessRate, c.Samples = latency, inFlight, here, 1, 100
	return c
}

func TestNearAndIdle(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	pool := []abi.Candidate{proxy(0.2, 0, 1), proxy(0.1, 0, 0), proxy(0.1, 3, 1), proxy(0.05, 0, 1)}
	pool[3].SuccessRate = 0.2
	var out strings.Builder
	step := func(name string, region, want int, config map[string]any) {
		request := sdktest.Request()
		request.RegionHash = float64(region)
		scores := exampletest.Scorer(t, wasm, config).Score(request, pool)
		fmt.Fprintf(&out, "%-24s %.2f\n", name, scores)
		require.Equal(t, want, sdktest.Best(scores), name)
	}
	step("no region is wanted", 0, 1, nil)
	step("the region counts", 1, 0, nil)
	step("a toll of 50 ms", 1, 1, map[string]any{"toll": 0.05})
	exampletest.Output(t, ".", out.String())
	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"toll": -1}),
		`the setting toll is "-1"; it must be 0 to 60`)
}

func TestARecoveredProxyIsUsedAgain(t *testing.T) {
	exampletest.Recovers(t, exampletest.Build(t, "."), nil, 1)
}

func TestTheRustTestsOfTheExamplePass(t *testing.T) {
	out, err := exec.Command("../../sdk/zig/zig.sh", "test", "--cache-dir", t.TempDir(), "--dep", "whirlpool.zig",
		"-Mroot=src/near-and-idle.zig", "-Mwhirlpool.zig=../../sdk/zig/whirlpool.zig").CombinedOutput()
	require.NoError(t, err, "%s", out)
}
