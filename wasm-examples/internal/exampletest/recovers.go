package exampletest

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/plugins/simulate"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
)

// outages lists outages of a proxy: when each begins, how long it lasts, and the duration and request rate of its
// simulation. A column of the report covers the time total / simulate.Columns. In the simulation of the longest
// outage, a column begins exactly 60 s after the end of the outage.
var outages = []struct{ begins, lasts, total, rate float64 }{ // s, and requests per second
	{120, 1, 420, 20},
	{120, 150, 420, 20},
	{175, 3600, 3900, 5},
}

// seeds is the number of runs over which Recovers takes the mean.
const seeds = 4

// Recovers checks that a scorer uses a proxy again after an outage of the proxy. It simulates three proxies, with
// breakers and without. The first and cheapest proxy has an outage of 1 s, 150 s or an hour, and otherwise always
// succeeds. Recovers computes the mean share of the requests that this proxy gets before the outage, and from 60 s
// after the outage on. The later share must lie between the earlier share and a third of the requests. It may miss
// these two limits by a third of their value. The parameter others is the success rate of the other two proxies, 0 to
// 1. It must be below 1 for a scorer that stays with one of several equal proxies. Recovers skips the test under the
// race detector, because the simulation would take minutes and has only one goroutine. If the others do not fail, it
// checks the shares of four proxies that recover together as well (halfRecovers).
func Recovers(t *testing.T, w Wasm, config map[string]any, others float64) {
	t.Helper()
	if raceEnabled {
		t.Skip("a simulation in one goroutine")
	}
	for name, breakers := range map[string]breaker.Config{"breakers": breaker.Default(),
		"no breakers": simulate.NoBreaker()} {
		for _, o := range outages {
			column := o.total / simulate.Columns // s
			trace := &simulate.Trace{Duration: o.total, Rate: o.rate, Hosts: 50, Start: sdktest.Epoch}
			for i, id := range []string{"proxy-1", "proxy-2", "proxy-3"} {
				trace.Proxies = append(trace.Proxies, simulate.Proxy{
					ID: id, Weight: 1, Cost: float64(i), States: []simulate.State{{Success: others, Latency: 0.05}},
				})
			}
			well := o.begins + o.lasts
			first := &trace.Proxies[0]
			first.States[0].Success = 1
			first.States = append(first.States, simulate.State{At: o.begins, Latency: 0.05},
				simulate.State{At: well, Success: 1, Latency: 0.05})
			plugin := simulate.Plugin{Name: "plugin", Code: w.Code, Config: config}
			half := math.Floor(o.begins/2/column) * column
			before, after := 0.0, 0.0
			for seed := range uint64(seeds) {
				report, err := simulate.SimulateScorer(host(w), plugin, trace, breakers, seed+1)
				require.NoError(t, err)
				share := func(from, to float64) float64 { // share of the first proxy
					sum, n := 0.0, 0
					for c := int(math.Ceil(from / column)); float64(c+1)*column <= to; c++ {
						sum += report.Results[0].Timeline[0][c]
						n++
					}
					return sum / float64(n)
				}
				before += share(half, o.begins) / seeds
				after += share(well+60, well+60+max(60, column)+7) / seeds
			}
			t.Logf("%s, %v s: a share of %.2f before, %.2f after", name, o.lasts, before, after)
			require.Greater(t, before, 0.05, "%s: the proxy is in use", name)
			require.Greater(t, after, 0.67*min(before, 1.0/3), "%s, failing for %v s", name, o.lasts)
			require.Less(t, after, 1.33*max(before, 1.0/3), "%s, failing for %v s", name, o.lasts)
		}
	}
	if others == 1 {
		halfRecovers(t, w, config)
	}
}
