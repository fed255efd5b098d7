package wasmhost_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// small returns a host with small limits, which damaged modules soon reach.
func small() *wasmhost.Host {
	limits := wasmhost.DefaultLimits()
	limits.StartFuel, limits.MemoryPages, limits.TableSize = 1_000_000, 32, 1000
	return wasmhost.New(limits, "")
}

// use checks and loads a module. If the module loads, use calls it in each way in which the gateway does. Nothing may
// panic, and every refusal must have a reason.
func use(t testing.TB, host *wasmhost.Host, code []byte) (loaded bool) {
	t.Helper()
	_, err := host.Describe(code)
	described := err == nil
	if err != nil {
		var refused *wasmhost.CheckError
		require.ErrorAs(t, err, &refused)
		return false
	}
	m, err := host.Load(code, nil)
	if err != nil {
		var refused *wasmhost.CheckError
		require.ErrorAs(t, err, &refused)
		require.NotEmpty(t, refused.Msg)
		return false
	}
	defer m.Close()
	require.True(t, described)
	m.SetPool([]wasmhost.Proxy{{ID: "a"}, {ID: "b", Region: "EU"}})
	switch m.Description().Kind {
	case wasmhost.Scorer:
		for _, n := range []int{1, 2, 700} {
			mayFail(t, m.Score(make(rows, n), make([]float64, n)))
		}
	case wasmhost.Judge:
		ruling, err := m.Rule(&core.JudgeRequest{Status: 403}, excerpt("a page", "retry-after", "90"))
		mayFail(t, err)
		require.True(t, ruling.Kind.Valid())
	default:
		d, err := m.Delay(&core.BackoffRequest{Retry: 1, BaseDelay: 1, Multiplier: 2, Cap: 30})
		mayFail(t, err)
		require.True(t, d >= 0)
	}
	mayFail(t, m.Observe(&core.Observation{Success: 1}))
	return true
}

func mayFail(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		var fault *wasmhost.Fault
		require.ErrorAs(t, err, &fault)
	}
}

// A module that is cut off at any byte is refused.
func TestTruncatedModules(t *testing.T) {
	host := small()
	for name, code := range builtin.Modules() {
		require.True(t, use(t, host, code), name)
		for i := range code {
			if use(t, host, code[:i]) {
				// A module that is cut between two sections may still be valid, if the missing sections do not change
				// its behaviour.
				require.Greater(t, i, len(code)*3/4, "%s, cut at %d of %d", name, i, len(code))
			}
		}
	}
}

// A module with some changed bits is refused, or it is another valid module.
func TestDamagedModules(t *testing.T) {
	host := small()
	r := rand.New(rand.NewPCG(1, 2))
	loaded, refused, times := 0, 0, 150
	if testing.Short() {
		times = 15
	}
	for _, code := range builtin.Modules() {
		for range times {
			bad := append([]byte(nil), code...)
			for range 1 + r.IntN(3) {
				bad[8+r.IntN(len(bad)-8)] ^= 1 << r.IntN(8)
			}
			if use(t, host, bad) {
				loaded++
			} else {
				refused++
			}
		}
	}
	t.Logf("%d loaded, %d refused", loaded, refused)
	require.Positive(t, loaded)
	require.Positive(t, refused)
}

func FuzzLoad(f *testing.F) {
	for _, code := range builtin.Modules() {
		f.Add(code)
	}
	for _, h := range calls() {
		f.Add(h.build(false).Bytes())
		f.Add(h.build(true).Bytes())
	}
	f.Add(w.Backoff(w.ConstF64(1)...).Bytes())
	f.Add(w.Header())
	host := small()
	f.Fuzz(func(t *testing.T, code []byte) { use(t, host, code) })
}
