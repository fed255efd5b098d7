package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestS265ReloadsKeepSharedChanges: three gateways, one of them with a state folder, have changes that were made
// through the API of one of them. The changes stay in force after a reload, even if the configuration has other
// values. They are also in force on a gateway that starts later.
func TestS265ReloadsKeepSharedChanges(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 3, 4, confCluster)
	edit := func(w *whirl, replacements ...string) {
		data, err := os.ReadFile(w.configFile)
		require.NoError(t, err)
		text := strings.NewReplacer(replacements...).Replace(string(data))
		require.NotEqual(t, string(data), text)
		require.NoError(t, os.WriteFile(w.configFile, []byte(text), 0o600))
	}
	c.nodes[2].kill()
	edit(c.nodes[2], `dir = ""`, fmt.Sprintf("dir = %q", t.TempDir()))
	c.nodes[2].startProcess()
	c.together()
	view := func(w *whirl) string {
		var b strings.Builder
		for _, p := range w.getJSON("/proxies")["proxies"].([]any) {
			p := p.(map[string]any)
			fmt.Fprint(&b, p["id"], "/", p["weight"], "/", p["region"], " ")
		}
		policy := w.getJSON("/retry/policy")
		fmt.Fprint(&b, policy["max_attempts"], "/", policy["base_delay"])
		if strings.Contains(fmt.Sprint(w.getJSON("/plugins/random")["used_for"]), "first") {
			b.WriteString(" random")
		}
		return b.String()
	}
	views := func(want string) {
		t.Helper()
		for _, w := range c.nodes {
			var got string
			ok := func() bool { got = view(w); return got == want }
			begin := time.Now()
			for !ok() && time.Since(begin) < eventTimeout {
				time.Sleep(10 * time.Millisecond)
			}
			require.Equal(t, want, got)
		}
	}
	reload := func() {
		for _, w := range c.nodes {
			w.requireStatus(200, "POST", "/config/reload", "")
		}
	}
	w := c.nodes[0]
	w.requireStatus(204, "DELETE", "/proxies/F4?drain=true", "")
	w.requireStatus(200, "PATCH", "/proxies/F3", `{"weight":7}`)
	w.requireStatus(200, "PATCH", "/proxies/F2", `{"weight":6}`)
	w.requireStatus(200, "POST", "/plugins/random/activate", `{"for":"first"}`)
	w.putPolicy(`{"max_attempts":5}`)
	views("F1/1/ F2/6/ F3/7/ 5/0.1 random")
	reload()
	views("F1/1/ F2/6/ F3/7/ 5/0.1 random")

	for _, w := range c.nodes {
		edit(w, "base_delay = 0.1", "base_delay = 0.3", `id = "F3"`, "id = \"F3\"\nregion = \"EU\"",
			`id = "F4"`, "id = \"F4\"\nregion = \"EU\"", `first = "round_robin"`, `first = "weighted"`)
	}
	reload()
	want := "F1/1/ F2/6/ F3/7/EU 5/0.3 random"
	views(want)
	for _, w := range c.nodes[1:] {
		w.kill()
		w.startProcess()
	}
	views(want)
	c.nodes[1].requireStatus(200, "DELETE", "/retry/policy", "") // back to the configuration
	c.nodes[1].requireStatus(200, "PATCH", "/proxies/F3", `{"weight":1}`)
	views("F1/1/ F2/6/ F3/1/EU 3/0.3 random")
}
