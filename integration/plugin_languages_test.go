package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// project is a new plugin that `plugin new` has written into an empty folder.
type project struct {
	t      *testing.T
	dir    string
	source string
}

// sources have, for each language, the file that the author edits, and the lines of the template that rank
// the preferred proxy higher and lower.
var sources = map[string]struct{ file, higher, lower string }{
	"go":   {"main.go", "scores[i]++", "scores[i]--"},
	"rust": {"src/lib.rs", "*score += 1.0", "*score -= 1.0"},
	"as":   {"plugin.ts", "c.successRate + 1", "c.successRate - 1"},
	"c":    {"plugin.c", "scores[i] += 1", "scores[i] -= 1"},
	"cpp":  {"plugin.cc", "scores[i] += 1", "scores[i] -= 1"},
	"zig":  {"plugin.zig", "s.* += 1", "s.* -= 1"},
}

func newProject(t *testing.T, lang, kind string) *project {
	dir := filepath.Join(t.TempDir(), "mine")
	_, errs, code := command(t, "plugin", "new", "mine", "--lang", lang, "--kind", kind, "--dir", dir)
	require.Zero(t, code, errs)
	return &project{t, dir, filepath.Join(dir, sources[lang].file)}
}

// make runs the Makefile of the project.
func (p *project) make(target string) {
	p.t.Helper()
	cmd := exec.Command("make", target, "WHIRLPOOL="+binary)
	cmd.Dir = p.dir
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "make %s\n%s", target, out)
}

// edit replaces a text in the source. The source must contain it exactly once.
func (p *project) edit(from, to string) {
	text, err := os.ReadFile(p.source)
	require.NoError(p.t, err)
	require.Equal(p.t, 1, strings.Count(string(text), from), "%s in %s", from, p.source)
	require.NoError(p.t, os.WriteFile(p.source, []byte(strings.Replace(string(text), from, to, 1)), 0o644))
}

// step runs the curl command of the README that contains all of the words. It uses the test's gateway, and the given
// values in place of the README's values.
func (p *project) step(w *whirl, values map[string]string, words ...string) {
	p.t.Helper()
	readme, err := os.ReadFile(filepath.Join(p.dir, "README.md"))
	require.NoError(p.t, err)
	for _, line := range strings.Split(string(readme), "\n") {
		found := strings.HasPrefix(line, "    curl ")
		for _, word := range words {
			found = found && strings.Contains(line, word)
		}
		if !found {
			continue
		}
		line = strings.Replace(line, "127.0.0.1:8889", w.api, 1)
		for from, to := range values {
			line = strings.ReplaceAll(line, from, to)
		}
		cmd := exec.Command("sh", "-c", strings.Replace(line, "curl", "curl -sS --fail-with-body", 1))
		cmd.Dir = p.dir
		out, err := cmd.CombinedOutput()
		require.NoError(p.t, err, "%s\n%s", line, out)
		if bytes.Contains(out, []byte(`"state":"checking"`)) {
			status, body := w.awaitUpload(out, 201)
			require.Equal(p.t, 201, status, "%s", body)
		}
		return
	}
	p.t.Fatalf("the README has no curl line with %v", words)
}

// For each language, TestALanguageWorksFromSourceToGateway follows the README from an empty folder to a running gateway
// whose proxies the plugin chooses.
func TestALanguageWorksFromSourceToGateway(t *testing.T) {
	for lang := range sources {
		t.Run(lang+" scorer", func(t *testing.T) { testScorer(t, lang) })
		t.Run(lang+" backoff", func(t *testing.T) { testBackoff(t, lang) })
		t.Run(lang+" judge", func(t *testing.T) { testJudge(t, lang) })
	}
}

// countChoices returns the proxies that served n requests.
func countChoices(w *whirl, n int) map[string]int {
	seen := map[string]int{}
	for range n {
		a := w.get()
		require.Equal(w.t, 200, a.status)
		seen[a.proxy()]++
	}
	return seen
}

// busyFaults returns the number of calls of a plugin that got no instance or no processor in time, because the machine
// is busy. The built-in was called in their place.
func (w *whirl) busyFaults(plugin string) float64 {
	busy, _ := w.getJSON("/plugins/" + plugin)["faults_by_reason"].(map[string]any)["busy"].(float64)
	return busy
}

// chosenByPlugin returns the proxies that served n requests, which the plugin mine has chosen or judged.
func chosenByPlugin(w *whirl, n int) map[string]int {
	for {
		before := w.busyFaults("mine")
		if seen := countChoices(w, n); w.busyFaults("mine") == before {
			return seen
		}
	}
}

func testScorer(t *testing.T, lang string) {
	p := newProject(t, lang, "scorer")
	p.make("build")
	p.make("test")
	p.make("verify")

	w := start(t, 3, confK)
	require.Len(t, countChoices(w, 9), 3, "round robin, before")
	prefer := map[string]string{"PROXY-ID": "F2"}
	p.step(w, prefer, "name=mine", "module=@")
	p.step(w, nil, "/test")
	require.Len(t, countChoices(w, 9), 3, "it is not in use yet")
	p.step(w, nil, "/activate")
	require.Equal(t, map[string]int{"F2": 20}, chosenByPlugin(w, 20), "it prefers F2")
	status, body, _ := w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 409, status, "%s", body)

	// The next version of the plugin avoids F2.
	p.edit(sources[lang].higher, sources[lang].lower)
	p.make("build")
	p.step(w, prefer, "-X PUT", "module=@")
	seen := chosenByPlugin(w, 20)
	require.Zero(t, seen["F2"])
	require.Equal(t, 20, seen["F1"]+seen["F3"])
	p.step(w, nil, "/rollback")
	require.Equal(t, map[string]int{"F2": 20}, chosenByPlugin(w, 20), "the first version again")

	v := w.getJSON("/plugins/mine")
	require.Equal(t, []any{"first"}, v["used_for"])
	require.Equal(t, w.busyFaults("mine"), v["faults"], "%v", v["last_error"])
	status, body, _ = w.call("POST", "/plugins/round_robin/activate", `{"for":"first"}`)
	require.Equal(t, 200, status, "%s", body)
	status, body, _ = w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 204, status, "%s", body)
	status, _, _ = w.call("GET", "/plugins/mine", "")
	require.Equal(t, 404, status)
	require.Len(t, countChoices(w, 9), 3, "round robin, after")
	p.configured(w)
}

