package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func (w *whirl) usedFor(plugin string) any { return w.getJSON("/plugins/" + plugin)["used_for"] }

// awaitReload waits for the next reload of the configuration, successful or not.
func (w *whirl) awaitReload(after string) {
	require.Eventually(w.t, func() bool { return w.getJSON("/config")["reload"].(map[string]any)["at"] != after },
		eventTimeout, 5*time.Millisecond)
}

func (w *whirl) configReadAt() string {
	return w.getJSON("/config")["reload"].(map[string]any)["at"].(string)
}

// A plugin that was activated at run time stays in use after a reload that does not change the plugin. The
// same is true for the policy.
func TestAnActivationOutlivesReloads(t *testing.T) {
	w := start(t, 2, confK)
	code, _, _ := w.call("POST", "/plugins/random/activate", `{"for":"first"}`)
	require.Equal(t, 200, code)
	at := w.configReadAt()
	w.writeConfig(confK + "[log]\nlevel = \"debug\"\n")
	w.awaitReload(at)
	require.Equal(t, []any{"first"}, w.usedFor("random"))
	at = w.configReadAt()
	w.writeConfig(confK + "[selection]\nfirst = \"weighted\"\n")
	w.awaitReload(at)
	require.Equal(t, []any{"first"}, w.usedFor("weighted"))
	require.Empty(t, w.usedFor("random"))
}

