package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	wt "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// upload sends a module with the method POST or PUT.
func (w *whirl) upload(method, name string, code []byte) (int, string) {
	path := "/plugins?name=" + name
	if method == "PUT" {
		path = "/plugins/" + name
	}
	status, body, _ := w.call(method, path, string(code), "Content-Type", "application/wasm")
	return status, string(body)
}

// form returns the body of a multipart upload.
func form(t *testing.T, fields map[string]string, files map[string][]byte) (body, kind string) {
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for k, v := range fields {
		require.NoError(t, m.WriteField(k, v))
	}
	for k, v := range files {
		f, err := m.CreateFormFile(k, k+".wasm")
		require.NoError(t, err)
		_, err = f.Write(v)
		require.NoError(t, err)
	}
	require.NoError(t, m.Close())
	return b.String(), m.FormDataContentType()
}

// Each upload of a bad module gets a JSON response that states what to change. Nothing else
// changes.
func TestBadUploads(t *testing.T) {
	w := start(t, 1, confK)
	good := wt.Scorer(wt.Scores(1)...).Bytes()
	status, body := w.upload("POST", "mine", good)
	require.Equal(t, 201, status, body)
	status, body = w.upload("POST", "waits", wt.Backoff(wt.ConstF64(1)...).Bytes())
	require.Equal(t, 201, status, body)
	_, before, _ := w.call("GET", "/plugins", "")

	start := wt.Scorer()
	start.Add(wt.Func{Code: wt.SpinLoop})
	at := uint32(3)
	start.Start = &at
	socket := wt.Scorer()
	socket.Imports = []wt.Import{{Module: "wasi_snapshot_preview1", Name: "sock_open"}}
	bomb := wt.Scorer().Add(wt.Func{Code: wt.Join(wt.Repeat(10_000, wt.Loop, wt.Empty), wt.Repeat(10_000, wt.End))})
	huge := wt.Scorer()
	huge.Memories[0] = wt.Limits{Min: 60_000}
	old := wt.Scorer()
	old.Func("whirlpool_abi_v1").Export = "whirlpool_abi_v7"
	for name, c := range map[string]struct {
		code []byte
		says string
	}{
		"nothing":          {nil, "not a module of WebAssembly 2.0"},
		"text":             {[]byte("hello"), "not a module of WebAssembly 2.0"},
		"a cut module":     {good[:len(good)/2], "not a module of WebAssembly 2.0"},
		"20 MB of zeros":   {make([]byte, 20<<20), "at most 16777216 are taken"},
		"a spinning start": {start.Bytes(), "does not start"},
		"a socket":         {socket.Bytes(), "sock_open"},
		"a compile bomb":   {bomb.Bytes(), "too long to compile"},
		"a huge memory":    {huge.Bytes(), "at most 256 are given"},
		"another version":  {old.Bytes(), "version 7"},
		"a spin":           {wt.Scorer(wt.SpinLoop...).Bytes(), "check answers failed: 10 plausible candidates: fuel"},
		"a trap":           {wt.Scorer(wt.Unreachable).Bytes(), "check answers failed: 10 plausible candidates: trap"},
		"NaN": {wt.Scorer(wt.Scores(math.NaN())...).Bytes(),
			"check answers failed: 10 plausible candidates: not_finite"},
	} {
		for method, plugin := range map[string]string{"POST": "fresh", "PUT": "mine"} {
			status, body := w.upload(method, plugin, c.code)
			require.Equal(t, 422, status, "%s %s: %s", method, name, body)
			var answer struct{ Error, Message string }
			require.NoError(t, json.Unmarshal([]byte(body), &answer), body)
			require.Equal(t, "invalid_plugin", answer.Error, name)
			require.Contains(t, answer.Message, c.says, name)
		}
	}
	multi := func(fields map[string]string, files map[string][]byte) [2]string {
		body, kind := form(t, fields, files)
		return [2]string{body, kind}
	}
	for name, c := range map[string]struct {
		method, path string
		body         [2]string // the body and its Content-Type
		status       int
	}{
		"too large": {"POST", "/plugins?name=x", [2]string{strings.Repeat("\x00", 33<<20),
			"application/wasm"}, 413},
		"no type":                  {"POST", "/plugins?name=x", [2]string{string(good), ""}, 415},
		"JSON":                     {"POST", "/plugins?name=x", [2]string{"{}", "application/json"}, 415},
		"a name with a slash":      {"POST", "/plugins?name=..%2Fx", [2]string{string(good), "application/wasm"}, 422},
		"no name":                  {"POST", "/plugins", [2]string{string(good), "application/wasm"}, 422},
		"a name that is built in":  {"POST", "/plugins?name=random", [2]string{string(good), "application/wasm"}, 422},
		"a name that is taken":     {"POST", "/plugins?name=mine", [2]string{string(good), "application/wasm"}, 409},
		"a name that is not there": {"PUT", "/plugins/nobody", [2]string{string(good), "application/wasm"}, 404},
		"another kind":             {"PUT", "/plugins/waits", [2]string{string(good), "application/wasm"}, 422},
		"a form without a module":  {"POST", "/plugins", multi(map[string]string{"name": "x"}, nil), 400},
		"a form with two": {"POST", "/plugins", multi(map[string]string{"name": "x", "module": "y"},
			map[string][]byte{"other": good}), 400},
		"a form cut off": {"POST", "/plugins",
			[2]string{"--b\r\nContent-Disposition: form-data; name=\"module\"; filename=\"m\"\r\n\r\nx",
				"multipart/form-data; boundary=b"}, 400},
		"a form without a boundary": {"POST", "/plugins", [2]string{"x", "multipart/form-data"}, 400},
		"settings it does not take": {"POST", "/plugins", multi(map[string]string{"name": "x", "config": `{"a":1}`},
			map[string][]byte{"module": good}), 422},
		"settings that are a list": {"POST", "/plugins", multi(map[string]string{"name": "x", "config": `[]`},
			map[string][]byte{"module": good}), 400},
		"settings sent as a file": {"POST", "/plugins", multi(map[string]string{"name": "x"},
			map[string][]byte{"module": good, "config": []byte(`{}`)}), 400},
		"settings misspelt": {"POST", "/plugins", multi(map[string]string{"name": "x", "confg": `{}`},
			map[string][]byte{"module": good}), 400},
		"settings that are broken": {"POST", "/plugins", multi(map[string]string{"name": "x", "config": `{`},
			map[string][]byte{"module": good}), 400},
	} {
		status, body, h := w.call(c.method, c.path, c.body[0], "Content-Type", c.body[1])
		require.Equal(t, c.status, status, "%s: %s", name, body)
		require.Contains(t, h.Get("Content-Type"), "application/json", name)
		var answer struct{ Error, Message string }
		require.NoError(t, json.Unmarshal(body, &answer), "%s: %s", name, body)
		require.NotEmpty(t, answer.Message, name)
	}
	_, raw, _ := w.call("POST", "/plugins", string(good), "Content-Type", "application/wasm")
	require.Contains(t, string(raw), "?name=NAME")
	_, after, _ := w.call("GET", "/plugins", "")
	require.JSONEq(t, string(before), string(after))
	require.Equal(t, 200, w.get().status)
}

