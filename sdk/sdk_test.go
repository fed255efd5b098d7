// Package sdk_test builds a plugin that uses every hook of the Go SDK, and
// runs it as the gateway does.
package sdk_test

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
)

// guest builds a module of standard Go and returns a function that loads it.
func guest(t *testing.T, dir string) func(config map[string]any) (*wasmhost.Module, error) {
	out := filepath.Join(t.TempDir(), "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", out, dir)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	log, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", log)
	code, err := os.ReadFile(out)
	require.NoError(t, err)
	limits := wasmhost.DefaultLimits()
	limits.Wait, limits.CallTimeout = time.Minute, time.Minute // for slow machines
	host := wasmhost.New(limits, t.TempDir())
	return func(config map[string]any) (*wasmhost.Module, error) { return host.Load(code, config) }
}

type choice struct {
	req  core.RankRequest
	rows []core.Candidate
}

func (c choice) Len() int { return len(c.rows) }

func (c choice) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = c.req
	copy(rows, c.rows)
}

func among(n int) choice {
	c := choice{req: core.RankRequest(sdktest.Request())}
	for _, r := range sdktest.Candidates(n) {
		c.rows = append(c.rows, core.Candidate(r))
	}
	return c
}

func TestEveryHook(t *testing.T) {
	load := guest(t, "./testdata/everything")
	start := func(t *testing.T, config map[string]any) *wasmhost.Module {
		m, err := load(config)
		require.NoError(t, err)
		t.Cleanup(m.Close)
		return m
	}
	score := func(t *testing.T, m *wasmhost.Module, c choice) []float64 {
		scores := make([]float64, c.Len())
		require.NoError(t, m.Score(c, scores))
		return scores
	}

	t.Run("exports what is imported", func(t *testing.T) {
		m := start(t, nil)
		require.Equal(t, wasmhost.Scorer, m.Description().Kind)
		require.True(t, m.Learns())
		require.Equal(t, 0.25, m.Tolerance())
		require.Equal(t, 0.5, start(t, map[string]any{"limits": map[string]any{"near": 0.5}}).Tolerance())
	})

	t.Run("settings", func(t *testing.T) {
		for want, config := range map[string]map[string]any{
			`the setting limits.near is "2"; it must be a number ` +
				`from 0 to 1`: {"limits": map[string]any{"near": 2}},
			`the setting limits.near is ""; it must be a number ` +
				`from 0 to 1`: {"limits": map[string]any{"near": ""}},
			`the setting count is "1.5"; it must be a whole number from 1 to 1.048576e+06`: {"count": 1.5},
			`the setting flag is "yes"; it must be true or false`:                          {"flag": "yes"},
			"there is no setting moed; there are mode, limits.near, count, flag":           {"moed": "pool"},
			"configure failed: status: it refused its configuration with status 1: " +
				"there is no setting a; ": {"a": 1},
		} {
			_, err := load(config)
			require.ErrorContains(t, err, want)
		}
		start(t, map[string]any{"count": 1e6, "flag": true})
	})

	t.Run("request and candidates", func(t *testing.T) {
		m := start(t, map[string]any{"mode": "request"})
		for _, n := range []int{1, 256, 3, 2000} {
			c := among(n)
			c.req.Count, c.req.Attempt, c.req.PoolSize = float64(n), 2, 5
			for i, s := range score(t, m, c) {
				require.Equal(t, float64(i)+c.req.Count+2+c.req.Turn+5, s)
			}
		}
	})

	t.Run("pool", func(t *testing.T) {
		m := start(t, nil)
		require.Equal(t, []float64{0, 0}, score(t, m, among(2)), "no pool yet")
		m.SetPool([]wasmhost.Proxy{
			{ID: "proxy-1", Weight: 3, Cost: 4},
			{ID: "proxy-2", Region: "US", Weight: 1, Metadata: map[string]string{"a": "b", "tier": "gold", "z": ""}},
		})
		for range 2 { // the instance keeps the pool for the second call
			require.Equal(t, []float64{7007, 7241}, score(t, m, among(2)))
		}
		m.SetPool(nil)
		require.Equal(t, []float64{0, 0}, score(t, m, among(2)))
		big := make([]wasmhost.Proxy, 500)
		for i := range big {
			big[i] = wasmhost.Proxy{ID: strconv.Itoa(i) + "-proxy-or-other", Region: "somewhere",
				Metadata: map[string]string{"tier": "gold", "seller": "somebody"}}
		}
		m.SetPool(big)
		require.Equal(t, []float64{0, 0}, score(t, m, among(2)), "a pool of 500 is within its fuel")
	})

	t.Run("observations", func(t *testing.T) {
		m := start(t, map[string]any{"mode": "observe"})
		o := core.Observation{Now: 1, IDHash: 2, HostHash: 3, Attempt: 4, Success: 5, Latency: 6, Status: 7, Delay: 8}
		require.NoError(t, m.Observe(&o))
		require.Equal(t, []float64{1 + 4 + 9 + 20 + 35 + 66 + 91 + 136}, score(t, m, among(1)))
	})

	t.Run("failures end the call and the instance", func(t *testing.T) {
		for mode, want := range map[string]string{
			"panic": "trap: wasm error: unreachable: panic: the dish ran away (main.go:60)",
			"index": "trap: wasm error: unreachable: panic: " +
				"runtime error: index out of range [1] with length 1 (main.go:63)",
			"spin": "fuel: the plugin used up its fuel", "recurse": "fuel: the plugin used up its fuel",
			"eat": "fuel: the plugin used up its fuel",
		} {
			m := start(t, map[string]any{"mode": mode})
			bad := among(1)
			bad.req.Attempt = 1
			for range 3 {
				var fault *wasmhost.Fault
				require.ErrorAs(t, m.Score(bad, make([]float64, 1)), &fault)
				require.Equal(t, want, fault.Error(), mode)
				score(t, m, among(1)) // a new instance computes the scores
			}
		}
		_, err := load(map[string]any{"mode": "nan"})
		require.ErrorContains(t, err, "a trial call failed: not_finite")
	})

	t.Run("what it allocates is collected within its fuel", func(t *testing.T) {
		m := start(t, map[string]any{"mode": "garbage"})
		c, scores := among(1), make([]float64, 1)
		for range 30_000 { // 30 MB altogether
			require.NoError(t, m.Score(c, scores))
		}
	})

	t.Run("a call allocates nothing here", func(t *testing.T) {
		m := start(t, map[string]any{"mode": "request"})
		var c core.Candidates = among(100)
		scores := make([]float64, 100)
		require.Zero(t, testing.AllocsPerRun(100, func() { _ = m.Score(c, scores) }))
		require.False(t, math.IsNaN(scores[0]))
	})
}
