package exampletest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

func TestABackoff(t *testing.T) {
	const dir = "testdata/exponential"
	wasm := exampletest.Build(t, dir)
	p := exampletest.Backoff(t, wasm, nil)
	var waits [3]float64
	for i := range waits {
		waits[i] = p.Delay(sdktest.BackoffRequest(i+1, "proxy-1"))
	}
	exampletest.Output(t, dir, fmt.Sprintf("%v s, %v s, %v s\n", waits[0], waits[1], waits[2]))
	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"a": 1}), "takes no configuration")
}

func TestProxiesRecoverUnderEveryBuiltIn(t *testing.T) {
	for _, name := range []string{"performance", "cost_aware", "least_in_flight", "weighted", "round_robin", "random",
		"exploring"} {
		t.Run(name, func(t *testing.T) {
			w := exampletest.Wasm{Code: builtin.Modules()[name]}
			exampletest.Recovers(t, w, nil, 1)
			exampletest.EachRecovers(t, w)
		})
	}
}

func TestAScorer(t *testing.T) {
	p := exampletest.Scorer(t, exampletest.Wasm{Code: builtin.Modules()["performance"]}, nil)
	scores := p.Score(sdktest.Request(), sdktest.Candidates(20))
	require.Len(t, scores, 20)
	require.Zero(t, sdktest.Best(scores), "the first candidate is the best")
	require.Less(t, scores[18], scores[0])
}