// If a scorer or a backoff begins to fail, no request fails: the built-in is called instead. After max_faults
// failed calls the plugin is quarantined. The API, the metrics and one log record show the quarantine, which
// can be ended.
func TestQuarantine(t *testing.T) {
	w := start(t, 3, confK+"[plugins]\nmax_faults = 4\n")
	traps := wt.Scorer(wt.Join(wt.OnlyInRealCalls(wt.ScorerNow, wt.Unreachable), wt.Scores(1))...).Bytes()
	status, body := w.upload("POST", "mine", traps)
	require.Equal(t, 201, status, body)
	for _, use := range []string{"first", "retry"} {
		status, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"`+use+`"}`)
		require.Equal(t, 200, status, string(raw))
	}
	metric := func(line string) float64 {
		raw := w.scrape()
		m := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(line) + " (.*)$").FindStringSubmatch(raw)
		require.NotNil(t, m, "%s in\n%s", line, raw)
		v, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		return v
	}
	for range 3 {
		require.Equal(t, 200, w.get().status)
	}
	require.Equal(t, "ready", w.getJSON("/plugins/mine")["state"])
	require.Zero(t, metric(`whirlpool_plugin_quarantined{plugin="mine"}`))
	for range 6 {
		require.Equal(t, 200, w.get().status)
	}
	i := w.getJSON("/plugins/mine")
	require.Equal(t, "quarantined", i["state"])
	require.Equal(t, true, i["quarantined"])
	require.Equal(t, map[string]any{"trap": 4.0}, i["faults_by_reason"])
	require.Contains(t, i["last_error"], "unreachable")
	require.Equal(t, 1.0, metric(`whirlpool_plugin_quarantined{plugin="mine"}`))
	require.Equal(t, 4.0, metric(`whirlpool_plugin_calls_total{plugin="mine",result="fault"}`))
	require.Equal(t, 4.0, metric(`whirlpool_plugin_faults_total{plugin="mine",reason="trap"}`))
	eventually(t, "the quarantine is logged", func() bool {
		return strings.Contains(w.log.String(),
			"plugin quarantined")
	})
	require.Equal(t, 1, strings.Count(w.log.String(), "plugin failed: the built-in answered"), w.log)
	require.Equal(t, 1, strings.Count(w.log.String(), "plugin quarantined"), w.log)
	require.EqualValues(t, []int{3, 3, 3}, []int{w.fakes[0].Count(), w.fakes[1].Count(), w.fakes[2].Count()},
		"the built-in rotates")

	status, raw, _ := w.call("POST", "/plugins/mine/test", `{"request":{"now":1.8e9},"candidates":[{}]}`)
	require.Equal(t, 422, status, "a quarantined plugin may be tried: %s", raw)
	require.Contains(t, string(raw), `"plugin_fault"`)
	require.Contains(t, string(raw), "trap: wasm error: unreachable")
	require.Equal(t, 4.0, w.getJSON("/plugins/mine")["faults"], "which is not counted")

	status, raw, _ = w.call("POST", "/plugins/mine/release", "")
	require.Equal(t, 200, status, string(raw))
	require.Equal(t, "ready", w.getJSON("/plugins/mine")["state"])
	for range 4 {
		require.Equal(t, 200, w.get().status)
	}
	require.Equal(t, "quarantined", w.getJSON("/plugins/mine")["state"], "it is no better")
	status, body = w.upload("PUT", "mine", wt.Scorer(wt.Scores(1)...).Bytes())
	require.Equal(t, 200, status, body)
	for range 4 {
		require.Equal(t, 200, w.get().status)
	}
	require.Equal(t, "ready", w.getJSON("/plugins/mine")["state"], "another module begins anew")
	require.Equal(t, 0.0, metric(`whirlpool_plugin_quarantined{plugin="mine"}`))
	status, _, _ = w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 409, status, "it is in use")

	// A backoff that returns NaN, except during the check of the upload.
	honest := wt.Join(wt.OnlyInRealCalls(wt.BackoffNow, wt.Join(wt.ConstF64(math.NaN()), []byte{wt.Return})...),
		wt.ConstF64(0))
	status, body = w.upload("POST", "waits", wt.Backoff(honest...).Bytes())
	require.Equal(t, 201, status, body)
	w.putPolicy(`{"max_backoff_delay":1}`)
	status, raw, _ = w.call("POST", "/plugins/waits/activate", `{"for":"backoff"}`)
	require.Equal(t, 200, status, string(raw))
	w.fakes[0].SetBehaviour(lab.Status(503))
	w.fakes[1].SetBehaviour(lab.Status(503))
	for range 8 {
		require.Equal(t, 200, w.get().status)
	}
	i = w.getJSON("/plugins/waits")
	require.Equal(t, "quarantined", i["state"])
	require.Equal(t, map[string]any{"not_finite": 4.0}, i["faults_by_reason"])
	w.reconcile(0)
}

// A plugin that loops until its fuel is used up delays a request by milliseconds, and delays no other
// request.
func TestABusyPluginDelaysNoRequest(t *testing.T) {
	w := start(t, 2, confK+"[plugins]\nmax_faults = 1000000\n")
	spins := wt.Scorer(wt.Join(wt.OnlyInRealCalls(wt.ScorerNow, wt.SpinLoop...), wt.Scores(1))...).Bytes()
	status, body := w.upload("POST", "mine", spins)
	require.Equal(t, 201, status, body)
	status, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"first"}`)
	require.Equal(t, 200, status, string(raw))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 25 {
				if a := w.get(); a.status != 200 || a.duration > 3*time.Second+tolerance(a.sentAt) {
					t.Error(a.status, a.err, a.duration)
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, w.getJSON("/plugins/mine")["faults_by_reason"].(map[string]any)["fuel"])
	w.reconcile(0)
}

