package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

const builtins = "../plugins/builtin/"

// command runs the binary. It returns its output and its exit code.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
	}
	require.NotContains(t, errs.String(), "goroutine ", "a crash")
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func brokenModule(t *testing.T) string {
	code, err := os.ReadFile(builtins + "performance.wasm")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "broken.wasm")
	// A module for version 7 of the ABI.
	require.NoError(t, os.WriteFile(path, bytes.Replace(code, []byte("whirlpool_abi_v1"), []byte("whirlpool_abi_v7"),
		1), 0o644))
	return path
}

func TestExitCodes(t *testing.T) {
	good, bad := builtins+"performance.wasm", brokenModule(t)
	trace := filepath.Join(t.TempDir(), "trace.jsonl")
	require.NoError(t, os.WriteFile(trace, []byte(`{"proxy":"a"}`), 0o644))
	for _, c := range []struct {
		code int
		says string // text on the standard error output
		args []string
	}{
		{0, "", []string{"plugin"}},
		{0, "", []string{"version"}},
		{0, "", []string{"--version"}},
		{0, "", []string{"plugin", "inspect", good}},
		{0, "", []string{"plugin", "verify", good}},
		{0, "", []string{"plugin", "simulate", good, "--generate", "steady,duration=10"}},
		{1, "cannot be loaded as a plugin", []string{"plugin", "inspect", bad}},
		{1, "broken.wasm failed", []string{"plugin", "verify", bad}},
		{1, "built for version 7", []string{"plugin", "bench", bad}},
		{1, "built for version 7", []string{"plugin", "simulate", bad}},
		{1, "takes no configuration", []string{"plugin", "bench", good, "--config", "a=1"}},
		{2, "whirlpool: stat /does/not/exist: no such file", []string{"config", "check", "/does/not/exist"}},
		{2, "whirlpool: /tmp is a folder", []string{"config", "check", "/tmp"}},
		{2, `whirlpool: "frobnicate" is not one of its commands; see whirlpool --help`, []string{"frobnicate"}},
		{2, `whirlpool: plugin: "frobnicate" is not one of its commands; see whirlpool plugin --help`,
			[]string{"plugin", "frobnicate"}},
		{2, "unknown flag: --frob; see whirlpool serve --help", []string{"serve", "--frob"}},
		{2, "config check: FILE is missing; see whirlpool config check --help", []string{"config", "check"}},
		{2, `serve: "x" is one argument too many`, []string{"serve", "x"}},
		{2, "one argument too many", []string{"plugin", "inspect", good, good}},
		{2, "no such file", []string{"plugin", "verify", "/does/not/exist.wasm"}},
		{2, `--config "a" is not KEY=VALUE`, []string{"plugin", "verify", good, "--config", "a"}},
		{2, "a is given twice", []string{"plugin", "verify", good, "--config", "a=1", "--config", "a=2"}},
		{2, `no scenario "storm"`, []string{"plugin", "simulate", good, "--generate", "storm"}},
		{2, "not both", []string{"plugin", "simulate", good, "--generate", "swap", "--trace", trace}},
		{2, "trace.jsonl: line 1: the first line", []string{"plugin", "simulate", good, "--trace", trace}},
		{2, "named \"Mine\"", []string{"plugin", "new", "Mine", "--lang", "go", "--kind", "scorer"}},
		{2, "give one of go, rust, as, c, cpp, zig", []string{"plugin", "new", "mine", "--kind", "scorer"}},
		{2, "give scorer, backoff or judge", []string{"plugin", "new", "mine", "--lang", "go"}},
		{2, "is not empty", []string{"plugin", "new", "mine", "--lang", "go", "--kind", "scorer", "--dir", "."}},
	} {
		_, errs, code := command(t, c.args...)
		require.Equal(t, c.code, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.says, "%v", c.args)
		if c.code == 0 {
			require.Empty(t, errs, "%v", c.args)
		}
	}
}

func TestHelpOfPlugin(t *testing.T) {
	out, _, _ := command(t, "plugin")
	for _, name := range []string{"new", "verify", "inspect", "bench", "simulate", "record"} {
		require.Contains(t, out, "\n  "+name+" ")
		help, _, code := command(t, "plugin", name, "--help")
		require.Zero(t, code)
		require.Contains(t, help, "Usage:\n  whirlpool plugin "+name+" ")
		for _, line := range strings.Split(help, "\n") {
			require.LessOrEqual(t, len(line), 100, line)
		}
	}
}

// commandJSON runs a command with --json and returns its output.
func commandJSON(t *testing.T, code int, args ...string) map[string]any {
	t.Helper()
	out, errs, got := command(t, append(args, "--json")...)
	require.Equal(t, code, got, errs)
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &v), out)
	return v
}

func TestInspect(t *testing.T) {
	v := commandJSON(t, 0, "plugin", "inspect", builtins+"exponential.wasm")
	require.Equal(t, "backoff", v["kind"])
	require.Equal(t, 1.0, v["abi_version"])
	require.Contains(t, v["exports"], map[string]any{"name": "backoff", "kind": "func", "signature": "(i32) -> f64"})
	require.Empty(t, v["imports"])
	require.Equal(t, true, v["ok"])

	v = commandJSON(t, 1, "plugin", "inspect", brokenModule(t))
	require.Equal(t, "scorer", v["kind"], "what can be told is told")
	require.Equal(t, false, v["ok"])
	require.Equal(t, []any{"the module was built for version 7 of the ABI; this host speaks version 1"}, v["faults"])
}

