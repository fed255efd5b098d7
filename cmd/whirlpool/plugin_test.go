package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// The commands that run a module print its log separately from their report.
func TestPluginCommandsShowTheLog(t *testing.T) {
	m := w.Scorer(w.Join(w.Const32(1), w.Const32(40_000), w.Const32(5), w.CallTo(0), w.Scores(1))...)
	m.Imports = []w.Import{{Module: "whirlpool", Name: "log", Params: w.Repeat(3, w.I32)}}
	m.Data = []w.Data{{Offset: 40_000, Bytes: []byte("hello")}}
	file := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(file, m.Bytes(), 0o600))
	var out, log bytes.Buffer
	cmd := pluginCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&log)
	cmd.SetArgs([]string{"verify", file})
	require.NoError(t, cmd.Execute(), "%s", &out)
	require.NotContains(t, out.String(), "hello")
	require.Contains(t, log.String(), "some checks make calls that must fail:\n  (80 lines before)\n  ")
	require.Contains(t, log.String(), "  info   hello\n")
}