// The output of a plugin goes neither to the gateway's own output nor into its memory.
func TestTheOutputOfAPluginIsDropped(t *testing.T) {
	w := start(t, 2, confK)
	m := wt.Scorer(wt.Join(wt.Const32(1), wt.Const32(0), wt.Const32(1), wt.Const32(800), wt.CallTo(0),
		[]byte{wt.Drop}, wt.Scores(1))...)
	m.Imports = []wt.Import{{Module: "wasi_snapshot_preview1", Name: "fd_write", Params: wt.Repeat(4, wt.I32),
		Results: []byte{wt.I32}}}
	m.Data = []wt.Data{{Offset: 0, Bytes: []byte{8, 0, 0, 0, 14, 0, 0, 0}},
		{Offset: 8, Bytes: []byte("guest-was-here")}}
	status, body := w.upload("POST", "mine", m.Bytes())
	require.Equal(t, 201, status, body)
	status, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"first"}`)
	require.Equal(t, 200, status, string(raw))
	for range 50 {
		require.Equal(t, 200, w.get().status)
	}
	i := w.getJSON("/plugins/mine")
	require.Equal(t, 50.0, i["calls"])
	require.Equal(t, 0.0, i["faults"])
	require.NotContains(t, w.log.String(), "guest-was-here")
}

func (w *whirl) scrape() string {
	r, err := http.Get("http://" + w.api + "/metrics")
	require.NoError(w.t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(w.t, err)
	return string(b)
}

// replace uploads a module by PUT. The gateway may be killed meanwhile.
func (w *whirl) replace(name, kind string, upload []byte) {
	q, err := http.NewRequest("PUT", "http://"+w.api+"/api/v1/plugins/"+name, bytes.NewReader(upload))
	if err != nil {
		w.t.Error(err)
		return
	}
	q.Header.Set("Content-Type", kind)
	if r, err := http.DefaultClient.Do(q); err == nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
}

// A plugin takes milliseconds and all the memory that it may use, under a thousand simultaneous requests.
// Each request gets a response; if the plugin is too slow, the built-in is called. The memory is limited. The only
// plugin faults are busy. The test permits a quarantine: on a busy machine, at least half of the calls during two
// seconds may be busy (sdk/ABI.md).
func TestASlowPluginUnderLoad(t *testing.T) {
	// On a loaded machine a call may take 10 ms of CPU time, which is slow with the default call_timeout.
	w := start(t, 2, confK+"[plugins]\ncall_timeout = \"60ms\"\n"+
		"[timeouts]\nattempt = \"5m\"\nconnect = \"1m\"\n")
	pages := wt.Join(wt.Const32(255), []byte{wt.MemoryGrow, 0, wt.Drop})
	walk := wt.Join(wt.Const32(40_000), []byte{wt.LocalSet, 3, wt.Loop, wt.Empty}, // reads at 40,000 addresses
		// and, i32.load
		[]byte{wt.LocalGet, 3}, wt.Const32(1103515245), []byte{wt.I32Mul}, wt.Const32(0xfffff8),
		[]byte{0x71, 0x28, 2, 0, wt.Drop},
		[]byte{wt.LocalGet, 3}, wt.Const32(1), []byte{wt.I32Sub, 0x22, 3, wt.BrIf, 0, wt.End})
	slow := wt.Scorer(wt.Join(wt.Scores(1), wt.OnlyInRealCalls(wt.ScorerNow, wt.Join(pages, walk)...))...)
	status, body := w.upload("POST", "mine", slow.Bytes())
	require.Equal(t, 201, status, body)
	status, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"first"}`)
	require.Equal(t, 200, status, string(raw))
	var wg sync.WaitGroup
	var slowest atomic.Int64
	for range 1000 {
		wg.Go(func() {
			for range 3 {
				a := w.get()
				if a.status != 200 {
					t.Error(a.status, a.err)
				}
				for old := slowest.Load(); int64(a.duration) > old && !slowest.CompareAndSwap(old,
					int64(a.duration)); old = slowest.Load() {
				}
			}
		})
	}
	wg.Wait()
	i := w.getJSON("/plugins/mine")
	m := regexp.MustCompile("(?m)^process_resident_memory_bytes (.*)$").FindStringSubmatch(w.scrape())
	require.NotNil(t, m)
	resident, err := strconv.ParseFloat(m[1], 64)
	require.NoError(t, err)
	t.Logf("%v calls, %v; slowest request %v; %.0f MiB resident", i["calls"], i["faults_by_reason"],
		time.Duration(slowest.Load()), resident/(1<<20))
	for reason := range i["faults_by_reason"].(map[string]any) {
		require.Equal(t, "busy", reason)
	}
	require.Less(t, resident, 1024.0*(1<<20))
	w.reconcile(0)
}

