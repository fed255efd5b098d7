package integration

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// walker is a script that uses all controls of the dashboard.
//
//go:embed testdata/walker.js
var walker string

// With a key of the role read, the dashboard shows only controls that work: no control that is enabled on any page
// changes anything, and the API refuses no request of these controls. With a key of the role admin, the dashboard also
// shows the controls that change something.
func TestAReadKeySeesNoDeadControl(t *testing.T) {
	w := startWithState(t, 3, confOpen+`
[[api.keys]]
key = "reads-only"
role = "read"
[[api.keys]]
key = "may-do-all"
role = "admin"
`)
	change := func(method, path, body, mediaType string) {
		t.Helper()
		status, answer, _ := w.call(method, path, body, "Authorization", "Bearer may-do-all", "Content-Type", mediaType)
		require.Less(t, status, 300, "%s %s: %s", method, path, answer)
	}
	change("PUT", "/retry/policy", `{"max_attempts":2}`, "application/json")
	w.fakes[0].SetBehaviour(lab.Status(503))
	for range 30 {
		w.get()
	}
	change("POST", "/plugins?name=talker", string(loggingModule()), "application/wasm")
	change("POST", "/proxies/F2/ban", `{"for":"1h","host":"origin.test"}`, "application/json")

	b := openBrowser(t, "http://"+w.api+"/", 1280, 900)
	walk := func(key, role string, onlyOpen bool) (seen, found []string) {
		t.Helper()
		b.until("the page asks for a key", `!document.querySelector("#login").hidden`)
		b.eval(fmt.Sprintf(`document.querySelector("#login input").value = %q`, key))
		b.eval(`document.querySelector("#login").requestSubmit()`)
		b.until("the pool is visible", `document.body.dataset.role === "`+role+`" && `+
			`document.querySelector("#proxies").rows.length === 3 && `+
			`document.querySelector("#plugins").rows.length > 1`)
		var result struct{ Seen, Found []string }
		text := b.eval(fmt.Sprintf(`%s; walk(%v)`, walker, onlyOpen))
		require.NoError(t, json.Unmarshal([]byte(text), &result), "%s", text)
		b.eval(`location.hash = ""; document.querySelector("#signout").click()`) // without the filters of the walk
		return result.Seen, result.Found
	}
	reader, found := walk("reads-only", "read", false)
	require.Empty(t, found, "requests of a key that may only read; it sees %q", reader)
	admin, _ := walk("may-do-all", "admin", true)
	for _, both := range []string{"find: q", "requests: #:#:#", "talker: details", "configuration: show"} {
		require.Contains(t, reader, both)
		require.Contains(t, admin, both)
	}
	for _, changes := range []string{"proxies: reset", "selection: ban for an hour", "proxy: drain and remove",
		"target: end rest", "add: read the list", "change: preview", "recorded: forget",
		"configuration: reload the file", "talker: use for first", "settings: apply", "settings: margin",
		"upload: upload or replace"} {
		require.Contains(t, admin, changes)
		require.NotContains(t, reader, changes)
	}
}
