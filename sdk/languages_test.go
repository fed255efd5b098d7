package sdk_test

import (
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/conformance"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk/hash"
)

// languages have functions that build the three modules of testdata/LANGUAGE into a directory, as
// everything.wasm, wait.wasm and rule.wasm.
var languages = map[string]func(t *testing.T, out string){
	"c": func(t *testing.T, out string) {
		for _, name := range []string{"everything", "wait", "rule"} {
			run(t, nil, "clang", "--target=wasm32", "-ffreestanding", "-nostdlib", "-O2", "-mbulk-memory", "-Wall",
				"-Werror",
				"-Wl,--no-entry", "-Wl,-z,stack-size=16384", "-o", filepath.Join(out,
					name+".wasm"), "testdata/c/"+name+".c")
		}
	},
	"c++": func(t *testing.T, out string) { // built from the same sources
		for _, name := range []string{"everything", "wait", "rule"} {
			run(t, nil, "clang++", "--target=wasm32", "-x", "c++", "-std=c++17", "-fno-exceptions", "-fno-rtti",
				"-ffreestanding", "-nostdlib", "-O2", "-mbulk-memory", "-Wall", "-Werror",
				"-Wl,--no-entry", "-Wl,-z,stack-size=16384", "-o", filepath.Join(out,
					name+".wasm"), "testdata/c/"+name+".c")
		}
	},
	"zig": func(t *testing.T, out string) {
		for _, name := range []string{"everything", "wait", "rule"} {
			run(t, nil, "zig/zig.sh", "build-exe", "-target", "wasm32-freestanding", "-O", "ReleaseSafe", "-fno-entry",
				"-rdynamic", "-fstrip", "--stack", "16384", "--cache-dir", t.TempDir(), "--dep", "whirlpool.zig",
				"-Mroot=testdata/zig/"+name+".zig", "-Mwhirlpool.zig=zig/whirlpool.zig",
				"-femit-bin="+filepath.Join(out, name+".wasm"))
		}
	},
	"rust": func(t *testing.T, out string) {
		target := t.TempDir()
		run(t, []string{"CARGO_TARGET_DIR=" + target}, "rust/cargo.sh", "build", "--quiet", "--offline", "--locked",
			"--release", "--lib", "--examples",
			"--target=wasm32-unknown-unknown", "--manifest-path=testdata/rust/Cargo.toml")
		release := filepath.Join(target, "wasm32-unknown-unknown", "release")
		require.NoError(t, os.Rename(filepath.Join(release, "everything.wasm"), filepath.Join(out, "everything.wasm")))
		for _, name := range []string{"wait.wasm", "rule.wasm"} {
			require.NoError(t, os.Rename(filepath.Join(release, "examples", name), filepath.Join(out, name)))
		}
	},
	"assemblyscript": func(t *testing.T, out string) {
		for _, name := range []string{"everything", "wait", "rule"} {
			run(t, nil, "assemblyscript/asc.sh", "testdata/assemblyscript/"+name+".ts", "-O3", "--outFile",
				filepath.Join(out, name+".wasm"))
		}
	},
}

func run(t *testing.T, env []string, name string, args ...string) string {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// fill sets every field of a record to a whole number. It returns the sum of each field times its index, from
// 1, which the modules compute as well.
func fill(record any, r *rand.Rand) float64 {
	v, sum := reflect.ValueOf(record).Elem(), 0.0
	for i := range v.NumField() {
		n := float64(r.IntN(1 << 20))
		v.Field(i).SetFloat(n)
		sum += float64(i+1) * n
	}
	return sum
}

func uniform(seed float64, i int) float64 {
	z := math.Float64bits(seed) + uint64(i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return float64(z>>11+1) / (1 << 53)
}

func TestEveryLanguageHasEveryFieldAndHook(t *testing.T) {
	for language, build := range languages {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			out := t.TempDir()
			build(t, out)
			read := func(name string) []byte {
				code, err := os.ReadFile(filepath.Join(out, name))
				require.NoError(t, err)
				t.Logf("%s: %d bytes", name, len(code))
				report := conformance.Run(wasmhost.New(wasmhost.DefaultLimits(), ""), code, nil)
				var text strings.Builder
				require.NoError(t, report.Write(&text))
				require.True(t, report.OK, "%s", &text)
				return code
			}
			t.Run("scorer", func(t *testing.T) { everything(t, read("everything.wasm")) })
			t.Run("backoff", func(t *testing.T) { wait(t, read("wait.wasm")) })
			t.Run("judge", func(t *testing.T) { rule(t, read("rule.wasm")) })
			t.Run("writes", func(t *testing.T) { writes(t, read("wait.wasm"), panicked[language]) })
			t.Run("story", func(t *testing.T) { story(t, read("wait.wasm"), panicked[language]) })
			if language == "zig" {
				t.Run("panic", func(t *testing.T) { zigPanics(t, read("wait.wasm")) })
			}
			if language == "rust" {
				t.Run("panic", func(t *testing.T) { panics(t, read("everything.wasm")) })
			}
		})
	}
}

