package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

var (
	shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	goBlock    = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
	indented   = regexp.MustCompile(`(?m)^    (\S.*)$`)
	tomlBlock  = regexp.MustCompile("(?ms)^```toml\n(.*?)^```$")
	pluginName = regexp.MustCompile(`(?m)^\[plugins\.(\w+)\]$`)
)

// tutorial returns the commands of a README, without the first ones, which set paths.
func tutorial(t *testing.T, readme string) string {
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	blocks := shellBlock.FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(blocks), 2)
	require.Contains(t, blocks[0][1], "\nAPI=")
	var script strings.Builder
	for _, b := range blocks[1:] {
		script.WriteString(b[1])
	}
	return script.String()
}

// The commands of a tutorial lead from an empty folder to a running gateway with a plugin. At first the proxies take
// turns. Then the plugin chooses the cheapest one.
func TestTutorials(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	for _, language := range []string{"c", "rust", "assemblyscript"} {
		t.Run(language, func(t *testing.T) {
			config := confK
			var fakes []*lab.Proxy
			for i, cost := range []int{3, 1, 2} {
				f, err := lab.Start(fmt.Sprintf("F%d", i+1), "127.0.0.1:0", lab.Always(lab.OK()))
				require.NoError(t, err)
				t.Cleanup(f.Close)
				fakes = append(fakes, f)
				config += fmt.Sprintf("[[proxies]]\nid = %q\nurl = \"http://%s\"\ncost = %d\n", f.Name, f.Addr, cost)
			}
			w := start(t, 0, config)
			arrivals := func() (n [3]int) {
				for i, f := range fakes {
					n[i] = len(f.Arrivals())
				}
				return n
			}
			begun := time.Now()
			for range 9 {
				require.Equal(t, 200, w.get().status)
			}
			require.Equal(t, [3]int{3, 3, 3}, arrivals())

			cmd := exec.Command("bash", "-euxo", "pipefail", "-c", tutorial(t,
				filepath.Join(root, "sdk", language, "README.md")))
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "W="+root, "API=http://"+w.api+"/api/v1",
				"PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)

			for range 9 {
				require.Equal(t, 200, w.get().status)
			}
			p := w.getJSON("/plugins/frugal")
			require.Equal(t, []any{"first"}, p["used_for"])
			// On a busy machine a call may get no instance in time. Then the built-in is called.
			busy := w.busyFaults("frugal")
			require.Equal(t, busy, p["faults"])
			explorations := 0
			if time.Since(begun) > 30*time.Second { // an idle proxy is explored, with one request in twenty
				explorations = 1
			}
			require.GreaterOrEqual(t, arrivals()[1], 3+9-int(busy)-explorations)
			t.Logf("%s: %v bytes", language, p["size"])
		})
	}
}

// The commands of sdk/README.md build the Go plugin and activate it.
func TestTheGoPluginOfTheSDK(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	text, err := os.ReadFile("../sdk/README.md")
	require.NoError(t, err)
	at := goBlock.FindSubmatchIndex(text)
	require.NotNil(t, at)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), text[at[2]:at[3]], 0o600))
	w := start(t, 2, confK)
	var script strings.Builder
	for _, line := range indented.FindAllSubmatch(text[at[1]:], -1) {
		if command := string(line[1]); !strings.HasPrefix(command, "whirlpool plugin bench") { // it takes long
			script.WriteString(strings.Replace(command, "curl ", "curl -sS --fail-with-body ", 1) + "\n")
		}
	}
	cmd := exec.Command("bash", "-euxo", "pipefail", "-c", strings.ReplaceAll(script.String(), "127.0.0.1:8889", w.api))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "W="+root, "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, []any{"first"}, w.usedFor("idlest"))
	eventually(t, "it is called", func() bool { // on a busy machine a call may get no instance in time
		require.Equal(t, 200, w.get().status)
		return w.getJSON("/plugins/idlest")["calls"].(float64) > 0
	})
}

// Each example works in a gateway with the configuration in its README.
func TestExamplesAsTheirREADMEsConfigureThem(t *testing.T) {
	readmes, err := filepath.Glob("../wasm-examples/*/README.md")
	require.NoError(t, err)
	require.NotEmpty(t, readmes)
	for _, readme := range readmes {
		t.Run(filepath.Base(filepath.Dir(readme)), func(t *testing.T) {
			text, err := os.ReadFile(readme)
			require.NoError(t, err)
			block := tomlBlock.FindStringSubmatch(string(text))
			require.NotNil(t, block, "%s shows no configuration", readme)
			built := t.TempDir()
			out, err := exec.Command(filepath.Join(filepath.Dir(readme), "build.sh"), built).CombinedOutput()
			require.NoError(t, err, "%s", out)

			other, err := lab.Start("other", "127.0.0.1:0", lab.Always(lab.OK())) // stands for a proxy in the README
			require.NoError(t, err)
			t.Cleanup(other.Close)
			config := strings.NewReplacer(`path = "`, `path = "`+built+"/", "10.0.0.7:3128",
				other.Addr).Replace(block[1])
			w := start(t, 3, config)
			name := pluginName.FindStringSubmatch(config)[1]
			plugin := func() map[string]any { return w.getJSON("/plugins/" + name) }
			// a module of standard Go takes a second to compile
			require.Eventually(t, func() bool { return plugin()["state"] == "ready" }, time.Minute, 20*time.Millisecond)
			if plugin()["kind"] == "backoff" {
				w.fakes[0].SetBehaviour(lab.Status(503))
			}
			const requests = 9
			for range requests {
				require.Equal(t, 200, w.get().status)
			}
			p := plugin()
			require.NotEmpty(t, p["used_for"])
			require.NotZero(t, p["calls"])
			require.Equal(t, w.busyFaults(name), p["faults"])
			if p["kind"] == "scorer" {
				require.GreaterOrEqual(t, p["calls"], float64(requests))
			}
		})
	}
}
