package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// config check fetches the lists by URL and shows how each is read. A list that cannot be fetched is a warning without
// the secrets of its URL. --offline fetches none.
func TestConfigCheckFetchesLists(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		requests.Add(1)
		switch q.URL.Path {
		case "/good":
			fmt.Fprint(w, "1.2.3.4:80\n1.2.3.5:80:ann:hunter2\nnonsense\n")
		case "/page":
			fmt.Fprint(w, "<html>hunter2</html>\n")
		case "/slow":
			<-q.Context().Done()
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "k.toml")
	configure := func(paths ...string) {
		text := "[pool]\nurls = [\n"
		for _, path := range paths {
			text += fmt.Sprintf("  { url = %q, scheme = \"socks5\" },\n", server.URL+path+"?key=hunter2")
		}
		require.NoError(t, os.WriteFile(file, []byte(text+"]\n"), 0o600))
	}

	configure("/good", "/page", "/gone")
	out, errs, code := run("config", "check", file)
	require.Zero(t, code, errs)
	require.Contains(t, out, server.URL+"/good?***: 2 proxies\n")
	require.Contains(t, out, "read 1: host:port:user:pass\n")
	require.Contains(t, out, "such as socks5://1.2.3.4:80\n")
	require.Contains(t, out, "left out 1: ")
	require.Contains(t, out, "is valid: 2 proxies\n")
	require.Contains(t, errs,
		"k.toml:4: pool.urls[1].url: the list was not fetched: none of its lines is a valid proxy")
	require.Contains(t, errs, "k.toml:5: pool.urls[2].url: the list was not fetched: the response has status 403; a")
	require.NotContains(t, out+errs, "hunter2")

	out, errs, code = run("config", "check", file, "--json")
	require.Zero(t, code, errs)
	var result checkResult
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	require.Equal(t, 2, result.Proxies)
	require.Len(t, result.Lists, 1)
	require.Len(t, result.Warnings, 3, "%q", result.Warnings)

	before := requests.Load()
	out, errs, code = run("config", "check", file, "--offline")
	require.Zero(t, code, errs)
	require.Empty(t, errs)
	require.Contains(t, out, "is valid: 0 proxies\n3 lists by URL: not fetched (--offline)\n")
	require.Equal(t, before, requests.Load())

	configure("/slow")
	_, errs, code = run("config", "check", file, "--timeout", "20ms")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "the list was not fetched: it did not end within 20ms (--timeout)")
	_, _, code = run("config", "check", file, "--timeout", "0s")
	require.Equal(t, exitUsage, code)

	text := "[pool]\nurls = [{ url = \"" + server.URL + "/good\" }]\n[log]\nlevel = 1\n"
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	before = requests.Load()
	_, errs, code = run("config", "check", file)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "log.level")
	require.Equal(t, before, requests.Load(), "a configuration with faults fetches nothing")
}
