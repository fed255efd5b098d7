package api

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func pluginJSON(name, kind, source, state, more, usedFor string) string {
	return fmt.Sprintf(`{"name":%q,"kind":%q,"source":%q,"state":%q,"sha256":"","abi_version":0,"size":0,`+
		`"learns":false,`+
		`"loaded_at":"0001-01-01T00:00:00Z","calls":0,"faults":0,"faults_by_reason":null,%s"quarantined":false,`+
		`"can_roll_back":false,`+
		`"hides_upload":false,"observations_missed":0,"spent_seconds":0,"used_for":[%s]}`, name, kind, source, state,
		more, usedFor)
}

func TestPlugins(t *testing.T) {
	r := newRig(t, nil)
	broken := pluginJSON("broken", "", "api", "failed", `"last_error":"it does not load",`, "")
	fixed := pluginJSON("fixed", "backoff", "builtin", "ready", "", "")
	random := pluginJSON("random", "scorer", "builtin", "ready", "", `"first","retry"`)
	r.check(t,
		get("/plugins", 200, `{"plugins":[`+broken+","+fixed+","+random+"]}"),
		get("/plugins/random", 200, random),
		get("/plugins/nope", 404, `{"error":"not_found","message":"plugin \"nope\" not found"}`),
	)
	r.plugins.all["fixed"] = plugins.Info{
		Name: "fixed", Kind: wasmhost.Backoff, Source: "config", State: "quarantined", Path: "p", SHA256: "s",
		ABIVersion: 1, Size: 2,
		Learns: true, LoadedAt: noon, Calls: 3, Faults: 4, FaultsBy: map[string]uint64{"trap": 4}, LastError: "e",
		LastFaultAt: noon,
		TimeSpent:   1500, Quarantined: true, CanRollBack: true, HidesUpload: true, MissedObservations: 5,
	}
	r.check(t, get("/plugins/fixed", 200,
		`{"name":"fixed","kind":"backoff","source":"config","state":"quarantined",`+
			`"path":"p","sha256":"s","abi_version":1,"size":2,"learns":true,"loaded_at":"2026-11-28T12:00:00Z",`+
			`"calls":3,"faults":4,`+
			`"faults_by_reason":{"trap":4},"last_error":"e","last_fault_at":"2026-11-28T12:00:00Z",`+
			`"quarantined":true,"can_roll_back":true,`+
			`"hides_upload":true,"observations_missed":5,"spent_seconds":0.0000015,"used_for":[]}`))
}

const (
	wasm  = "Content-Type: application/wasm"
	multi = "Content-Type: multipart/form-data; boundary=b"
)

// part returns one part of a form with the boundary b.
func part(disposition, content string) string {
	return "--b\r\nContent-Disposition: form-data; " + disposition + "\r\n\r\n" + content + "\r\n"
}