// zigPanics checks a panic of the language Zig itself.
func zigPanics(t *testing.T, code []byte) {
	m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(code, nil)
	require.NoError(t, err)
	defer m.Close()
	_, err = m.Delay(&core.BackoffRequest{Retry: -3})
	require.ErrorContains(t, err, "panicked: no fork")
}

func TestTheZigFileItself(t *testing.T) {
	run(t, nil, "zig/zig.sh", "test", "zig/whirlpool.zig", "--cache-dir", t.TempDir())
}

func TestTheRustCrateItself(t *testing.T) {
	out := run(t, []string{"CARGO_TARGET_DIR=" + t.TempDir()}, "rust/cargo.sh", "test", "--quiet", "--offline",
		"--locked", "--manifest-path=rust/Cargo.toml")
	require.Contains(t, out, "6 passed")
}

func everything(t *testing.T, code []byte) {
	host := wasmhost.New(wasmhost.DefaultLimits(), "")
	m, err := host.Load(code, nil)
	require.NoError(t, err)
	defer m.Close()
	require.True(t, m.Learns())
	require.Equal(t, 0.25, m.Tolerance())

	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 300, 3, 2000} {
		c := choice{rows: make([]core.Candidate, n)}
		want := fill(&c.req, r) + hash.Of("example.com") + hash.Pair(hash.Of("a"), c.req.HostHash)
		var o core.Observation
		want += fill(&o, r)
		require.NoError(t, m.Observe(&o))
		m.SetPool([]wasmhost.Proxy{
			{ID: "first", Weight: 2, Cost: 3, Metadata: map[string]string{"rank": "5", "rankle": "6"}},
			{ID: "second", Region: "eu", Weight: 1},
		})
		want += hash.Of("first") + 3*2 + 4*3 + 5*5 + 7*5
		want += hash.Of("second") + 2*hash.Of("eu") + 3 + 5*6 + 6*2 + 7 + 8
		rows := make([]float64, n)
		for i := range rows {
			rows[i] = fill(&c.rows[i], r)
		}
		scores := make([]float64, n)
		require.NoError(t, m.Score(c, scores))
		for i, row := range rows {
			require.InEpsilon(t, want+row+uniform(c.req.Seed, i), scores[i], 1e-15, "candidate %d of %d", i, n)
		}
	}

	near, err := host.Load(code, map[string]any{"near": 0.5})
	require.NoError(t, err)
	defer near.Close()
	require.Equal(t, 0.5, near.Tolerance())
	_, err = host.Load(code, map[string]any{"near": 2})
	require.ErrorContains(t, err, `the setting near is "2"; it must be 0 to 1`)
	_, err = host.Load(code, map[string]any{"near": 0.5, "far": "é"})
	require.ErrorContains(t, err, `the setting far is "é"; there is near`)
}

func panics(t *testing.T, code []byte) {
	m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(code, nil)
	require.NoError(t, err)
	defer m.Close()
	c := among(1)
	c.req.Attempt = -1
	require.ErrorContains(t, m.Score(c, make([]float64, 1)), "panicked at 'a panic', src/lib.rs:61")
}

// panicked is the error of a panic in testdata/LANGUAGE/wait.
var panicked = map[string]string{
	"c++": "trap: wasm error: unreachable: panicked at testdata/c/wait.c:19: no spoon",
	"c":   "trap: wasm error: unreachable: panicked at testdata/c/wait.c:19: no spoon",
	"zig": "trap: wasm error: unreachable: panicked at wait.zig:22: no spoon",
	// the form of Rust 1.73 and later
	"rust":           "trap: wasm error: unreachable: panicked at 'no spoon', examples/wait.rs:19:13",
	"assemblyscript": "trap: the plugin called abort: no spoon (testdata/assemblyscript/wait.ts:21:22)",
	"go":             "trap: wasm error: unreachable: panic: no spoon (main.go:22)",
}

// writes checks the output of a module, the error of its panic, and the settings that it declares.
func writes(t *testing.T, code []byte, panicked string) {
	out := output.New(time.Now, nil)
	m, err := wasmhost.New(wasmhost.DefaultLimits(), "").WithOutput(out).Load(code, nil)
	require.NoError(t, err)
	defer m.Close()
	low, high, one, nine := 0.0, 1.0, 1.0, 9.0
	require.Equal(t, []wasmhost.Setting{
		{Name: "margin", Type: "number", Min: &low, Max: &high, Default: "0.25", Text: "how near is equal"},
		{Name: "steps", Type: "integer", Min: &one, Max: &nine, Default: "3"},
		{Name: "eager", Type: "boolean", Default: "true"},
		{Name: "mode", Type: "text", Values: []string{"fast", "slow"}, Default: "fast"},
	}, m.Settings())
	require.Empty(t, out.Lines(0))
	_, err = m.Delay(&core.BackoffRequest{Retry: -1, BaseDelay: 10})
	require.NoError(t, err)
	var lines []string
	for _, l := range out.Lines(0) {
		lines = append(lines, l.String())
	}
	require.ElementsMatch(t, []string{"warn   to the standard error", "info   waiting"}, lines)
	require.Equal(t, []output.Metric{{Name: "level", Kind: wasmhost.Gauge, Value: 0.5},
		{Name: "waits_total", Value: 2}}, out.Metrics())
	_, err = m.Delay(&core.BackoffRequest{Retry: -2})
	require.EqualError(t, err, panicked)
	lines = nil
	for _, l := range out.Lines(2) {
		lines = append(lines, l.String())
	}
	require.Contains(t, strings.Join(lines, "\n"), "error  backoff failed: "+panicked)
}

