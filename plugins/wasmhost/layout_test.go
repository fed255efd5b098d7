package wasmhost

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

func TestCoreAndABIHaveTheSameRecords(t *testing.T) {
	for _, pair := range [][2]any{
		{core.RankRequest{}, abi.RankRequest{}}, {core.Candidate{}, abi.Candidate{}},
		{core.BackoffRequest{}, abi.BackoffRequest{}}, {core.Observation{}, abi.Observation{}},
	} {
		a, b := reflect.TypeOf(pair[0]), reflect.TypeOf(pair[1])
		require.Equal(t, a.NumField(), b.NumField(), a.Name())
		for i := range a.NumField() {
			require.Equal(t, a.Field(i).Name, b.Field(i).Name)
			require.Equal(t, a.Field(i).Offset, b.Field(i).Offset)
			require.Equal(t, reflect.Float64, b.Field(i).Type.Kind())
		}
	}
}

// The judge's request in core has the same layout as the first part of the judge's request in sdk/abi.
func TestTheRequestOfAJudge(t *testing.T) {
	a, b := reflect.TypeOf(core.JudgeRequest{}), reflect.TypeOf(abi.JudgeRequest{})
	require.Equal(t, a.NumField()+4, b.NumField())
	require.Equal(t, abi.JudgeRequestSize, int(b.Size()))
	require.Equal(t, abi.RulingSize, int(reflect.TypeOf(abi.Ruling{}).Size()))
	for i := range a.NumField() {
		name := a.Field(i).Name
		if name == "Length" {
			name = "ContentLength"
		}
		require.Equal(t, name, b.Field(i).Name)
		require.Equal(t, a.Field(i).Offset, b.Field(i).Offset)
		require.Equal(t, reflect.Float64, b.Field(i).Type.Kind())
	}
}

func TestSettingsAsText(t *testing.T) {
	got := pairs(map[string]any{
		"b": true, "a": "x y", "n": int64(20), "f": 1e6, "half": 0.5, "list": []any{"de", "us", int64(3)},
		"t": map[string]any{"low": 1.0, "Up": nil}, "t-2": "", "j": json.Number("1e6"),
		"when": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	})
	require.Equal(t, []pair{
		{"a", "x y"}, {"b", "true"}, {"f", "1e+06"}, {"half", "0.5"}, {"j", "1e+06"}, {"list", "de,us,3"}, {"n", "20"},
		{"t-2", ""}, {"t.Up", ""}, {"t.low", "1"}, {"when", "2026-01-02T03:04:05Z"},
	}, got)
}
