package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/geo/geotest"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// The exit addresses that health checks find give proxies their region. If the exit address changes, the region
// changes, too.
func TestS168RegionsOfExitAddresses(t *testing.T) {
	t.Parallel()
	file := geotest.Write(t, map[string]string{"192.0.2.0/24": "DE", "198.51.100.0/24": "US"})
	health := "[health]\nreachability = false\nurl = \"http://check.test/\"\ninterval = \"200ms\"\njitter = 0\n" +
		"exit = \"X-Exit\"\n"
	w := start(t, 2, notAdaptive+health+fmt.Sprintf("[geo]\nmmdb = %q\n", file))
	exit := func(i int, address string) {
		w.fakes[i].SetBehaviour(lab.Behaviour{Header: http.Header{"X-Exit": {address}}})
	}
	region := func(id, want string) {
		t.Helper()
		eventually(t, id+" is in "+want, func() bool { return w.getJSON("/proxies/" + id)["region"] == want })
	}
	exit(0, "192.0.2.7")
	exit(1, "198.51.100.9")
	region("F1", "de")
	region("F2", "us")
	for range 4 {
		require.Equal(t, "F1", w.get("X-Whirlpool-Region", "de").proxy())
		require.Equal(t, "F2", w.get("X-Whirlpool-Region", "us").proxy())
	}
	exit(1, "192.0.2.200")
	region("F2", "de")
	before := w.configReadAt()
	w.writeConfig(health)
	w.awaitReload(before)
	require.Empty(t, w.getJSON("/proxies/F1")["region"])
}

// whirlpool check shows the country of the exit address, and writes it as the region.
func TestCheckWithCountries(t *testing.T) {
	t.Parallel()
	file := geotest.Write(t, map[string]string{"127.0.0.0/8": "NO", "192.0.2.0/24": "DE"})
	f, err := lab.Start("F1", "127.0.0.1:0", lab.Always(lab.Behaviour{Header: http.Header{"X-Exit": {"192.0.2.7"}}}))
	require.NoError(t, err)
	t.Cleanup(f.Close)
	list, out := filepath.Join(t.TempDir(), "list.txt"), filepath.Join(t.TempDir(), "good.txt")
	require.NoError(t, os.WriteFile(list, []byte(f.Addr+"\n"), 0o600))
	run := func(args ...string) string {
		text, err := exec.Command(binary, append([]string{"check", list, "--mmdb", file, "--out", out},
			args...)...).Output()
		require.NoError(t, err, "%s", text)
		return string(text)
	}
	require.Contains(t, run(), " ms  no")
	written, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "http://"+f.Addr+"#region=no\n", string(written))
	var v []map[string]any
	require.NoError(t, json.Unmarshal([]byte(run("--url", "http://check.test/", "--exit", "X-Exit", "--json")), &v))
	require.Equal(t, "192.0.2.7", v[0]["exit_address"])
	require.Equal(t, "de", v[0]["country"])
	text, err := exec.Command(binary, "check", list, "--mmdb", list).CombinedOutput()
	require.Error(t, err)
	require.True(t, strings.Contains(string(text), "not an MMDB file"), "%s", text)
}
