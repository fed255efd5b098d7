package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/integration/lab"
)

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// tutorial is the commands of a README, but for the first ones, which say where
// things are.
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

// Whoever follows a tutorial from an empty folder has a plugin that steers a
// running gateway: from taking turns to the proxy that costs least.
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
			for range 9 {
				require.Equal(t, 200, w.get().status)
			}
			require.Equal(t, [3]int{3, 3, 3}, arrivals())

			cmd := exec.Command("bash", "-euxo", "pipefail", "-c", tutorial(t, filepath.Join(root, "sdk", language, "README.md")))
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "W="+root, "API=http://"+w.api+"/api/v1", "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)

			for range 9 {
				require.Equal(t, 200, w.get().status)
			}
			require.Equal(t, [3]int{3, 12, 3}, arrivals())
			p := w.json("/plugins/frugal")
			require.Equal(t, []any{"first"}, p["used_for"])
			require.Equal(t, 0.0, p["faults"])
			t.Logf("%s: %v bytes", language, p["size"])
		})
	}
}
