package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	wt "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// postRequest makes a request with POST /request and returns the response.
func (w *whirl) postRequest(body string) (v map[string]any) {
	w.t.Helper()
	status, answer, _ := w.call("POST", "/request", body)
	require.Equal(w.t, 200, status, "%s", answer)
	require.NoError(w.t, json.Unmarshal(answer, &v))
	return v
}

// Only the first 10 MiB of a response fit into the JSON. The rest is not read, and the attempt is a success
// of the proxy.
func TestALargeResponseIsASuccess(t *testing.T) {
	w := start(t, 1, confK)
	w.setAll(lab.Behaviour{Size: 20 << 20})
	v := w.postRequest(`{"url":"http://origin.test/"}`)
	require.Equal(t, true, v["truncated"])
	require.Len(t, v["body"], 10<<20)
	require.Equal(t, "success", v["outcome"])
	require.Equal(t, "success", v["attempts"].([]any)[0].(map[string]any)["outcome"])
	require.Equal(t, map[string]any{"0": 1.0}, w.getJSON("/metrics/retries")["success_by_attempt"])
	w.reconcile(0)
}

// A request is sent as a client would send it: without a length if there is no body, and without a space in
// the request target.
func TestAOneOffRequestOnTheWire(t *testing.T) {
	w := start(t, 1, confK)
	w.postRequest(`{"url":"http://origin.test/a b?q=a b&r=\"ü\""}`)
	w.postRequest(`{"url":"http://origin.test/","method":"POST"}`)
	got := w.fakes[0].Arrivals()
	require.Len(t, got, 2)
	require.Equal(t, `http://origin.test/a%20b?q=a%20b&r="ü"`, got[0].Target)
	require.NotContains(t, got[0].Header, "Content-Length")
	require.Equal(t, "0", got[1].Header.Get("Content-Length"))
}

// by_policy includes the policy of each hash.
func TestS62ByPolicyNamesThePolicy(t *testing.T) {
	w := start(t, 1, confK)
	w.get()
	w.get(overrideHeader("max_attempts=7, retry_status_codes=(429 503)")...)
	w.get(overrideHeader("retry_status_codes=(503 429), max_attempts=7")...)
	seen := map[float64]float64{} // max_attempts -> requests
	for _, v := range w.getJSON("/metrics/retries")["by_policy"].(map[string]any) {
		p := v.(map[string]any)
		seen[p["policy"].(map[string]any)["max_attempts"].(float64)] = p["requests"].(float64)
	}
	require.Equal(t, map[float64]float64{3: 1, 7: 2}, seen)
}

func TestRequestsByState(t *testing.T) {
	w := start(t, 1, confK)
	w.get()
	require.Len(t, w.getJSON("/requests?state=done")["requests"], 1)
	require.Empty(t, w.getJSON("/requests?state=waiting")["requests"])
	status, body, _ := w.call("GET", "/requests?state=finished", "")
	require.Equal(t, 400, status)
	require.Contains(t, string(body), "done")
}

// A query parameter without a value, or with two values, is an error.
func TestS10EmptyAndRepeatedParameters(t *testing.T) {
	w := start(t, 1, confK)
	for path, names := range map[string][]string{
		"/requests": {"state", "limit"}, "/metrics/retries/timeseries": {"hours", "interval"},
		"/circuit-breakers/metrics": {"hours"}, "/metrics/retries/by-proxy": {"hours"},
	} {
		for _, name := range names {
			for _, query := range []string{name + "=", name, name + "=1&" + name + "=1"} {
				status, body, _ := w.call("GET", path+"?"+query, "")
				require.Equal(t, 400, status, "%s?%s", path, query)
				require.Contains(t, string(body), `"field":"`+name+`"`)
			}
		}
	}
	status, _, _ := w.call("DELETE", "/proxies/F1?drain=", "")
	require.Equal(t, 400, status)
}

// A host name that is too long for any proxy is an error of the client, and is charged to no proxy.
func TestANameThatIsTooLong(t *testing.T) {
	w := start(t, 1, confKB)
	name := make([]byte, 256)
	for i := range name {
		name[i] = 'a'
	}
	status, h, _ := w.connect(string(name) + ":443")
	require.Equal(t, 400, status)
	require.Equal(t, "0", h.Get("X-Whirlpool-Attempts"))
	status, _, _ = w.connect(string(name[1:]) + ":443")
	require.NotEqual(t, 400, status)
}

// A module whose file cannot be written is not loaded. The response has the reason.
func TestAnUploadThatCannotBeKept(t *testing.T) {
	w := start(t, 1, confK)
	w.stop()
	w.stateDir = filepath.Join(w.dir, "state")
	require.NoError(t, os.Mkdir(w.stateDir, 0o700))
	// The gateway needs a folder with this name, but finds a file.
	require.NoError(t, os.WriteFile(filepath.Join(w.stateDir, "plugins"), nil, 0o600))
	w.writeConfig(confK)
	w.startProcess()
	eventually(t, "the log tells", func() bool {
		return strings.Contains(w.log.String(),
			"uploaded plugins could not be restored")
	})
	status, body := w.upload("POST", "mine", wt.Scorer(wt.Scores(1)...).Bytes())
	require.Equal(t, 500, status)
	require.Contains(t, body, "[state] dir")
	status, _, _ = w.call("GET", "/plugins/mine", "")
	require.Equal(t, 404, status)
}
