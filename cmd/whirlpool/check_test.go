package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/conformance"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// TestMain runs the child process of a check if the test has set its variable.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "plugin" {
		main()
		return
	}
	os.Exit(m.Run())
}

// An upload is checked in a child process. If no process can be started, it is checked in this process.
func TestCheck(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	oneScore := wasmtest.Scorer(wasmtest.Join([]byte{wasmtest.LocalGet, 2}, wasmtest.ConstF64(1),
		[]byte{wasmtest.F64Store, 3, 0})...).Bytes()
	nanOn503 := wasmtest.Backoff(wasmtest.Join([]byte{wasmtest.LocalGet, 0, wasmtest.F64Load, 3, 64},
		wasmtest.ConstF64(503), []byte{0x61, wasmtest.If, wasmtest.Empty}, wasmtest.Const64(0x7ff8000000000000), // eq
		[]byte{0xbf, wasmtest.Return, wasmtest.End}, wasmtest.ConstF64(1))...).Bytes() // f64.reinterpret_i64
	for name, program := range map[string]string{
		"child": self, "no program": "", "program is gone": filepath.Join(t.TempDir(), "gone"),
	} {
		t.Run(name, func(t *testing.T) {
			c := &checker{limits: wasmhost.DefaultLimits(), program: program}
			require.NoError(t, c.check(t.Context(), builtin.Modules()["random"], plugins.Spec{}))
			for failed, module := range map[string][]byte{
				"one score":  oneScore,
				"NaN on 503": nanOn503,
				"a setting":  builtin.Modules()["random"],
			} {
				var config map[string]any
				check := "answers"
				if failed == "a setting" {
					config, check = map[string]any{"unknown": json.Number("1")}, "starts"
				}
				var rejected *plugins.Rejection
				require.ErrorAs(t, c.check(t.Context(), module, plugins.Spec{Config: config}), &rejected, failed)
				require.Equal(t, check, rejected.Failed[0].Name, failed)
				require.NotEmpty(t, rejected.Failed[0].Fix)
			}
		})
	}
}

// If a child ends early, the module is not checked and is refused. If the check was cancelled, there is no
// result.
func TestCheckThatEndsEarly(t *testing.T) {
	var rejected *plugins.Rejection
	c := &checker{limits: wasmhost.DefaultLimits(), program: "/bin/false"}
	require.ErrorAs(t, c.check(t.Context(), builtin.Modules()["random"], plugins.Spec{}), &rejected)
	require.Equal(t, "finishes", rejected.Failed[0].Name)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.check(ctx, builtin.Modules()["random"], plugins.Spec{}), context.Canceled)
}

// The child reports the same checks as verify, and leaves the compiled code of a slow module in the cache.
func TestCheckChild(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	header, err := json.Marshal(checkHeader{Limits: wasmhost.DefaultLimits(), CacheDir: cache})
	require.NoError(t, err)
	cmd := checkCommand()
	var out bytes.Buffer
	cmd.SetIn(bytes.NewReader(append(append(header, '\n'), wasmtest.SlowToCompile().Bytes()...)))
	cmd.SetOut(&out)
	require.NoError(t, cmd.Execute())
	var report conformance.Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &report))
	require.True(t, report.OK, out.String())
	files, err := filepath.Glob(filepath.Join(cache, "wazero-*", "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)

	cmd = checkCommand()
	cmd.SetIn(bytes.NewReader([]byte("no header")))
	require.ErrorContains(t, cmd.Execute(), "use verify")
}