func TestUpload(t *testing.T) {
	module := part(`name="module"; filename="a.wasm"`, "code")
	for _, x := range []struct {
		apiCase
		put upload
	}{
		{apiCase{path: "/plugins?name=a", body: "code", header: wasm, status: 201},
			upload{"a", []byte("code"), nil}},
		{apiCase{path: "/plugins", body: module + part(`name="name"`, "a") + "--b--", header: multi, status: 201},
			upload{"a", []byte("code"), nil}},
		{apiCase{path: "/plugins", body: module + part(`name="name"`, "a") + part(`name="config"`, `{"x":true}`) +
			"--b--", header: multi, status: 201},
			upload{"a", []byte("code"), map[string]any{"x": true}}},
		{apiCase{path: "/plugins?name=a", body: module + "--b--", header: multi, status: 201},
			upload{"a", []byte("code"), nil}},
		{apiCase{method: "PUT", path: "/plugins/random", body: "code", header: wasm, status: 200},
			upload{"random", []byte("code"), nil}},
		{apiCase{method: "PUT", path: "/plugins/random", body: module + "--b--", header: multi, status: 200},
			upload{"random", []byte("code"), nil}},
	} {
		r := newRig(t, nil)
		if x.method == "" {
			x.method = "POST"
		}
		r.check(t, x.apiCase)
		require.Equal(t, []upload{x.put}, r.plugins.puts)
	}
	name := `{"error":"invalid_plugin","message":"the plugin needs a name: the field name of the form,` +
		` or ?name=NAME in the URL"}`
	one := `{"error":"invalid_request","message":"the form needs one file named module"}`
	r := newRig(t, nil)
	r.check(t,
		apiCase{method: "POST", path: "/plugins", body: "code", header: wasm, status: 422, want: name},
		apiCase{method: "POST", path: "/plugins", body: module + "--b--", header: multi, status: 422, want: name},
		apiCase{method: "POST", path: "/plugins", body: part(`name="name"`, "a") + "--b--", header: multi,
			status: 400,
			want:   one},
		apiCase{method: "POST", path: "/plugins", body: module + module + "--b--", header: multi, status: 400,
			want: one},
		apiCase{method: "POST", path: "/plugins", body: part(`name="module"`, "code") + "--b--", header: multi,
			status: 400,
			want:   one},
		apiCase{method: "POST", path: "/plugins", body: "nonsense", header: multi, status: 400},
		apiCase{method: "POST", path: "/plugins",
			body: module + part(`name="name"`, "a") + part(`name="settings"`, "{}") +
				"--b--", header: multi, status: 400,
			want: bad("settings", "settings: the form has the fields module, name and config, each at most once")},
		apiCase{method: "POST", path: "/plugins",
			body: module + part(`name="name"`, "a") + part(`name="name"`, "b") +
				"--b--", header: multi, status: 400,
			want: bad("name", "name: the form has the fields module, name and config, each at most once")},
		apiCase{method: "POST", path: "/plugins", body: module + part(`name="config"; filename="c"`, "{}") + "--b--",
			header: multi, status: 400,
			want: strings.Replace(bad("config",
				"config is sent as a file; the only file is module (curl: -F 'config=<FILE')"), "<", `\u003c`, 1)},
		apiCase{method: "POST", path: "/plugins?name=a", body: module + part(`name="config"`, "[]") + "--b--",
			header: multi,
			status: 400,
			want:   bad("config", "config must be a JSON object")},
		apiCase{method: "POST", path: "/plugins?name=a", body: module + part(`name="config"`, "{") + "--b--",
			header: multi,
			status: 400},
		call("POST", "/plugins?name=a", "{}", 415),
		call("PUT", "/plugins/random", "{}", 415),
	)
	require.Empty(t, r.plugins.puts)
}

// Each error of the registry leads to its own status.
func TestErrorsOfTheRegistry(t *testing.T) {
	file := &fs.PathError{Op: "write", Path: "/state/a", Err: errors.New("full")}
	for _, x := range []struct {
		err            error
		status, remove int
		code           string
	}{
		{&wasmhost.CheckError{Msg: "no module"}, 422, 500, "invalid_plugin"},
		{&plugins.Rejection{Failed: []plugins.FailedCheck{{Name: "score_counts"}}}, 422, 500, "invalid_plugin"},
		{plugins.ErrTooManyUploads, 429, 500, "too_many_uploads"},
		{fmt.Errorf("plugin %w", core.ErrNotFound), 404, 404, "not_found"},
		{fmt.Errorf("plugin %w", core.ErrConflict), 409, 409, "conflict"},
		{file, 500, 500, "not_kept"},
		{&os.LinkError{Op: "rename", Err: errors.New("full")}, 500, 500, "not_kept"},
		{errors.New("secret"), 500, 500, "internal"},
	} {
		r := newRig(t, nil)
		r.plugins.err = x.err
		for _, e := range []apiCase{
			{method: "POST", path: "/plugins?name=a", body: "code", header: wasm, status: x.status},
			{method: "PUT", path: "/plugins/random", body: "code", header: wasm, status: x.status},
			call("POST", "/plugins/random/rollback", "", x.status),
			call("POST", "/plugins/random/release", "", x.status),
		} {
			response, body := r.send(t, e.method, "/api/v1"+e.path, e.body, e.header)
			require.Equal(t, e.status, response.StatusCode, "%v: %s %s: %s", x.err, e.method, e.path, body)
			require.Contains(t, string(body), `{"error":"`+x.code+`"`)
			require.NotContains(t, string(body), "secret")
		}
		r.check(t, call("DELETE", "/plugins/fixed", "", x.remove))
	}
	r := newRig(t, nil)
	r.plugins.err = file
	r.check(t, call("DELETE", "/plugins/fixed", "", 500,
		`{"error":"not_removed","message":"the upload cannot be removed from [state] dir,`+
			` so it stays: write /state/a: full"}`))
	r.plugins.err = nil
	r.check(t,
		call("DELETE", "/plugins/fixed", "", 204),
		call("DELETE", "/plugins/random", "", 409,
			`{"error":"conflict","message":"plugin \"random\" is in use as first and retry: already exists"}`),
	)
	linear := "linear"
	r.engine.rules, _ = rules.Compile([]rules.Rule{{When: rules.Conditions{Hosts: []string{"*"}}, Then: rules.Actions{
		Routing: rules.Routing{Scorer: "judge", Policy: &rules.Policy{
			Override: retry.Override{BackoffStrategy: &linear}}}}}}, nil)
	require.NotNil(t, r.engine.rules)
	r.check(t, call("DELETE", "/plugins/judge", "", 409,
		`{"error":"conflict","message":"plugin \"judge\" is in use as rule: already exists"}`))
}