func (w *whirl) kill() {
	w.signal(syscall.SIGKILL)
	w.cmd.Wait()
}

// Uploaded modules are kept after a SIGKILL at any moment. Incomplete files do not prevent the next start.
func TestUploadsSurviveAKill(t *testing.T) {
	w := startWithState(t, 1, confK)
	versions := [][]byte{wt.Scorer(wt.Scores(1)...).Bytes(), wt.Scorer(wt.Scores(2)...).Bytes(),
		builtin.Modules()["weighted"]}
	status, body := w.upload("POST", "mine", versions[0])
	require.Equal(t, 201, status, body)
	var sets [2]struct{ body, typ string } // one module accepts one setting, the other two
	for i, settings := range []string{`{"e":"f"}`, `{"a":{"b":1.5},"c":"d"}`} {
		sets[i].body, sets[i].typ = form(t, map[string]string{"name": "set", "config": settings}, map[string][]byte{
			"module": wt.Scorer(wt.Scores(1)...).Add(wt.Func{Export: "configure", Params: wt.Repeat(2, wt.I32),
				Results: []byte{wt.I32}, Code: []byte{wt.LocalGet, 1, 0x41, byte(i + 1), 0x47}}).Bytes()})
	}
	status, raw, _ := w.call("POST", "/plugins", sets[0].body, "Content-Type", sets[0].typ)
	require.Equal(t, 201, status, string(raw))
	folder := filepath.Join(w.stateDir, "plugins")
	info, err := os.Stat(folder)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())

	r := rand.New(rand.NewPCG(3, 4))
	known := map[any]bool{}
	for _, v := range versions {
		status, body := w.upload("PUT", "mine", v)
		require.Equal(t, 200, status, body)
		known[w.getJSON("/plugins/mine")["sha256"]] = true
	}
	for range 6 {
		n := 0
		stop := coretest.RunConcurrently(1, func(int) {
			w.replace("mine", "application/wasm", versions[n%len(versions)])
			w.replace("set", sets[n%2].typ, []byte(sets[n%2].body))
			n++
		})
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond) // at a random moment
		w.kill()
		stop()
		w.startProcess()
		i := w.getJSON("/plugins/mine")
		require.True(t, known[i["sha256"]], "a module that was never uploaded: %v", i)
		require.Equal(t, "ready", i["state"])
		require.Equal(t, "api", i["source"])
		require.Equal(t, "ready", w.getJSON("/plugins/set")["state"], "with its own settings: %v",
			w.getJSON("/plugins/set"))
	}

	// States of the files after a full disk or a lost write.
	w.kill()
	write := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), data, 0o600))
	}
	line := []byte("null\n")
	write("half.upload", slices.Concat(line, versions[0][:60]))
	write("empty.upload", nil)
	write("half.upload.new", slices.Concat(line, versions[0][:60]))
	write("mine.upload.new", line[:2])
	write("odd.upload", slices.Concat([]byte(`{"a`), versions[0]))
	write("Not A Name.upload", slices.Concat(line, versions[0]))
	require.NoError(t, os.Mkdir(filepath.Join(folder, "folder.upload"), 0o700))
	w.startProcess()
	require.Equal(t, "ready", w.getJSON("/plugins/mine")["state"])
	for _, name := range []string{"half", "empty", "odd", "folder"} {
		require.Equal(t, "failed", w.getJSON("/plugins/" + name)["state"], name)
		eventually(t, "the log names "+name, func() bool {
			return strings.Contains(w.log.String(),
				"plugin="+name+" ")
		})
	}
	require.Equal(t, 200, w.get().status)
	status, body = w.upload("PUT", "half", versions[0])
	require.Equal(t, 200, status, body)
	status, raw, _ = w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 204, status, string(raw))
	w.kill()
	w.startProcess()
	status, _, _ = w.call("GET", "/plugins/mine", "")
	require.Equal(t, 404, status, "deleted is deleted")
	require.Equal(t, "ready", w.getJSON("/plugins/half")["state"])
}

