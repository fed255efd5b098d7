package integration

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// One proxy is in the US and three are in the EU; the configuration is nearly the default. First attempts use the
// wanted region. Retries may use another region if necessary. With ;strict no attempt uses another region.
func TestTheWantedRegion(t *testing.T) {
	t.Parallel()
	w := start(t, 4, "[retry]\nbase_delay = 0.1\n[timeouts]\nadaptive = false\n")
	for i, f := range w.fakes {
		region := "EU"
		if i == 0 {
			region = "US"
		}
		status, body, _ := w.call("PATCH", "/proxies/"+f.Name, `{"region":"`+region+`"}`)
		require.Equal(t, 200, status, "%s", body)
	}
	at := func(n int, headers ...string) map[string]int {
		went := map[string]int{}
		for range n {
			a := w.get(headers...)
			require.Equal(t, 200, a.status)
			went[a.proxy()]++
		}
		return went
	}
	require.Equal(t, map[string]int{"F1": 40}, at(40, "X-Whirlpool-Region", "US"))
	require.Equal(t, map[string]int{"F2": 13, "F3": 13, "F4": 13}, at(39, "X-Whirlpool-Region", "EU"), "by turns")
	require.Len(t, at(8, "X-Whirlpool-Region", "JP"), 4, "no proxy is there")

	post := func(region string, strict bool) (int, map[string]any) {
		in, err := json.Marshal(map[string]any{"url": "http://origin.test/", "region": region, "region_strict": strict})
		require.NoError(t, err)
		status, body, _ := w.call("POST", "/request", string(in))
		var out map[string]any
		require.NoError(t, json.Unmarshal(body, &out))
		return status, out
	}
	a := w.get("X-Whirlpool-Region", "JP; Strict")
	require.Equal(t, 503, a.status)
	require.Equal(t, "no_proxy_in_region", a.outcome())
	require.Contains(t, a.body, `"no_proxy_in_region"`)
	status, out := post("JP", true)
	require.Equal(t, 503, status)
	require.Equal(t, "no_proxy_in_region", out["error"])
	status, _ = post("JP", false)
	require.Equal(t, 200, status)
	status, out = post("", true)
	require.Equal(t, 400, status)
	require.Contains(t, out["message"], "region_strict")
	a = w.get("X-Whirlpool-Region", "US;loose")
	require.Equal(t, 400, a.status)
	require.Contains(t, a.body, "loose")

	// The proxy in the wanted region fails. A retry uses another region, except with ;strict.
	w.fakes[0].SetBehaviour(lab.Status(503))
	require.NotContains(t, at(1, "X-Whirlpool-Region", "US"), "F1")
	w.clearArrivals()
	a = w.get("X-Whirlpool-Region", "US;strict")
	require.Equal(t, 503, a.status)
	require.Equal(t, "3", a.attempts())
	require.Equal(t, 3, w.arrivals())
	require.Equal(t, 3, w.fakes[0].Count())

	// When the breaker of this proxy is open, the region has no admissible proxy.
	for range 10 {
		w.get("X-Whirlpool-Region", "US;strict")
	}
	w.awaitState("F1", "open")
	a = w.get("X-Whirlpool-Region", "US;strict")
	require.Equal(t, 503, a.status)
	require.Equal(t, "no_proxy_in_region", a.outcome())
	require.NotEmpty(t, a.header.Get("Retry-After"), "when its breaker is due")
	require.NotContains(t, at(6, "X-Whirlpool-Region", "US"), "F1")
}