func TestVerify(t *testing.T) {
	v := commandJSON(t, 0, "plugin", "verify", builtins+"cost_aware.wasm")
	require.Equal(t, true, v["ok"])
	v = commandJSON(t, 1, "plugin", "verify", brokenModule(t))
	require.Equal(t, false, v["ok"])
	failed := 0
	for _, c := range v["checks"].([]any) {
		c := c.(map[string]any)
		if c["result"] == "FAIL" {
			failed++
			require.Equal(t, "version", c["name"])
			require.Equal(t, "10. Versions", c["section"])
			require.NotEmpty(t, c["mend"])
		}
	}
	require.Equal(t, 1, failed)
	out, _, _ := command(t, "plugin", "verify", brokenModule(t))
	require.Contains(t, out, "FAIL  version                the module was built for version 7 of the ABI; this host "+
		"speaks version 1\n"+
		"      mend: export an empty function whirlpool_abi_v1 (sdk/ABI.md, \"10. Versions\")\n")
}

func TestBench(t *testing.T) {
	out, errs, code := command(t, "plugin", "bench", builtins+"random.wasm", "--json")
	require.Zero(t, code, errs)
	require.Equal(t, "load ...\n1 candidates ...\n10 candidates ...\n100 candidates ...\n1000 candidates ...\n", errs)
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	require.Equal(t, "performance", v["builtin"])
	rows := v["calls"].([]any)
	require.Len(t, rows, 4)
	for _, r := range rows {
		r := r.(map[string]any)
		require.Greater(t, r["ns_per_call"], 0.0)
		require.InDelta(t, r["ns_per_call"].(float64)/r["builtin_ns_per_call"].(float64), r["ratio"], 1e-9)
		require.Greater(t, r["fuel"], 0.0)
	}
	require.Greater(t, v["fuel_per_candidate"], 0.0)
}

func TestSimulate(t *testing.T) {
	play := func(args ...string) string {
		t.Helper()
		out, errs, code := command(t, append([]string{"plugin", "simulate", builtins + "least_in_flight.wasm"},
			args...)...)
		require.Zero(t, code, errs)
		return out
	}
	trace := filepath.Join(t.TempDir(), "trace.jsonl")
	generated := play("--generate", "drift,duration=120,proxies=3", "--seed", "5", "--write-trace", trace)
	require.Equal(t, generated, play("--trace", trace, "--seed", "5"), "the same trace and seed give the same answer")
	require.NotEqual(t, generated, play("--trace", trace, "--seed", "6"))
	for _, word := range []string{"least_in_flight", "performance", "random", "oracle", "regret", "proxy-3", "█"} {
		require.Contains(t, generated, word)
	}
	ascii := play("--trace", trace, "--ascii")
	require.Equal(t, -1, strings.IndexFunc(ascii, func(r rune) bool { return r > 127 }))

	v := commandJSON(t, 0, "plugin", "simulate", builtins+"performance.wasm")
	results := v["results"].([]any)
	best, worst := results[0].(map[string]any), results[2].(map[string]any)
	require.Equal(t, "random", worst["scorer"])
	require.Greater(t, best["success_rate"], worst["success_rate"].(float64)+0.2)

	v = commandJSON(t, 0, "plugin", "simulate", builtins+"linear.wasm")
	delays := v["results"].([]any)[0].(map[string]any)["delays"].([]any)
	require.Equal(t, 3.0, delays[2].(map[string]any)["mean"])
}

// record makes a trace of a running gateway, and simulate can use the trace.
func TestRecord(t *testing.T) {
	w := start(t, 3, confK)
	for range 30 {
		w.get()
	}
	w.fakes[1].SetBehaviour(lab.Status(503))
	trace := filepath.Join(t.TempDir(), "trace.jsonl")
	cmd := exec.Command(binary, "plugin", "record", trace, "--api", "http://"+w.api, "--every", "50ms", "--for", "1h")
	out := &coretest.Log{}
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	eventually(t, "recording 3 proxies", func() bool { return strings.Contains(out.String(), "recording 3 proxies") })
	for range 60 {
		w.get()
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait(), "%s", out)
	require.Contains(t, out.String(), "3 proxies in ")

	text, err := os.ReadFile(trace)
	require.NoError(t, err)
	require.Contains(t, string(text), `{"proxy":"F3","at":0,"success":1,`)
	require.NotContains(t, string(text), "hunter2secret")
	v := commandJSON(t, 0, "plugin", "simulate", builtins+"random.wasm", "--trace", trace)
	require.Equal(t, []any{"F1", "F2", "F3"}, v["proxies"])

	_, errs, code := command(t, "plugin", "record", trace, "--api", "http://"+freePort(t))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "connection refused")
	_, errs, code = command(t, "plugin", "record", filepath.Join(trace, "no", "folder"), "--api", "http://"+w.api,
		"--for", "1h")
	require.Equal(t, 2, code, errs)
	_, _, code = command(t, "plugin", "record", trace, "--every", "0s")
	require.Equal(t, 2, code)
}
