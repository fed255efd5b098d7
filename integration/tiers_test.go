package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// served returns the proxies that serve n requests, with their numbers of requests.
func (w *whirl) served(n int) map[string]int {
	out := map[string]int{}
	for range n {
		a := w.get()
		require.Equal(w.t, 200, a.status)
		out[a.proxy()]++
	}
	return out
}

// The proxies of the lower tier serve all requests while they can. F3, in the higher tier, serves a request after two
// failures of the lower tier, or while the lower tier is at a limit. F3 gets no more requests when the lower tier
// works again.
func TestS143Tiers(t *testing.T) {
	t.Parallel()
	w := start(t, 3, "[health]\nreachability = false\n[retry]\nbackoff_strategy = \"fixed\"\nbase_delay = 0.1\n"+
		"[breaker]\ntimeout_duration = \"100ms\"\nmax_timeout = \"100ms\"\n[timeouts]\nadaptive = false\n")
	status, body, _ := w.call("PATCH", "/proxies/F3", `{"tier": 1, "vendor": "dear", "cost_per_request": 0.5}`)
	require.Equal(t, 200, status, "%s", body)
	cheap := w.served(30)
	require.Zero(t, cheap["F3"])
	require.Len(t, cheap, 2)

	w.fakes[0].SetBehaviour(lab.Status(502))
	w.fakes[1].SetBehaviour(lab.Status(502))
	a := w.get()
	require.Equal(t, 200, a.status)
	require.Equal(t, "F3", a.proxy())
	require.Equal(t, "3", a.attempts())

	w.fakes[0].SetBehaviour(lab.OK())
	w.fakes[1].SetBehaviour(lab.OK())
	eventually(t, "the lower tier serves again", func() bool { return w.served(10)["F3"] == 0 })

	for _, id := range []string{"F1", "F2"} {
		status, body, _ := w.call("PATCH", "/proxies/"+id, `{"rate": 0.01}`)
		require.Equal(t, 200, status, "%s", body)
	}
	limited := w.served(10)
	require.Equal(t, 8, limited["F3"], "each of the others serves one request: %v", limited)
}

// The costs of proxies, vendors and users are counted by bytes and attempts, and survive a restart.
func TestS144Costs(t *testing.T) {
	t.Parallel()
	const users = "[timeouts]\nadaptive = false\n[[gateway.users]]\nname = \"ann\"\npassword = \"hunter2secret\"\n"
	w := start(t, 2, users)
	w.stop()
	w.stateDir = t.TempDir()
	w.writeConfig("[health]\nreachability = false\n" + users)
	w.startProcess()
	for i, f := range w.fakes {
		f.SetBehaviour(lab.Behaviour{Size: 100_000})
		status, body, _ := w.call("PATCH", "/proxies/"+f.Name,
			fmt.Sprintf(`{"vendor": "acme", "cost_per_request": %d, "cost_per_gb": 1000}`, i+1))
		require.Equal(t, 200, status, "%s", body)
	}
	login := []string{"Proxy-Authorization", "Basic YW5uOmh1bnRlcjJzZWNyZXQ="}
	count := map[string]float64{}
	for range 10 {
		a := w.get(login...)
		require.Equal(t, 200, a.status)
		count[a.proxy()]++
	}
	check := func() map[string]any {
		var c map[string]any
		eventually(t, "the costs are complete", func() bool {
			c = w.getJSON("/metrics/costs")
			return c["total"].(map[string]any)["bytes_received"].(float64) >= 1_000_000
		})
		total := c["total"].(map[string]any)
		require.Equal(t, 10.0, total["attempts"])
		bytes := total["bytes_sent"].(float64) + total["bytes_received"].(float64)
		require.Less(t, bytes, 1_020_000.0)
		require.InDelta(t, count["F1"]+2*count["F2"]+bytes*1000/1e9, total["cost"], 1e-6)
		for kind, name := range map[string]string{"vendors": "acme", "users": "ann"} {
			list := c[kind].([]any)
			require.Len(t, list, 1)
			of := list[0].(map[string]any)
			require.Equal(t, name, of["name"])
			require.InDelta(t, total["cost"], of["cost"], 1e-6)
		}
		require.Len(t, c["proxies"], len(count))
		return c
	}
	before := check()
	metrics := w.scrape()
	for _, line := range []string{`whirlpool_vendor_cost_total{vendor="acme"} `,
		`whirlpool_user_bytes_total{direction="down",user="ann"} `,
		`whirlpool_proxy_bytes_total{direction="up",proxy_id="F1"} `} {
		require.True(t, strings.Contains(metrics, line), line)
	}
	w.stop()
	w.startProcess()
	require.Equal(t, before["total"], check()["total"])
}
