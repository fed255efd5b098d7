package integration

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// whirlpool check finds the good proxies of a list, their abilities and protocols, and writes a list that
// serve can read.
func TestS224CheckOfAList(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Write([]byte("the expected text"))
	}))
	defer site.Close()
	to := site.Listener.Addr().String()
	proxy := func(b lab.Behaviour) string {
		p, err := lab.Start("p", "127.0.0.1:0", lab.Always(b))
		require.NoError(t, err)
		t.Cleanup(p.Close)
		return p.Addr
	}
	dead := freePort(t)
	both := proxy(lab.Behaviour{TunnelTo: to, Body: "the expected text"})
	failing := proxy(lab.Status(503))
	dir := t.TempDir()
	list, good := filepath.Join(dir, "list.txt"), filepath.Join(dir, "good.txt")
	require.NoError(t, os.WriteFile(list, []byte(
		both+":ann:hunter2secret\n"+failing+"\n"+dead+"\nnonsense\n"), 0o600))
	check := func(args ...string) (stdout, stderr string, err error) {
		cmd := exec.Command(binary, append([]string{"check"}, args...)...)
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		err = cmd.Run()
		require.NotContains(t, out.String()+errOut.String(), "hunter2secret")
		return out.String(), errOut.String(), err
	}
	out, errOut, err := check(list, "--url", "http://"+to+"/", "--expect-body", "expected", "--out", good, "--json")
	require.NoError(t, err, errOut)
	require.Contains(t, errOut, "list.txt:4:")
	require.Contains(t, errOut, "3 of 3 checked, 1 good")
	var results []struct {
		URL, Fault         string
		Good, Get, Connect bool
		Latency            float64
	}
	require.NoError(t, json.Unmarshal([]byte(out), &results))
	require.Len(t, results, 3)
	require.True(t, results[0].Good && results[0].Get && results[0].Connect, out)
	require.Positive(t, results[0].Latency)
	require.Contains(t, results[1].Fault, "503")
	require.Contains(t, results[2].Fault, "refused")
	written, err := os.ReadFile(good)
	require.NoError(t, err)
	require.Equal(t, both+":ann:hunter2secret\n", string(written), "the form in which it was read")
	info, err := os.Stat(good)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())

	out, errOut, err = check(list) // without a URL, a proxy is good if it accepts connections
	require.Contains(t, errOut, "only connections were tested; --url URL tests requests")
	require.NoError(t, err)
	require.Contains(t, out, failing)
	require.NotContains(t, out, dead)
	_, errOut, err = check(list, "--url", "http://"+to+"/", "--expect-status", "404")
	require.Error(t, err)
	require.Contains(t, errOut, "none of 3 proxies is good")
	require.NotContains(t, errOut, "--detect")

	mute := coretest.Serve(t, func(net.Conn) {}) // it closes each connection, as SOCKS proxies do after an HTTP request
	require.NoError(t, os.WriteFile(list, []byte(mute+"\n"+failing+"\n"+dead+"\n"), 0o600))
	const hint = "1 proxy accepts connections but sends no HTTP response; it may be a SOCKS proxy: try --detect"
	_, errOut, err = check(list, "--url", "http://"+to+"/")
	require.Error(t, err)
	require.Contains(t, errOut, hint)
	_, errOut, err = check(list, "--url", "http://"+to+"/", "--detect")
	require.Error(t, err)
	require.NotContains(t, errOut, hint)
	_, errOut, err = check(list, "--url", "ftp://x/")
	require.Error(t, err)
	require.Contains(t, errOut, "--url must be an absolute")
}