// configured copies the module beside the configuration file and adds it to the configuration, as the README
// describes.
func (p *project) configured(w *whirl) {
	p.t.Helper()
	readme, err := os.ReadFile(filepath.Join(p.dir, "README.md"))
	require.NoError(p.t, err)
	_, block, found := strings.Cut(string(readme), "```toml\n")
	block, _, closed := strings.Cut(block, "```\n")
	require.True(p.t, found && closed, "the README has a block of TOML")
	code, err := os.ReadFile(filepath.Join(p.dir, "mine.wasm"))
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(filepath.Join(w.dir, "mine.wasm"), code, 0o644))
	w.writeConfig(confK + strings.Replace(block, "PROXY-ID", "F2", 1))
	eventually(p.t, "the configured plugin avoids F2", func() bool { return countChoices(w, 6)["F2"] == 0 })
}

func testBackoff(t *testing.T, lang string) {
	p := newProject(t, lang, "backoff")
	p.make("build")
	p.make("test")
	p.make("verify")

	w := start(t, 3, confK) // fixed backoff with base_delay = 0.1
	w.setAll(lab.Status(503))
	waits := func(want ...float64) {
		t.Helper()
		w.clearArrivals()
		require.Equal(t, 503, w.get().status)
		w.requireWaits(want...)
	}
	waits(0.1, 0.1)
	factor := func(f string) map[string]string { return map[string]string{`"factor":0.5`: `"factor":` + f} }
	p.step(w, factor("4"), "name=mine", "module=@")
	p.step(w, nil, "/test")
	p.step(w, nil, "/activate")
	waits(0.4, 0.8)
	p.step(w, factor("10"), "-X PUT", "module=@")
	waits(1, 2)
	p.step(w, nil, "/rollback")
	waits(0.4, 0.8)

	require.Equal(t, []any{"backoff"}, w.getJSON("/plugins/mine")["used_for"])
	status, body, _ := w.call("POST", "/plugins/fixed/activate", `{"for":"backoff"}`)
	require.Equal(t, 200, status, "%s", body)
	status, body, _ = w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 204, status, "%s", body)
	waits(0.1, 0.1)
}

// TestThePluginPage runs the commands in docs/plugins.md.
func TestThePluginPage(t *testing.T) {
	page, err := os.ReadFile("../docs/plugins.md")
	require.NoError(t, err)
	w := start(t, 3, confK)
	w.get() // so that there is something to record
	var script strings.Builder
	for _, line := range strings.Split(string(page), "\n") {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script.WriteString(command + "\n")
		}
	}
	text := strings.NewReplacer("127.0.0.1:8889", w.api, "127.0.0.1:8888", w.gateway, "plugin record ",
		"plugin record --api http://"+w.api+" ").Replace(script.String())
	cmd := exec.Command("sh", "-e", "-x", "-c", text)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "WHIRLPOOL_URL=http://"+w.api)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "\nX-Whirlpool-Proxy-Id: F3\r\n", "the plugin steers")
	require.Contains(t, string(out), "the module follows the ABI")
	require.Contains(t, string(out), "0.01*c.Cost", "-x shows the edit")
	source, err := os.ReadFile(filepath.Join(cmd.Dir, "mine", "main.go"))
	require.NoError(t, err)
	require.Contains(t, string(source), "scores[i] = c.SuccessRate - 0.01*c.Cost\n")
	status, _, _ := w.call("GET", "/plugins/mine", "")
	require.Equal(t, 404, status)
}

func testJudge(t *testing.T, lang string) {
	p := newProject(t, lang, "judge")
	p.make("build")
	p.make("test")
	p.make("verify")

	w := start(t, 2, confK+roundRobin)
	w.fakes[0].SetBehaviour(lab.Behaviour{Body: "<h1>Are you a ROBOT?</h1>"})
	p.step(w, nil, "name=mine", "module=@")
	p.step(w, nil, "/test")
	require.Len(t, countChoices(w, 4), 2, "it is not in use yet")
	p.step(w, nil, "/activate")
	require.Equal(t, map[string]int{"F2": 4}, chosenByPlugin(w, 4))
	require.Equal(t, []string{"F1"}, w.rests("origin.test"))
	v := w.getJSON("/plugins/mine")
	require.Equal(t, []any{"judge"}, v["used_for"])
	require.Equal(t, w.busyFaults("mine"), v["faults"], "%v", v["last_error"])
	status, body, _ := w.call("POST", "/plugins/none/activate", `{"for":"judge"}`)
	require.Equal(t, 200, status, "%s", body)
	status, body, _ = w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 204, status, "%s", body)
}
