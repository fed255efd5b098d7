package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// axe-core finds no violation of WCAG 2.1, levels A and AA, and no violation of axe-core's best practices. It checks
// the dashboard, its dialogs and the API's description, in both color schemes.
func TestTheDashboardMeetsWCAG(t *testing.T) {
	installNodePackages(t)
	axe, err := os.ReadFile(filepath.Join("testdata", "clients", "node_modules", "axe-core", "axe.min.js"))
	require.NoError(t, err)
	w := start(t, 3, "")
	w.fakes[0].SetBehaviour(lab.Status(503))
	for range 9 {
		w.get()
	}
	b := openBrowser(t, "http://"+w.api+"/", 1280, 900)
	for _, scheme := range []string{"light", "dark"} {
		b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
			{"name": "prefers-color-scheme", "value": scheme},
			{"name": "prefers-reduced-motion", "value": "reduce"},
		}}, nil)
		check := func(page string) {
			t.Helper()
			const rules = `["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]`
			require.Equal(t, "[]", b.eval(`axe.run({ runOnly: `+rules+` }).then(r =>
				JSON.stringify(r.violations.map(v => [v.id, v.help, v.nodes.map(n => n.html + n.failureSummary)])))`),
				"%s, %s", page, scheme)
		}
		dialog := func(id, button string) {
			b.eval(fmt.Sprintf(`document.querySelector(%q).click()`, button))
			b.until("the dialog "+id, fmt.Sprintf(`document.querySelector("#%s").open && `+
				`document.querySelector("#%s").querySelectorAll("table, h3").length > 0`, id, id))
			check(id)
			b.eval(fmt.Sprintf(`document.querySelector("#%s .close").click()`, id))
		}
		b.call("Page.navigate", map[string]any{"url": "http://" + w.api + "/"}, nil)
		b.until("the proxies", `document.querySelector("#proxies").rows.length === 3 && `+
			`document.querySelector("#history").dataset.kinds.includes("delivered")`)
		require.NotContains(t, b.eval(string(axe)), "exception")
		check("the dashboard")
		dialog("proxy", "#proxies tr button")
		dialog("request", "#requests button")
		b.call("Page.navigate", map[string]any{"url": "http://" + w.api + "/docs"}, nil)
		b.until("the description", `document.body.innerText.includes("/api/v1/cluster")`)
		require.NotContains(t, b.eval(string(axe)), "exception")
		check("the description of the API")
	}
}