func TestActivate(t *testing.T) {
	r := newRig(t, nil)
	r.plugins.all["other"] = plugins.Info{Name: "other", Kind: wasmhost.Scorer}
	activate := func(name, use string, status int, want string) {
		t.Helper()
		r.check(t, call("POST", "/plugins/"+name+"/activate", `{"for":"`+use+`"}`, status, want))
	}
	activate("other", "first", 200, pluginJSON("other", "scorer", "", "", "", `"first"`))
	require.Equal(t, []string{"other", "random"}, []string{r.engine.first, r.engine.retry})
	activate("other", "retry", 200, pluginJSON("other", "scorer", "", "", "", `"first","retry"`))
	activate("fixed", "backoff", 200, pluginJSON("fixed", "backoff", "builtin", "ready", "", `"backoff"`))
	require.Equal(t, "fixed", r.policies.Current().BackoffStrategy)
	const use = `{"error":"invalid_field","message":"for must be first, retry, backoff or judge",` +
		`"details":{"field":"for"}}`
	activate("judge", "judge", 200, pluginJSON("judge", "judge", "builtin", "ready", "", `"judge"`))
	require.Equal(t, "judge", r.engine.judge)
	activate("fixed", "judge", 422, `{"error":"invalid_plugin","message":"fixed is a backoff"}`)
	activate("other", "lunch", 400, use)
	activate("other", "", 400, use)
	activate("nope", "first", 404, "")
	activate("broken", "first", 422, `{"error":"invalid_plugin","message":"it does not load"}`)
	activate("fixed", "first", 422, `{"error":"invalid_plugin","message":"fixed is a backoff"}`)
	activate("other", "backoff", 422, "")
	require.Equal(t, []string{"other", "other"}, []string{r.engine.first, r.engine.retry})
	require.Equal(t, "fixed", r.policies.Current().BackoffStrategy)
}

// Activated is called for each activation.
func TestActivationsAreReported(t *testing.T) {
	var got []string
	r := newRig(t, func(_ *rig, cfg *Config) {
		cfg.OnActivation = func(use, plugin string) { got = append(got, use+"="+plugin) }
	})
	r.check(t,
		call("POST", "/plugins/random/activate", `{"for":"first"}`, 200),
		call("POST", "/plugins/random/activate", `{"for":"retry"}`, 200),
		call("POST", "/plugins/fixed/activate", `{"for":"backoff"}`, 200),
		call("POST", "/plugins/judge/activate", `{"for":"judge"}`, 200),
		call("POST", "/plugins/fixed/activate", `{"for":"first"}`, 422),
		call("PUT", "/retry/policy", `{"backoff_strategy":"exponential"}`, 200),
		call("PUT", "/retry/policy", `{"backoff_strategy":"nope"}`, 400),
		call("PUT", "/retry/policy", `{"max_attempts":2}`, 200),
	)
	require.Equal(t, []string{"first=random", "retry=random", "backoff=fixed", "judge=judge"}, got)
}

