package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// run runs a command of the binary.
func run(args ...string) (out, errs string, code int) {
	cmd := rootCommand()
	var stdout, stderr bytes.Buffer
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetIn(strings.NewReader(`{"request":{}}`))
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(context.Background())
	if err != nil {
		fmt.Fprintln(&stderr, err)
	}
	return stdout.String(), stderr.String(), exitCode(err)
}

// fakeAPI responds with the responses for "METHOD path" below /api/v1, one after the other, and then with the
// last one repeatedly. It records the requests.
type fakeAPI struct {
	*httptest.Server
	responses map[string][]string // "STATUS body"
	requests  []string
	bodies    map[string]string
	queries   map[string]string // query of the last request, by method and path
	keys      map[string]bool   // values of Authorization
}

func newFakeAPI(t *testing.T, responses map[string][]string) *fakeAPI {
	f := &fakeAPI{responses: responses, bodies: map[string]string{}, queries: map[string]string{},
		keys: map[string]bool{}}
	var mu sync.Mutex
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		at := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v1")
		f.requests = append(f.requests, at)
		f.queries[at] = r.URL.RawQuery
		f.keys[r.Header.Get("Authorization")] = true
		body, _ := io.ReadAll(r.Body)
		f.bodies[at] = string(body)
		list := f.responses[at]
		if len(list) == 0 {
			w.WriteHeader(404)
			io.WriteString(w, `{"error":"not_found","message":"there is nothing"}`)
			return
		}
		if len(list) > 1 {
			f.responses[at] = list[1:]
		}
		var status int
		fmt.Sscan(list[0], &status)
		w.WriteHeader(status)
		_, text, _ := strings.Cut(list[0], " ")
		io.WriteString(w, text)
	}))
	t.Cleanup(f.Close)
	t.Setenv(urlVar, f.URL)
	t.Setenv(keyVar, "the-key")
	return f
}

const served = `{"name":"mine","kind":"scorer","source":"api","state":"ready","sha256":"0123456789abcdef","size":3,` +
	`"calls":1,"faults":0,"used_for":["first"]}`

func TestPluginCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(file, []byte("\x00asm"), 0o600))
	failed := `{"id":"7","state":"failed","error":{"error":"invalid_plugin","message":"check score_counts failed"}}`
	for name, c := range map[string]struct {
		args      []string
		responses map[string][]string
		code      int
		out, errs string // parts of the output
		requests  string
	}{
		"list": {[]string{"list"}, map[string][]string{"GET /plugins": {`200 {"plugins":[` + served + `]}`}}, 0,
			"mine  scorer  api     ready  first     1      0       3     0123456789ab\n", "", "GET /plugins"},
		"list as JSON": {[]string{"list", "--json"}, map[string][]string{"GET /plugins": {`200 {"plugins":[]}`}}, 0,
			"{\n  \"plugins\": []\n}\n", "", "GET /plugins"},
		"activate": {[]string{"activate", "mine", "first"}, map[string][]string{"POST /plugins/mine/activate": {"200 " +
			served}}, 0,
			"mine is active\n", "", "POST /plugins/mine/activate"},
		"activate nothing": {[]string{"activate", "mine", "first"}, nil, 1, "", "there is nothing",
			"POST /plugins/mine/activate"},
		"roll back": {[]string{"rollback", "mine"}, map[string][]string{"POST /plugins/mine/rollback": {"200 " +
			served}}, 0,
			"mine is rolled back\nsha256 0123456789abcdef, state ready\n", "", "POST /plugins/mine/rollback"},
		"release": {[]string{"release", "a/b"}, map[string][]string{"POST /plugins/a/b/release": {"200 " + served}}, 0,
			"a/b is released\n", "", "POST /plugins/a/b/release"},
		"delete": {[]string{"delete", "mine"}, map[string][]string{"DELETE /plugins/mine": {"204 "}}, 0,
			"mine is deleted\n", "", "DELETE /plugins/mine"},
		"test a scorer": {[]string{"test", "mine", "--input", "-"},
			map[string][]string{"POST /plugins/mine/test": {`200 {"scores":[{"candidate":0,"proxy_id":"F1",` +
				`"score":0.5},{"candidate":1,"score":2}]}`}},
			0, "F1           0.5\ncandidate 1  2\n", "", "POST /plugins/mine/test"},
		"test a backoff": {[]string{"test", "mine"},
			map[string][]string{"POST /plugins/mine/test": {`200 {"delays":[1,2.5]}`}}, 0,
			"delay 1  1 s\ndelay 2  2.5 s\n", "", "POST /plugins/mine/test"},
		"push a new one": {[]string{"push", file}, map[string][]string{"POST /plugins": {"201 " + served}}, 0,
			"mine is a scorer of 3 bytes, sha256 0123456789abcdef\n", "", "GET /plugins/mine, POST /plugins"},
		"push in place of another": {[]string{"push", file, "--name", "other", "--config", "a=1", "--activate",
			"first"},
			map[string][]string{"GET /plugins/other": {"200 {}"}, "PUT /plugins/other": {"200 " + served},
				"POST /plugins/other/activate": {"200 " + served}},
			0, "used for: first\n", "", "GET /plugins/other, PUT /plugins/other, POST /plugins/other/activate"},
		"push what takes long": {[]string{"push", file},
			map[string][]string{"POST /plugins": {`202 {"id":"7","state":"checking"}`},
				"GET /uploads/7": {`200 {"id":"7","state":"done","plugin":` + served + `}`}}, 0,
			"mine is a scorer", "mine is being checked (2 s) ...\n",
			"GET /plugins/mine, POST /plugins, GET /uploads/7"},
		"push what fails later": {[]string{"push", file},
			map[string][]string{"POST /plugins": {`202 {"id":"7","state":"checking"}`},
				"GET /uploads/7": {"200 " + failed}}, 1, "", "check score_counts failed",
			"GET /plugins/mine, POST /plugins, GET /uploads/7"},
		"push what is refused": {[]string{"push", file},
			map[string][]string{"POST /plugins": {`422 {"error":"invalid_plugin","message":"check starts failed"}`}},
			1, "", "check starts failed", "GET /plugins/mine, POST /plugins"},
		"push and not activate": {[]string{"push", file, "--activate", "retry"},
			map[string][]string{"POST /plugins": {"201 " + served},
				"POST /plugins/mine/activate": {`422 {"error":"invalid_plugin","message":"it is a backoff"}`}}, 1, "",
			"mine was uploaded, but not activated: it is a backoff",
			"GET /plugins/mine, POST /plugins, POST /plugins/mine/activate"},
		"logs": {[]string{"logs", "mine"}, map[string][]string{"GET /plugins/mine/logs": {
			`200 {"lines":[{"number":7,"at":"2026-11-28T12:00:00.5Z","level":"warn","text":"hot"}]}`}}, 0,
			"2026-11-28T12:00:00.500Z warn  hot\n", "", "GET /plugins/mine/logs"},
		"logs as JSON": {[]string{"logs", "mine", "--json"}, map[string][]string{"GET /plugins/mine/logs": {
			`200 {"lines":[{"number":7,"at":"2026-11-28T12:00:00Z","level":"warn","text":"hot"}]}`}}, 0,
			`{"number":7,"at":"2026-11-28T12:00:00Z","level":"warn","text":"hot"}` + "\n", "",
			"GET /plugins/mine/logs"},
		"a wrong key": {[]string{"list"},
			map[string][]string{"GET /plugins": {`401 {"error":"unauthorized","message":"no"}`}}, 1, "",
			"--key-file or $WHIRLPOOL_API_KEY", "GET /plugins"},
		"no API": {[]string{"list"}, map[string][]string{"GET /plugins": {"502 <html>"}}, 1, "",
			"is it the API of a gateway?", "GET /plugins"},
		"no JSON": {[]string{"list"}, map[string][]string{"GET /plugins": {"200 <html>"}}, 1, "",
			"does not respond with the JSON of the API", "GET /plugins"},
		"no file":   {[]string{"push", file + "x"}, nil, 2, "", "no such file", ""},
		"no module": {[]string{"push", "remote_test.go"}, nil, 2, "", "remote_test.go is not a WebAssembly module", ""},
		"no name":   {[]string{"push", file, "--name", "A"}, nil, 2, "", "set another name with --name", ""},
		"another use": {[]string{"push", file, "--activate", "third"}, nil, 2, "",
			"must be one of first, retry, backoff, judge", ""},
		"a bad URL": {[]string{"list", "--to", "ftp://secret"}, nil, 2, "", "--url: the address must be a URL", ""},
		"a key in a URL": {[]string{"list", "--to", "http://k:secret@h"}, nil, 2, "", "the key comes from --key-file",
			""},
		"no key file":     {[]string{"list", "--key-file", file + "x"}, nil, 2, "", "no such file", ""},
		"an argument few": {[]string{"activate", "mine"}, nil, 2, "", "USE is missing", ""},
	} {
		t.Run(name, func(t *testing.T) {
			api := newFakeAPI(t, c.responses)
			out, errs, code := run(append([]string{"plugin"}, c.args...)...)
			require.Equal(t, c.code, code, out+errs)
			require.Contains(t, out, c.out)
			require.Contains(t, errs, c.errs)
			require.NotContains(t, out+errs, "secret")
			require.NotContains(t, out+errs, "the-key")
			require.Equal(t, c.requests, strings.Join(api.requests, ", "))
			if c.requests != "" {
				require.Equal(t, map[string]bool{"Bearer the-key": true}, api.keys)
			}
		})
	}
}

// The commands send the expected requests, with a key from each of its sources.
func TestPluginRequests(t *testing.T) {
	dir := t.TempDir()
	file, key := filepath.Join(dir, "mine.wasm"), filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(file, []byte("\x00asm"), 0o600))
	require.NoError(t, os.WriteFile(key, []byte("from-file\n"), 0o600))
	api := newFakeAPI(t, map[string][]string{
		"POST /plugins": {"201 " + served}, "POST /plugins/mine/test": {`200 {"delays":[]}`},
		"POST /plugins/mine/activate": {"200 " + served},
	})
	for _, args := range [][]string{
		{"push", file, "--config", "a=1", "--config", "b="}, {"test", "mine", "--input", "-"},
		{"activate", "mine", "retry"},
	} {
		_, errs, code := run(append(append([]string{"plugin"}, args...), "--to", api.URL+"/", "--key-file", key)...)
		require.Zero(t, code, errs)
	}
	require.Equal(t, map[string]bool{"Bearer from-file": true}, api.keys)
	require.Contains(t, api.bodies["POST /plugins"], `{"a":"1","b":""}`)
	require.Contains(t, api.bodies["POST /plugins"], "\r\n\r\n\x00asm\r\n")
	require.JSONEq(t, `{"request":{}}`, api.bodies["POST /plugins/mine/test"])
	require.JSONEq(t, `{"for":"retry"}`, api.bodies["POST /plugins/mine/activate"])
	require.True(t, json.Valid([]byte(served)))
}
