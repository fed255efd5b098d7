package api

import "testing"

func TestConfig(t *testing.T) {
	r := newRig(t, nil)
	const status = `{"ok":true,"at":"2026-11-28T12:00:00Z","faults":[],"restart":[]}`
	r.check(t,
		get("/config", 200, `{"config":{},"file":"","gateway":"127.0.0.1:8888","reload":`+status+
			`,"policy_source":"file"}`),
		call("POST", "/config/reload", "", 200, status),
		call("PUT", "/retry/policy", `{"max_attempts":2}`, 200),
		get("/config", 200, `{"config":{},"file":"","gateway":"127.0.0.1:8888","reload":`+status+
			`,"policy_source":"runtime"}`),
	)
	r.reload = ReloadStatus{At: noon, Faults: []string{"line 3"}, Restart: []string{"log.format"}}
	r.check(t, call("POST", "/config/reload", "", 422,
		`{"error":"invalid_config",`+
			`"message":"the configuration was not reloaded; the previous one stays in force","details":`+
			`{"ok":false,"at":"2026-11-28T12:00:00Z","faults":["line 3"],"restart":["log.format"]}}`))
}
