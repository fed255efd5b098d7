package plugins_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/strictjson"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// An uploaded module reads its settings after a restart as it did before.
func TestSettingsSurviveARestart(t *testing.T) {
	// It scores the first candidate by the length of its setting's text.
	m := w.Scorer(w.Join([]byte{w.LocalGet, 2}, w.Const32(0), []byte{w.F64Load, 3, 8, w.F64Store, 3, 0})...)
	m.Add(w.Func{Export: "configure", Params: []byte{w.I32, w.I32}, Results: []byte{w.I32}, Code: w.Join(
		w.Const32(0), []byte{w.LocalGet, 0, 0x28, 2, 12, 0xb7, w.F64Store, 3, 8}, w.Const32(0))}) // f64.convert_i32_s of value_length
	opts := plugins.Options{Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir()}
	for text, length := range map[string]float64{"20": 2, "20.0": 2, "1000000": 7, "1e6": 5, "9007199254740993": 16, `"20.0"`: 4, "[1,2.50]": 5} {
		config, err := strictjson.Parse([]byte(`{"n":` + text + `}`))
		require.NoError(t, err)
		r, err := plugins.New(opts)
		require.NoError(t, err)
		_, err = r.Put("mine", m.Bytes(), config.(map[string]any), false)
		require.NoError(t, err)
		require.Equal(t, length, score(t, r, "mine")[0], text)
		r.Close()

		r, err = plugins.New(opts)
		require.NoError(t, err)
		require.Equal(t, length, score(t, r, "mine")[0], "%s after a restart", text)
		require.NoError(t, r.Delete("mine", func(string) string { return "" }))
		r.Close()
	}
}

// However many are uploaded, they do not fill memory and disk.
func TestUploadsAreCounted(t *testing.T) {
	r := registry(t)
	code := builtin.Modules()["random"]
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = r.Put(fmt.Sprintf("p%d", n), code, nil, false)
	}
	require.ErrorIs(t, err, core.ErrConflict)
	require.EqualError(t, err, "100 plugins are uploaded; delete one first")
	require.Equal(t, 101, n)
	_, err = r.Put("p7", code, nil, true)
	require.NoError(t, err, "a new build of one")
	require.NoError(t, r.Delete("p7", func(string) string { return "" }))
	_, err = r.Put("another", code, nil, false)
	require.NoError(t, err)
	_, err = r.Put("another", code, nil, false)
	require.EqualError(t, err, `plugin "another" exists; PUT replaces it`)
}