// A change of a plugin's file reloads the plugin. A file with an error changes nothing, and the error is
// reported.
func TestAPluginsFileIsWatched(t *testing.T) {
	w := start(t, 2, confK)
	path := filepath.Join(w.dir, "mine.wasm")
	put := func(code []byte) {
		require.NoError(t, os.WriteFile(path+".new", code, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	put(builtin.Modules()["random"])
	at := w.configReadAt()
	w.writeConfig(confK + "[plugins.mine]\npath = \"mine.wasm\"\n[selection]\nfirst = \"mine\"\n")
	w.awaitReload(at)
	require.Equal(t, []any{"first"}, w.usedFor("mine"))
	sum := w.getJSON("/plugins/mine")["sha256"]

	put(builtin.Modules()["round_robin"])
	eventually(t, "the module is replaced", func() bool { return w.getJSON("/plugins/mine")["sha256"] != sum })
	require.Equal(t, "ready", w.getJSON("/plugins/mine")["state"])
	for range 10 {
		require.Equal(t, 200, w.get().status)
	}
	require.EqualValues(t, 5, w.fakes[0].Count(), "it rotates now")

	put(wasmtest.Scorer(wasmtest.Unreachable).Bytes())
	eventually(t, "the file is refused", func() bool {
		return w.getJSON("/config")["reload"].(map[string]any)["ok"] == false
	})
	reload, _ := json.Marshal(w.getJSON("/config")["reload"])
	require.Contains(t, string(reload), "plugins.mine")
	require.Contains(t, string(reload), "trial call")
	require.Equal(t, "ready", w.getJSON("/plugins/mine")["state"], "the one before stays")
	require.Equal(t, 200, w.get().status)
}

// A scorer can be tested with invented candidates.
func TestAPluginIsTriedOnGivenCandidates(t *testing.T) {
	w := start(t, 1, confK)
	scores := func(plugin, body string) (int, []float64, string) {
		code, raw, _ := w.call("POST", "/plugins/"+plugin+"/test", body)
		var out struct{ Scores []struct{ Score float64 } }
		require.NoError(t, json.Unmarshal(raw, &out))
		var list []float64
		for _, s := range out.Scores {
			list = append(list, s.Score)
		}
		return code, list, string(raw)
	}
	code, got, _ := scores("performance", `{"candidates":[{"success_rate":1,"samples":100,"latency_mean":0.1},`+
		`{"success_rate":1,"samples":100,"latency_mean":0.2},{}]}`)
	require.Equal(t, 200, code)
	require.InDeltaSlice(t, []float64{0.7 + 0.3*(1-0.11/0.21), 0.7, 0.5}, got, 1e-9)
	code, got, _ = scores("least_in_flight", `{"candidates":[{"in_flight":4,"weight":2}]}`)
	require.Equal(t, 200, code)
	require.Equal(t, []float64{-2}, got)
	for body, field := range map[string]string{
		`{"candidates":[]}`: "candidates", `{"candidates":[{"sucess_rate":1}]}`: "candidates[0].sucess_rate",
		`{"request":{"x":1}}`:             "request.x",
		`{"candidates":[{"weight":"1"}]}`: "candidates[0].weight", `{"candidates":3}`: "candidates",
		`{"Candidates":[]}`: "Candidates",
	} {
		code, _, raw := scores("performance", body)
		require.Equal(t, 400, code, raw)
		require.Contains(t, raw, field)
	}
	code, raw, _ := w.call("POST", "/plugins/linear/test", `{"request":{"retry":3,"base_delay":0.5,"cap":9}}`)
	require.Equal(t, 200, code)
	require.JSONEq(t, `{"delays":[1.5]}`, string(raw))
	code, _, _ = w.call("POST", "/plugins/linear/test", `{"candidates":[{}]}`)
	require.Equal(t, 400, code)
	require.Equal(t, 0.0, w.getJSON("/plugins/least_in_flight")["calls"], "a trial is not counted")
}

// A plugin that learns has a single instance: its observations change its scores.
func TestAModuleThatLearns(t *testing.T) {
	// The module counts observations in memory, at address 8. The score of the first candidate is this count.
	learner := wasmtest.Scorer(wasmtest.Join(wasmtest.Scores(0),
		[]byte{wasmtest.LocalGet, 2}, wasmtest.Const32(0), []byte{0x2b, 3, 8}, []byte{wasmtest.F64Store, 3, 0})...)
	learner.Add(wasmtest.Func{Export: "observe", Params: []byte{wasmtest.I32}, Code: wasmtest.Join(
		wasmtest.Const32(0), wasmtest.Const32(0), []byte{0x2b, 3,
			8}, wasmtest.ConstF64(1), []byte{0xa0}, []byte{wasmtest.F64Store, 3, 8})})
	w := start(t, 2, confK)
	code, raw, _ := w.call("POST", "/plugins?name=learner", string(learner.Bytes()), "Content-Type", "application/wasm")
	require.Equal(t, 201, code, string(raw))
	require.Equal(t, true, w.getJSON("/plugins/learner")["learns"])
	learned := func(want int) {
		eventually(t, fmt.Sprintf("%d observations", want), func() bool {
			_, raw, _ = w.call("POST", "/plugins/learner/test", `{"candidates":[{}]}`)
			return string(raw) == fmt.Sprintf("{\"scores\":[{\"candidate\":0,\"score\":%d}]}\n", want)
		})
	}
	w.get() // the plugin is not in use yet, so it gets no observations
	code, raw, _ = w.call("POST", "/plugins/learner/activate", `{"for":"first"}`)
	require.Equal(t, 200, code, string(raw))
	for range 7 {
		w.get()
	}
	learned(7)
	code, raw, _ = w.call("POST", "/plugins/random/activate", `{"for":"first"}`)
	require.Equal(t, 200, code, string(raw))
	w.get()
	learned(7)
	require.Equal(t, 0.0, w.getJSON("/plugins/learner")["observations_missed"])
}

// A new module keeps the settings of the previous one, unless the upload has settings.
func TestANewBuildKeepsItsSettings(t *testing.T) {
	// Every score is the number of settings.
	plugin := wasmtest.Scorer(wasmtest.Join(wasmtest.Scores(0),
		[]byte{wasmtest.LocalGet, 2}, wasmtest.Const32(0), []byte{0x2b, 3, 8}, []byte{wasmtest.F64Store, 3, 0})...)
	plugin.Add(wasmtest.Func{Export: "configure", Params: []byte{wasmtest.I32, wasmtest.I32},
		Results: []byte{wasmtest.I32}, Code: wasmtest.Join(
			wasmtest.Const32(0), []byte{wasmtest.LocalGet, 1, 0xb7}, []byte{wasmtest.F64Store, 3,
				8}, wasmtest.Const32(0))})
	w := start(t, 1, confK)
	send := func(method, path, config string) {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		file, err := form.CreateFormFile("module", "x.wasm")
		require.NoError(t, err)
		file.Write(plugin.Bytes())
		form.WriteField("name", "mine")
		if config != "" {
			form.WriteField("config", config)
		}
		form.Close()
		code, raw, _ := w.call(method, path, body.String(), "Content-Type", form.FormDataContentType())
		require.Less(t, code, 300, string(raw))
	}
	settings := func() string {
		_, raw, _ := w.call("POST", "/plugins/mine/test", `{"candidates":[{}]}`)
		return string(raw)
	}
	send("POST", "/plugins", `{"a":1,"b":2}`)
	require.Contains(t, settings(), `"score":2`)
	send("PUT", "/plugins/mine", "")
	require.Contains(t, settings(), `"score":2`)
	send("PUT", "/plugins/mine", `{"a":1}`)
	require.Contains(t, settings(), `"score":1`)
	send("PUT", "/plugins/mine", `{}`)
	require.Contains(t, settings(), `"score":0`)
}

// The configuration may name an uploaded plugin. The gateway starts with it, and config check accepts it.
func TestTheConfigurationNamesAnUpload(t *testing.T) {
	w := startWithState(t, 2, confK)
	status, body := w.upload("POST", "mine", wasmtest.Scorer(wasmtest.Scores(1)...).Bytes())
	require.Equal(t, 201, status, body)
	w.kill()
	w.writeConfig(confK + "[selection]\nfirst = \"mine\"\n")
	out, errs, code := command(t, "config", "check", w.configFile)
	require.Equal(t, 0, code, out+errs)
	w.startProcess()
	require.Equal(t, []any{"first"}, w.usedFor("mine"))
	require.Equal(t, 200, w.get().status)

	// The file of the upload is damaged. The built-in is called, and the API, the log and the check report the
	// error.
	w.kill()
	require.NoError(t, os.WriteFile(filepath.Join(w.stateDir, "plugins", "mine.upload"), []byte("?"), 0o600))
	large := wasmtest.Scorer(wasmtest.Unreachable) // a large module, so its error is found in the background
	large.Custom = map[string][]byte{"padding": make([]byte, wasmhost.SlowBytes)}
	require.NoError(t, os.WriteFile(filepath.Join(w.stateDir, "plugins", "large.upload"),
		append([]byte("null\n"), large.Bytes()...), 0o600))
	w.writeConfig(strings.Replace(confK, "fixed", "mine", 1) + "[selection]\nfirst = \"mine\"\nretry = \"mine\"\n")
	out, errs, code = command(t, "config", "check", w.configFile)
	require.Equal(t, 0, code, out+errs)
	require.Contains(t, errs, "warning: uploaded plugin mine: ")
	require.Contains(t, errs, "warning: uploaded plugin large: ")
	w.startProcess()
	require.Equal(t, 200, w.get().status)
	i := w.getJSON("/plugins/mine")
	require.Equal(t, "failed", i["state"])
	require.Equal(t, []any{"first", "retry", "backoff"}, i["used_for"])
	require.Contains(t, i["last_error"], "PUT /api/v1/plugins/mine replaces it")
	eventually(t, "the log says so", func() bool { return strings.Contains(w.log.String(), "does not load any more") })
	code, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"first"}`)
	require.Equal(t, 422, code)
	require.Contains(t, string(raw), "replaces it")
	status, body = w.upload("PUT", "mine", wasmtest.Scorer(wasmtest.Scores(1)...).Bytes())
	require.Equal(t, 200, status, body)
	require.Equal(t, 200, w.get().status)
	i = w.getJSON("/plugins/mine")
	require.Equal(t, []any{"ready", 1.0}, []any{i["state"], i["calls"]})
}

// A plugin that was activated is in use again after a restart, unless the configuration has named another
// plugin since.
func TestAnActivationOutlivesARestart(t *testing.T) {
	w := startWithState(t, 2, confK)
	status, body := w.upload("POST", "mine", wasmtest.Scorer(wasmtest.Scores(1)...).Bytes())
	require.Equal(t, 201, status, body)
	for path, use := range map[string]string{"mine": "first", "random": "retry", "linear": "backoff"} {
		status, raw, _ := w.call("POST", "/plugins/"+path+"/activate", `{"for":"`+use+`"}`)
		require.Equal(t, 200, status, string(raw))
	}
	w.kill()
	w.startProcess()
	require.Equal(t, []any{"first"}, w.usedFor("mine"))
	require.Equal(t, []any{"retry"}, w.usedFor("random"))
	require.Equal(t, []any{"backoff"}, w.usedFor("linear"))
	eventually(t, "the log says so", func() bool {
		return strings.Contains(w.log.String(),
			`msg="an activated plugin is in use again after the restart" for=first plugin=mine`)
	})
	require.Equal(t, 200, w.get().status)

	status, raw, _ := w.call("PUT", "/retry/policy", `{"backoff_strategy":"fixed"}`) // the backoff of the file
	require.Equal(t, 200, status, string(raw))
	w.kill()
	w.writeConfig(confK + "[selection]\nretry = \"weighted\"\n")
	w.startProcess()
	require.Equal(t, []any{"first"}, w.usedFor("mine"))
	require.Equal(t, []any{"retry"}, w.usedFor("weighted"))
	require.Empty(t, w.usedFor("linear"))
}
