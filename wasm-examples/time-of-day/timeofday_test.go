package timeofday

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

var pool = []wasmhost.Proxy{
	{ID: "berlin", Region: "eu"},
	{ID: "boston", Region: "us"},
	{ID: "tokyo", Region: "asia"},
	{ID: "spare"},
	{ID: "vilnius", Region: "eu", Metadata: map[string]string{"hours": "0-4", "tier": "gold"}},
}

// rows are the proxies of the pool. Each is a little worse than the proxy before it.
func rows() []abi.Candidate {
	list := make([]abi.Candidate, len(pool))
	for i, p := range pool {
		list[i] = sdktest.Candidate(p.ID)
		list[i].SuccessRate = 0.9 - 0.1*float64(i)
	}
	return list
}

var config = map[string]any{"hours": map[string]any{"eu": "8-12, 13-20", "us": "14-22", "asia": "22-6"}}

func load(t *testing.T, wasm exampletest.Wasm, config map[string]any) *exampletest.Plugin {
	p := exampletest.Scorer(t, wasm, config)
	p.SetPool(pool)
	return p
}

// preferred returns the names of the proxies that are within their hours.
func preferred(p *exampletest.Plugin, now float64, list []abi.Candidate) string {
	var names []string
	for i, s := range p.Score(abi.RankRequest{Now: now}, list) {
		if s >= 1 {
			names = append(names, pool[i].ID)
		}
	}
	return strings.Join(names, " ")
}

func at(clock string) float64 {
	t, err := time.Parse("2006-01-02 15:04:05.999", "2026-03-01 "+clock)
	if err != nil {
		panic(err)
	}
	return float64(t.UnixMilli()) / 1e3
}

func TestTimeOfDay(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	for name, test := range map[string]func(*testing.T, exampletest.Wasm){
		"each hour has its proxies":         eachHour,
		"the offset moves the hours":        offset,
		"quality decides among equals":      quality,
		"large pools, one after the other":  pools,
		"a proxy that recovers is used":     recovers,
		"settings out of range are refused": refused,
	} {
		t.Run(name, func(t *testing.T) { test(t, wasm) })
	}
}

func eachHour(t *testing.T, wasm exampletest.Wasm) {
	p := load(t, wasm, config)
	var out strings.Builder
	for h := range 24 {
		clock := fmt.Sprintf("%02d:00", h)
		now := preferred(p, at(clock+":00"), rows())
		fmt.Fprintf(&out, "%s  %s\n", clock, now)
		require.Equal(t, now, preferred(p, at(clock+":59.999")+59*60-59, rows()), "the same until the hour ends")
	}
	exampletest.Output(t, ".", strings.ReplaceAll(out.String(), "  \n", "\n"))
	require.Equal(t, "berlin boston", preferred(p, at("19:59:59.999"), rows()))
	require.Equal(t, "boston", preferred(p, at("20:00:00"), rows()))
	require.Equal(t, "tokyo", preferred(p, at("05:59:59.999"), rows()))
	require.Equal(t, "", preferred(p, at("06:00:00"), rows()))
}

func offset(t *testing.T, wasm exampletest.Wasm) {
	with := func(offset any) *exampletest.Plugin {
		return load(t, wasm, map[string]any{"hours": map[string]any{"us": "9-17"}, "utc_offset": offset})
	}
	east, west, half := with(2), with(-5), with(5.5)
	require.Equal(t, "", preferred(east, at("06:59:59"), rows()))
	require.Equal(t, "boston", preferred(east, at("07:00:00"), rows()))
	require.Equal(t, "boston", preferred(west, at("21:59:59"), rows()))
	require.Equal(t, "", preferred(half, at("03:29:59"), rows()))
	require.Equal(t, "boston", preferred(half, at("03:30:00"), rows()))
}

func quality(t *testing.T, wasm exampletest.Wasm) {
	p := load(t, wasm, config)
	list := rows()
	require.Equal(t, 0, sdktest.Best(p.Score(abi.RankRequest{Now: at("07:00:00")}, list)),
		"nobody's hour: the best of all")
	require.Equal(t, 1, sdktest.Best(p.Score(abi.RankRequest{Now: at("21:00:00")}, list)), "the worse, in its hour")
	list[1].ConsecutiveFailures = 3
	require.Equal(t, 0, sdktest.Best(p.Score(abi.RankRequest{Now: at("21:00:00")}, list)), "unless it fails")
}

func pools(t *testing.T, wasm exampletest.Wasm) {
	p := exampletest.Scorer(t, wasm, config)
	list := sdktest.Candidates(1000)
	for range 50 { // the memory of earlier pools must be freed
		many := make([]wasmhost.Proxy, 5000)
		for i := range many {
			many[i] = wasmhost.Proxy{ID: fmt.Sprintf("proxy-%d", i+1), Region: "eu",
				Metadata: map[string]string{"hours": "15-16"}}
		}
		p.SetPool(many)
		require.GreaterOrEqual(t, p.Score(abi.RankRequest{Now: at("15:00:00")}, list)[999], 1.0)
	}
}

func refused(t *testing.T, wasm exampletest.Wasm) {
	for _, hours := range []string{"", "8", "8-", "-8", "8-8", "8-25", "24-2", "8-20-22", "eight-20", "8-20,",
		"8.5-20"} {
		require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"hours": map[string]any{"asia": "0-24",
			"eu": hours}}), fmt.Sprintf(`the setting hours.eu is "%s"; it must be hours such as`, hours))
	}
	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"utc_offset": 15}),
		`the setting utc_offset is "15"; it must be hours, -14 to 14`)
	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"utc_offset": "CET"}),
		"it must be hours, -14 to 14")
	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"timezone": 1}),
		"there are utc_offset and hours.REGION")
}

func recovers(t *testing.T, wasm exampletest.Wasm) { exampletest.Recovers(t, wasm, nil, 1) }
