package api

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func TestPluginLogs(t *testing.T) {
	r := newRig(t, nil)
	const line2 = `{"number":2,"at":"2026-11-28T12:00:00Z","level":"error","text":"no spoon"}`
	const line1 = `{"number":1,"at":"2026-11-28T12:00:00Z","level":"info","text":"hello"}`
	r.check(t,
		apiCase{path: "/plugins/random/logs", status: 200, want: `{"lines":[` + line1 + "," + line2 + `]}`},
		apiCase{path: "/plugins/random/logs?after=1", status: 200, want: `{"lines":[` + line2 + `]}`},
		apiCase{path: "/plugins/random/logs?after=2", status: 200, want: `{"lines":[]}`},
		apiCase{path: "/plugins/random/logs?after=-1", status: 400},
		apiCase{path: "/plugins/nope/logs", status: 404},
	)
}

func TestAPluginShowsItsSettings(t *testing.T) {
	r := newRig(t, nil)
	low := 0.5
	margin := wasmhost.Setting{Name: "margin", Type: "number", Min: &low, Default: "1", Text: "how near"}
	r.plugins.all["mine"] = plugins.Info{Name: "mine", Settings: []plugins.SettingValue{
		{Setting: margin, Value: "2"},
		{Setting: wasmhost.Setting{Name: "mode", Type: "text", Values: []string{"a", "b"}}},
	}}
	_, body := r.send(t, "GET", "/api/v1/plugins/mine", "")
	require.Contains(t, string(body),
		`"settings":[{"name":"margin","type":"number","min":0.5,"default":"1","text":"how near","value":"2"},`+
			`{"name":"mode","type":"text","values":["a","b"]}]`)
}
