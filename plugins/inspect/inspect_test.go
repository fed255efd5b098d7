package inspect_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/inspect"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func run(code []byte) inspect.Report {
	return inspect.Run(wasmhost.New(wasmhost.DefaultLimits(), ""), code)
}

func text(t *testing.T, r inspect.Report) string {
	var b strings.Builder
	require.NoError(t, r.Write(&b))
	return b.String()
}

func TestScorer(t *testing.T) {
	code := builtin.Modules()["performance"]
	r := run(code)
	require.True(t, r.OK)
	require.Equal(t, wasmhost.Scorer, r.Kind)
	require.Equal(t, 1, r.ABIVersion)
	require.Contains(t, r.Exports, inspect.Item{Name: "score", Kind: "func", Signature: "(i32, i32, i32, i32) -> i32"})
	require.Contains(t, r.Exports, inspect.Item{Name: "memory", Kind: "memory"})
	require.Empty(t, r.Imports)
	out := text(t, r)
	for _, line := range []string{
		"kind             scorer\n", "abi version      1\n",
		"memory           0 pages of 64 KiB, no bound of its own\n",
		`func "tolerance" () -> f64`, "imports          none\n",
	} {
		require.Contains(t, out, line)
	}
}

func TestDescriptionsOfFaultyModules(t *testing.T) {
	code := builtin.Modules()["performance"]
	cut := run(code[:len(code)-1])
	require.False(t, cut.OK)
	require.NotEmpty(t, cut.Exports, "the exports stand before where it is cut")
	require.Len(t, cut.Faults, 1)
	require.Contains(t, text(t, cut), "fault: this is not a module of WebAssembly 2.0: the module ends too early\n")

	// The empty module has no kind and no version. The report lists all missing parts.
	r := run([]byte("\x00asm\x01\x00\x00\x00"))
	require.Len(t, r.Faults, 4)
	require.Contains(t, text(t, r), "kind             unknown\n")

	// A module imports a function that does not exist, and its name contains control characters of a terminal.
	r = run([]byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x02\x0b\x01\x03env\x03a\x1b[\x00\x00"))
	require.Equal(t, []inspect.Item{{Name: "env.a\x1b[", Kind: "func", Signature: "()"}}, r.Imports)
	require.Contains(t, text(t, r), `"env.a\x1b["`)
	require.NotContains(t, text(t, r), "\x1b", "control characters of a stranger's module")
}

func TestText(t *testing.T) {
	m := wasmtest.Scorer(wasmtest.Scores(1)...)
	m.Imports = []wasmtest.Import{{Module: "env", Name: "abort", Params: []byte{wasmtest.I32, wasmtest.I32,
		wasmtest.I32, wasmtest.I32}}}
	m.Tables = []wasmtest.Limits{{Min: 3}}
	m.Custom = map[string][]byte{"producers": nil}
	code := m.Bytes()
	sum := sha256.Sum256(code)
	require.Equal(t, `kind             scorer
abi version      1
size             `+strconv.Itoa(len(code))+` bytes
sha256           `+hex.EncodeToString(sum[:])+`
memory           1 pages of 64 KiB, at most 256
functions        3
data             0 bytes
table            3 elements
exports          func "whirlpool_abi_v1" ()
                 func "reserve" (i32) -> i32
                 func "score" (i32, i32, i32, i32) -> i32
                 memory "memory"
imports          func "env.abort" (i32, i32, i32, i32)
custom sections  "producers"
`, text(t, run(code)))
}
