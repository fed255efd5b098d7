package api

import "testing"

func TestConfig(t *testing.T) {
	r := newRig(t, nil)
	const status = `{"ok":true,"at":"2026-11-28T12:00:00Z","faults":[],"restart":[]}`
	r.check(t, []exchange{
		{path: "/config", status: 200, want: `{"config":{},"gateway":"127.0.0.1:8888","reload":` + status + `,"policy_source":"file"}`},
		{method: "POST", path: "/config/reload", status: 200, want: status},
		{method: "PUT", path: "/retry/policy", body: `{"max_attempts":2}`, status: 200},
		{path: "/config", status: 200, want: `{"config":{},"gateway":"127.0.0.1:8888","reload":` + status + `,"policy_source":"runtime"}`},
	})
	r.reload = ReloadStatus{At: noon, Faults: []string{"line 3"}, Restart: []string{"log.format"}}
	r.check(t, []exchange{{method: "POST", path: "/config/reload", status: 422,
		want: `{"error":"invalid_config","message":"the configuration was not reloaded; the previous one stays in force","details":` +
			`{"ok":false,"at":"2026-11-28T12:00:00Z","faults":["line 3"],"restart":["log.format"]}}`}})
}
