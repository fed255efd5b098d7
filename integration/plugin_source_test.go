package integration

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"aead.dev/minisign"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/source/sourcetest"
	wasm "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// The gateway fetches a signed module by https, and a module as an artifact from a registry. It keeps both modules, so
// the next start needs neither source.
func TestPluginsAreFetched(t *testing.T) {
	public, private, err := minisign.GenerateKey(nil)
	require.NoError(t, err)
	var module atomic.Value // nil stands for an outage
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		code, _ := module.Load().([]byte)
		switch {
		case code == nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasSuffix(q.URL.Path, ".minisig"):
			w.Write(minisign.Sign(private, code))
		default:
			w.Write(code)
		}
	}))
	defer site.Close()
	registry := sourcetest.Start(t, httptest.NewTLSServer)
	digest := registry.Push(t, "1.0", sourcetest.File{Title: "b.wasm", MediaType: "application/wasm",
		Data: wasm.Scorer(wasm.Scores(1)...).Bytes()})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: site.Certificate().Raw}), 0o600))

	config := confK + `
[selection]
first = "signed"
retry = "artifact"
[plugins.signed]
kind = "scorer"
url = "` + site.URL + `/signed.wasm?token=hunter2secret"
public_key = "` + public.String() + `"
timeout = "50ms"
[plugins.artifact]
kind = "scorer"
url = "oci://` + strings.TrimPrefix(registry.URL, "https://") + "/team/b@" + digest + `"
`
	w := start(t, 3, confK)
	w.stop()
	w.env = append(w.env, "SSL_CERT_FILE="+ca, "NO_PROXY=*")
	w.stateDir = t.TempDir()
	w.writeConfig(config)
	w.startProcess()
	require.Equal(t, 200, w.get().status, "the built-ins answer until the modules are there")
	state := func(name string) []any {
		v := w.getJSON("/plugins/" + name)
		return []any{v["state"], v["fetch"].(map[string]any)["state"]}
	}
	eventually(t, "the artifact serves", func() bool { return state("artifact")[0] == "ready" })
	eventually(t, "the first fetch has failed", func() bool {
		return fmt.Sprint(state("signed")) == "[fetching waiting]"
	})
	require.Equal(t, "the server responds with status 503",
		w.getJSON("/plugins/signed")["fetch"].(map[string]any)["error"])
	module.Store(wasm.Scorer(wasm.Scores(2)...).Bytes())
	status, body, _ := w.call("POST", "/config/reload", "") // the reload does not wait for the next attempt to fetch
	require.Equal(t, 200, status, "%s", body)
	eventually(t, "the signed module serves", func() bool { return state("signed")[0] == "ready" })
	calls := w.getJSON("/plugins/signed")["calls"].(float64)
	require.Equal(t, 200, w.get().status)
	require.Greater(t, w.getJSON("/plugins/signed")["calls"].(float64), calls)

	// Both sources stop.
	site.Close()
	registry.Close()
	w.signal(syscall.SIGTERM)
	require.NoError(t, w.cmd.Wait())
	w.startProcess()
	require.Equal(t, []any{"ready", "done"}, state("artifact"))
	require.Equal(t, "ready", state("signed")[0])
	require.Equal(t, 200, w.get().status)
	require.EqualValues(t, 0, w.getJSON("/plugins/signed")["faults"])
	require.NotZero(t, w.getJSON("/plugins/signed")["calls"])

	// With another public key the kept module is not used.
	other, _, err := minisign.GenerateKey(nil)
	require.NoError(t, err)
	w.writeConfig(strings.Replace(config, public.String(), other.String(), 1))
	w.signal(syscall.SIGTERM)
	require.NoError(t, w.cmd.Wait())
	w.startProcess()
	require.Equal(t, "fetching", state("signed")[0])
	eventually(t, "the log says why", func() bool { return strings.Contains(w.log.String(), "does not match") })
	require.Equal(t, 200, w.get().status)
}
