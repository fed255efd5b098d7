package plugins_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// talking is a scorer that logs text, and counts its calls in a metric.
func talking(text string) []byte {
	m := w.Scorer(w.Join(
		w.Const32(1), w.Const32(40_000), w.Const32(int32(len(text))), w.CallTo(0),
		w.Const32(0), w.Const32(41_000), w.Const32(5), w.ConstF64(1), w.CallTo(1), w.Scores(1))...)
	m.Imports = []w.Import{
		{Module: "whirlpool", Name: "log", Params: w.Repeat(3, w.I32)},
		{Module: "whirlpool", Name: "metric", Params: []byte{w.I32, w.I32, w.I32, w.F64}},
	}
	m.Data = []w.Data{{Offset: 40_000, Bytes: []byte(text)}, {Offset: 41_000, Bytes: []byte("calls")}}
	return m.Bytes()
}

// A plugin keeps its log and its metrics when its module is replaced.
func TestALogBelongsToThePlugin(t *testing.T) {
	var heard []string
	r, err := plugins.New(plugins.Options{
		Limits: patient(),
		Log:    slog.New(slog.DiscardHandler),
		OnLine: func(plugin string, l output.Line) {
			heard = append(heard, fmt.Sprint(plugin, " ", l.Number, " ", l.Text))
		},
	})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.Log("mine", 0)
	require.ErrorIs(t, err, core.ErrNotFound)
	_, err = r.Put("mine", talking("one"), nil, false)
	require.NoError(t, err)
	_, err = r.Put("other", talking("three"), nil, false)
	require.NoError(t, err)
	_, err = r.Put("mine", talking("two"), nil, true)
	require.NoError(t, err)
	scorer, err := r.Scorer("mine", "round_robin")
	require.NoError(t, err)
	require.NoError(t, scorer.Score(rows{{}, {}}, make([]float64, 2)))

	require.Equal(t, []string{"mine 1 one", "other 1 three", "mine 2 two", "mine 3 two"}, heard,
		"the trial calls log, too")
	lines, err := r.Log("mine", 1)
	require.NoError(t, err)
	require.Len(t, lines, 2)
	require.Equal(t, "two", lines[1].Text)
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.Equal(t, []output.Metric{{Name: "calls", Value: 3}}, i.Metrics)

	require.NoError(t, r.Delete("mine", func(string) string { return "" }))
	_, err = r.Put("mine", talking("four"), nil, false)
	require.NoError(t, err)
	lines, err = r.Log("mine", 0)
	require.NoError(t, err)
	require.Len(t, lines, 1, "a new plugin has a log of its own")
}