func TestTestScorer(t *testing.T) {
	r := newRig(t, nil)
	const path = "/plugins/random/test"
	r.check(t,
		call("POST", path, "", 200,
			`{"scores":[{"candidate":0,"proxy_id":"F1","score":1},{"candidate":1,"proxy_id":"F2","score":1}]}`),
		call("POST", path, `{"request":{"attempt":2}}`, 200),
		call("POST", path,
			`{"candidates":[{"weight":3,"latency_mean":1},{"latency_mean":3,"normalized_latency":0.25}]}`, 200,
			`{"scores":[{"candidate":0,"score":3},{"candidate":1,"score":1}]}`),
	)
	require.InDelta(t, 1.01/3.01, r.plugins.row.NormalizedLatency, 1e-9)
	require.Equal(t, 0.5, r.plugins.row.SuccessRate, "the default")
	r.check(t, call("POST", path, `{"request":{"count":9,"pool_size":8,"attempt":1},"candidates":[{}]}`,
		200))
	require.Equal(t, core.RankRequest{Count: 1, PoolSize: 8, Attempt: 1, Idempotent: 1}, r.plugins.rank,
		"there are as many candidates as there are")
	many := strings.Repeat("{},", maxCandidates) + "{}"
	r.check(t,
		call("POST", path, `{"candidates":[]}`, 400, bad("candidates", "candidates must be 1 to 10000")),
		call("POST", path, `{"candidates":[`+many+`]}`, 400, bad("candidates", "candidates must be 1 to 10000")),
		call("POST", path, `{"candidates":[{},{"nope":1}]}`, 400),
		call("POST", path, `{"request":{"nope":1}}`, 400),
		call("POST", path, `{"request":{"attempt":"1"}}`, 400),
		call("POST", "/plugins/nope/test", "", 404),
	)
	_, body := r.send(t, "POST", "/api/v1"+path, `{"candidates":[{},{"nope":1}]}`)
	require.Contains(t, string(body), `"details":{"field":"candidates[1].nope"}`)
	r.plugins.err = errors.New("trap")
	r.check(t, call("POST", path, "", 422, `{"error":"plugin_fault","message":"trap"}`))
}

func TestTestBackoff(t *testing.T) {
	r := newRig(t, nil)
	const path = "/plugins/fixed/test"
	r.check(t,
		call("POST", path, "", 200, `{"delays":[1,2,3]}`),
		call("POST", path, `{"request":{"retry":4,"base_delay":2}}`, 200, `{"delays":[8]}`),
		call("POST", path, `{"request":{"nope":4}}`, 400),
		call("POST", path, `{"candidates":[]}`, 400,
			bad("candidates", "candidates are for scorers; fixed is a backoff")),
	)
	require.Equal(t, core.BackoffRequest{Retry: 4, BaseDelay: 2, Multiplier: 2, Cap: 30, Random: 0.5, Remaining: -1,
		MaxAttempts: 3}, r.plugins.wait)
	r.plugins.err = errors.New("trap")
	r.check(t, call("POST", path, "", 422, `{"error":"plugin_fault","message":"trap"}`))
}

func TestTestJudge(t *testing.T) {
	r := newRig(t, nil)
	const path = "/plugins/judge/test"
	r.check(t,
		call("POST", path,
			`{"request":{"status":403,"attempt":1},"body":"a long page","fields":{"Server":"nginx","B":"c"}}`,
			200, `{"rulings":[{"ruling":"banned","rest_seconds":90}]}`),
		call("POST", path, `{"fields":{}}`, 200, `{"rulings":[{"ruling":"fine"}]}`),
		call("POST", path, `{"request":{"nope":4}}`, 400),
		call("POST", path, `{"candidates":[]}`, 400, bad("candidates", "candidates are for scorers; judge is a judge")),
		call("POST", "/plugins/fixed/test", `{"body":"x"}`, 400,
			bad("fields", "fields and body are for judges; fixed is a backoff")),
	)
	require.Equal(t, []float64{403, 1, 11, 0}, []float64{r.plugins.judged[0].Status, r.plugins.judged[0].Attempt,
		r.plugins.judged[0].Length, r.plugins.judged[0].Whole}, "the judge asks for five bytes of eleven")
	require.Equal(t, 200.0, r.plugins.judged[1].Status, "the default")
	r.check(t, call("POST", path, "", 200))
	require.Greater(t, len(r.plugins.judged), 10, "without input it rules on samples")
	require.Equal(t, []core.ExcerptField{{Name: "server", Value: []byte("nginx")}}, r.plugins.excerpts[0].Fields,
		"the fields that it asks for")
	r.plugins.err = errors.New("trap")
	r.check(t, call("POST", path, "", 422, `{"error":"plugin_fault","message":"trap"}`))
}

func TestRests(t *testing.T) {
	r := newRig(t, nil)
	r.check(t, get("/rests", 200, `{"rests":[]}`))
	r.engine.resting = []ban.Pair{{ProxyID: "F1", Host: "a.test", Since: time.Second, Until: time.Minute}}
	r.check(t, get("/rests", 200, `{"rests":[{"proxy_id":"F1","host":"a.test","since":"2026-11-28T12:00:01Z",`+
		`"until":"2026-11-28T12:01:00Z"}]}`))
}

func TestSnakeCase(t *testing.T) {
	for name, want := range map[string]string{
		"IDHash": "id_hash", "LatencyEWMA": "latency_ewma", "SinceUse": "since_use", "Now": "now",
		"RetryAfter": "retry_after",
	} {
		require.Equal(t, want, snakeCase(name))
	}
}