// A plugin is replaced twenty times under load. The checks of each module take half a second. No request fails, and the
// totals agree. The test logs the 99th percentile of the latency, with and without replacements.
func TestSwapsUnderLoad(t *testing.T) {
	w := start(t, 4, confK)
	same := builtin.Modules()["performance"]
	// a custom section: other bytes with the same behaviour
	versions := [][]byte{same, slices.Concat(same, []byte{0, 5, 4, 'n', 'o', 't', 'e'})}
	status, body := w.upload("POST", "mine", versions[0])
	require.Equal(t, 201, status, body)
	for _, use := range []string{"first", "retry"} {
		status, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"`+use+`"}`)
		require.Equal(t, 200, status, string(raw))
	}
	w.fakes[3].SetBehaviour(lab.Status(503)) // so that the retry scorer is called as well
	load := func(during func()) (p50, p99 time.Duration, n int) {
		var by [8][]time.Duration
		stop := coretest.RunConcurrently(len(by), func(i int) {
			a := w.get("X-Whirlpool-Retry", "base_delay=0.1")
			if a.status != 200 {
				t.Error(a.status, a.err, a.body)
			}
			if a.attempts() == "1" { // a retry waits for 100 ms, so it is not measured
				by[i] = append(by[i], a.duration)
			}
		})
		during()
		stop()
		all := slices.Concat(by[:]...)
		slices.Sort(all)
		return all[len(all)/2], all[len(all)*99/100], len(all)
	}
	status, body = w.upload("POST", "unused", versions[0])
	require.Equal(t, 201, status, body)
	swaps := func(plugin string) func() {
		return func() {
			for i := range 20 {
				status, body := w.upload("PUT", plugin, versions[(i+1)%2])
				require.Equal(t, 200, status, body)
				time.Sleep(20 * time.Millisecond) // time between two replacements
			}
		}
	}
	load(func() { time.Sleep(300 * time.Millisecond) }) // warm-up
	begin := time.Now()
	with50, with99, n := load(swaps("mine"))
	took := time.Since(begin)
	beside50, beside99, o := load(swaps("unused")) // the same work, but for a plugin that is not in use
	without50, without99, m := load(func() { time.Sleep(took) })
	t.Logf("p50 and p99 of requests: %v and %v over %d across 20 swaps; %v and %v over %d while an unused plugin is "+
		"swapped; %v and %v over %d without: %.2f and %.2f times the p99",
		with50, with99, n, beside50, beside99, o, without50, without99, m,
		with99.Seconds()/without99.Seconds(), beside99.Seconds()/without99.Seconds())
	i := w.getJSON("/plugins/mine")
	require.Equal(t, "ready", i["state"])
	require.Equal(t, 0.0, i["faults"], "%v", i)
	w.reconcile(0)
}

// After a hundred replacements and reloads the gateway needs as much memory as after forty.
func TestSwapsAndReloadsLeaveTheGatewayFlat(t *testing.T) {
	w := start(t, 2, confK)
	versions := [][]byte{builtin.Modules()["performance"], builtin.Modules()["least_in_flight"]}
	status, body := w.upload("POST", "mine", versions[0])
	require.Equal(t, 201, status, body)
	status, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"first"}`)
	require.Equal(t, 200, status, string(raw))
	filed := filepath.Join(w.dir, "filed.wasm")
	require.NoError(t, os.WriteFile(filed, versions[0], 0o600))
	var failed atomic.Int64
	var early, late [3]float64
	for i := range 100 {
		status, body := w.upload("PUT", "mine", versions[(i+1)%2])
		require.Equal(t, 200, status, body)
		w.writeConfig(confK +
			fmt.Sprintf("[plugins.filed%d]\npath = \"filed.wasm\"\n", i%2)) // one is new, one is removed
		status, raw, _ := w.call("POST", "/config/reload", "")
		require.Equal(t, 200, status, string(raw))
		if w.get().status != 200 {
			failed.Add(1)
		}
		switch i + 1 {
		case 40:
			early = w.resources()
		case 100:
			late = w.resources()
		}
	}
	t.Logf("after 40: %.0f MiB, %v goroutines, %v descriptors; after 100: %.0f MiB, %v, %v", early[0]/(1<<20),
		early[1], early[2], late[0]/(1<<20), late[1], late[2])
	require.Zero(t, failed.Load())
	require.Less(t, late[0], early[0]+16<<20)
	require.Less(t, late[1], early[1]+10)
	require.Less(t, late[2], early[2]+10)
}

// More silent connections to the API's port than the process has descriptors do not end the process. The API
// and the gateway still serve other clients.
func TestSilentClientsOfTheAPI(t *testing.T) {
	w := start(t, 2, "")
	w.limitFiles(256)
	for range 400 {
		c, err := net.Dial("tcp", w.api)
		require.NoError(t, err)
		defer c.Close()
	}
	for range 20 {
		require.NotNil(t, w.getJSON("/proxies")["proxies"])
		require.Equal(t, 200, w.get().status)
	}
}

// More clients than the process has descriptors send incomplete heads. Other clients are still served.
func TestUnfinishedHeadsLeaveRoomForOthers(t *testing.T) {
	w := start(t, 2, "")
	w.limitFiles(512)
	for range 1500 {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX-A: ")
		require.NoError(t, err)
	}
	for range 20 {
		a := w.get("Connection", "close")
		require.NoError(t, a.err)
		require.Equal(t, 200, a.status)
		require.Less(t, a.duration, eventTimeout/2)
	}
	w.reconcile(0)
}
