package wasmtest_test

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// Assembled modules compile and have the expected behaviour.
func TestTheModulesRun(t *testing.T) {
	ctx := context.Background()
	rt := wazero.NewRuntime(ctx)
	defer rt.Close(ctx)
	instance := func(m *wasmtest.Module) func(name string, args ...uint64) uint64 {
		guest, err := rt.InstantiateWithConfig(ctx, m.Bytes(), wazero.NewModuleConfig().WithName(""))
		require.NoError(t, err)
		return func(name string, args ...uint64) uint64 {
			res, err := guest.ExportedFunction(name).Call(ctx, args...)
			require.NoError(t, err)
			if name == "score" {
				bits, ok := guest.Memory().ReadUint64Le(uint32(args[2]) + 8)
				require.True(t, ok)
				return bits
			}
			return res[0]
		}
	}
	full := wasmtest.Scorer(wasmtest.Scores(2.5)...)
	full.Tables = []wasmtest.Limits{{Min: 3}}
	full.Elements = []uint32{0, 1}
	full.Globals = []wasmtest.Global{{Type: wasmtest.I64, Init: wasmtest.Const64(-1)}}
	full.Data = []wasmtest.Data{{Offset: 8, Bytes: []byte("x")}, {Passive: true, Bytes: []byte("y")}}
	full.Custom = map[string][]byte{"note": []byte("z")}
	f := instance(full)
	require.EqualValues(t, wasmtest.RegionAt, f("reserve", 200_000), "memory grows")
	require.Equal(t, 2.5, math.Float64frombits(f("score", 0, 0, 190_000, 3)))
	g := instance(wasmtest.Backoff(wasmtest.ConstF64(1.5)...))
	require.Equal(t, 1.5, math.Float64frombits(g("backoff", 0)))
}
