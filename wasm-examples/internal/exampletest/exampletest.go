// Package exampletest tests the examples in all languages. It builds an example with its build.sh, loads the
// module as the gateway does (metered, with the default limits), and calls it.
package exampletest

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/conformance"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
)

var update = flag.Bool("update", false, "write expected.txt anew instead of comparing with it")

// Wasm is a module that has been built.
type Wasm struct {
	Code  []byte
	cache string // folder of compiled code, so that later loads are faster
}

// Build runs build.sh in an example's folder, and returns the module that it has written. The module must
// pass whirlpool plugin verify. A missing toolchain fails the test.
func Build(t testing.TB, dir string) Wasm {
	t.Helper()
	dir, err := filepath.Abs(dir)
	require.NoError(t, err)
	out := t.TempDir()
	cmd := exec.Command(filepath.Join(dir, "build.sh"), out)
	cmd.Dir = dir
	log, err := cmd.CombinedOutput()
	require.NoError(t, err, "build.sh: %s", log)
	code, err := os.ReadFile(filepath.Join(out, filepath.Base(dir)+".wasm"))
	require.NoError(t, err, "build.sh DIR must write %s.wasm into DIR", filepath.Base(dir))
	verify(t, code)
	return Wasm{code, t.TempDir()}
}

// verify checks a module as whirlpool plugin verify does.
func verify(t testing.TB, code []byte) {
	t.Helper()
	report := conformance.Run(wasmhost.New(wasmhost.DefaultLimits(), ""), code, nil)
	var text strings.Builder
	require.NoError(t, report.Write(&text))
	require.True(t, report.OK, "%s", &text)
}

// Plugin is a module that is loaded and ready. A call whose result the gateway would refuse fails the test.
type Plugin struct {
	*wasmhost.Module // has the calls that are not methods of Plugin
	t                testing.TB
}

// Scorer loads a scorer. config is its [plugins.NAME.config] table; nil for none.
func Scorer(t testing.TB, w Wasm, config map[string]any) *Plugin {
	t.Helper()
	return load(t, w, wasmhost.Scorer, config)
}

// Backoff loads a backoff. config is its [plugins.NAME.config] table; nil for none.
func Backoff(t testing.TB, w Wasm, config map[string]any) *Plugin {
	t.Helper()
	return load(t, w, wasmhost.Backoff, config)
}

// Judge loads a judge. config is its [plugins.NAME.config] table; nil for none.
func Judge(t testing.TB, w Wasm, config map[string]any) *Plugin {
	t.Helper()
	return load(t, w, wasmhost.Judge, config)
}

func load(t testing.TB, w Wasm, kind wasmhost.Kind, config map[string]any) *Plugin {
	t.Helper()
	m, err := host(w).Load(w.Code, config)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	require.Equal(t, kind, m.Description().Kind)
	return &Plugin{m, t}
}

func host(w Wasm) *wasmhost.Host { return wasmhost.New(wasmhost.DefaultLimits(), w.cache) }

// Refusal loads a module with a configuration that must be refused, and returns the error's text.
func Refusal(t testing.TB, w Wasm, config map[string]any) string {
	t.Helper()
	m, err := host(w).Load(w.Code, config)
	if err == nil {
		m.Close()
	}
	require.Error(t, err, "the configuration %v was accepted", config)
	return err.Error()
}

// Score returns the scores of the candidates. It sets the request's Count and, if the request's PoolSize is 0, the
// PoolSize. Package sdk/sdktest generates both arguments.
func (p *Plugin) Score(req abi.RankRequest, candidates []abi.Candidate) []float64 {
	p.t.Helper()
	scores := make([]float64, len(candidates))
	require.NoError(p.t, p.Module.Score(choice{req, candidates}, scores))
	return scores
}

// Delay returns the wait before a retry, in seconds.
func (p *Plugin) Delay(req abi.BackoffRequest) float64 {
	p.t.Helper()
	r := core.BackoffRequest(req)
	d, err := p.Module.Delay(&r)
	require.NoError(p.t, err)
	return d
}

// Rule returns the ruling on a response.
func (p *Plugin) Rule(r core.JudgeRequest, e core.Excerpt) core.Ruling {
	p.t.Helper()
	ruling, err := p.Module.Rule(&r, &e)
	require.NoError(p.t, err)
	return ruling
}

// Observe passes an attempt to a plugin that learns.
func (p *Plugin) Observe(o abi.Observation) {
	p.t.Helper()
	require.True(p.t, p.Learns(), "the module exports no %s", abi.Observe)
	c := core.Observation(o)
	require.NoError(p.t, p.Module.Observe(&c))
}

// MatchesNative checks that p, a scorer that learns, computes the same scores as native code, up to a difference of
// delta. The functions score and observe call the native code. Both get the events of the recording of sdktest.
func (p *Plugin) MatchesNative(score func(abi.RankRequest, []abi.Candidate) []float64, observe func(abi.Observation),
	delta float64) {
	p.t.Helper()
	for _, e := range sdktest.Recorded() {
		switch {
		case e.Observation != nil:
			p.Observe(*e.Observation)
			observe(*e.Observation)
		case e.Request != nil:
			require.InDeltaSlice(p.t, score(*e.Request, e.Candidates), p.Score(*e.Request, e.Candidates), delta)
		}
	}
}

// choice implements core.Candidates.
type choice struct {
	req        abi.RankRequest
	candidates []abi.Candidate
}

func (c choice) Len() int { return len(c.candidates) }

func (c choice) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = core.RankRequest(c.req)
	req.Count = float64(len(rows))
	if req.PoolSize == 0 {
		req.PoolSize = req.Count
	}
	for i := range rows {
		rows[i] = core.Candidate(c.candidates[i])
	}
}

// Output compares text with expected.txt in an example's folder. `go test -update` writes the file.
func Output(t testing.TB, dir, got string) {
	t.Helper()
	file := filepath.Join(dir, "expected.txt")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "go test -update writes %s anew", file)
}