// story follows a plugin's author: upload, read the log line, add an error, read the panic, replace the
// module, roll back.
func story(t *testing.T, code []byte, panicked string) {
	r, err := plugins.New(plugins.Options{Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.Put("mine", code, map[string]any{"margin": 2}, false)
	require.ErrorContains(t, err, `the setting margin is "2"; it must be 0 to 1`)
	_, err = r.Put("mine", code, nil, false)
	require.NoError(t, err)
	backoff, err := r.Backoff("mine")
	require.NoError(t, err)
	texts := func() (all string) {
		lines, err := r.Log("mine", 0)
		require.NoError(t, err)
		for _, l := range lines {
			all += l.String() + "\n"
		}
		return all
	}
	delay := func(retry float64) {
		_, err := backoff.Delay(&core.BackoffRequest{Retry: retry, BaseDelay: 10, Multiplier: 2, Cap: 100})
		require.NoError(t, err, "the built-in answers for a plugin that fails")
	}

	delay(-1)
	require.Contains(t, texts(), "info   waiting\n")
	delay(-2)
	require.Contains(t, texts(), "error  backoff failed: "+panicked)
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.Equal(t, panicked, i.LastError)
	require.EqualValues(t, 1, i.Faults)

	_, err = r.Put("mine", builtin.Modules()["fixed"], nil, true)
	require.NoError(t, err)
	delay(-2)
	i, err = r.RollBack("mine")
	require.NoError(t, err)
	require.Len(t, i.Settings, 4)
	before := texts()
	delay(-1)
	require.Greater(t, len(texts()), len(before), "the log goes on")
}

// buildGo builds a Go module of testdata and checks that it conforms.
func buildGo(t *testing.T, name string) []byte {
	out := filepath.Join(t.TempDir(), name+".wasm")
	run(t, []string{"GOOS=wasip1", "GOARCH=wasm"}, "go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w",
		"-o", out, "./testdata/"+name)
	code, err := os.ReadFile(out)
	require.NoError(t, err)
	report := conformance.Run(wasmhost.New(wasmhost.DefaultLimits(), ""), code, nil)
	var text strings.Builder
	require.NoError(t, report.Write(&text))
	require.True(t, report.OK, "%s", &text)
	return code
}

func TestGoRules(t *testing.T) { rule(t, buildGo(t, "rule")) }

func TestGoWrites(t *testing.T) {
	code := buildGo(t, "wait")
	writes(t, code, panicked["go"])
	story(t, code, panicked["go"])
}

func wait(t *testing.T, code []byte) {
	m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(code, nil)
	require.NoError(t, err)
	defer m.Close()
	var q core.BackoffRequest
	want := fill(&q, rand.New(rand.NewPCG(3, 4)))
	d, err := m.Delay(&q)
	require.NoError(t, err)
	require.Equal(t, want, d)
}

// rule checks a judge of testdata, which uses every field.
func rule(t *testing.T, code []byte) {
	m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(code, nil)
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, &core.ExcerptSpec{Body: 100, Fields: []string{"x", "server"},
		Statuses: []core.Range{{First: 200, Last: 599}}}, m.ExcerptSpec())
	r := rand.New(rand.NewPCG(5, 6))
	for _, body := range []string{"", "a page", "<h1>Captcha</h1>", strings.Repeat("x", 8192)} {
		q := core.JudgeRequest{Now: 1}
		v, want := reflect.ValueOf(&q).Elem(), 1.0
		for i := 1; i < v.NumField(); i++ {
			n := float64(r.IntN(10))
			if name := v.Type().Field(i).Name; name == "Encoded" || name == "Whole" {
				n = float64(r.IntN(2))
			}
			v.Field(i).SetFloat(n)
			want += float64(i+1) * n
		}
		e := &core.Excerpt{Body: []byte(body), Fields: []core.ExcerptField{{Name: "server", Value: []byte("n\xff")},
			{Name: "x", Value: []byte("17.5")}, {Name: "x", Value: []byte("4")}}}
		want += 11*3 + 12*float64(len(body)) + 13*17.5
		if strings.Contains(body, "Captcha") {
			want += 14
		}
		got, err := m.Rule(&q, e)
		require.NoError(t, err)
		require.Equal(t, core.Ruling{Kind: core.RulingBanned, BanTime: time.Duration(min(want, 86400) * 1e9)}, got)
	}
	got, err := m.Rule(&core.JudgeRequest{Status: 404}, &core.Excerpt{})
	require.NoError(t, err)
	require.Equal(t, core.Ruling{Kind: core.RulingTargetFault}, got)
}
