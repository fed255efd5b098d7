package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// accessLine is a line of the access log.
type accessLine struct {
	ClientID string `json:"client_request_id"`
	User     string `json:"user"`
	Listener string `json:"listener"`
	Method   string `json:"method"`
	Target   string `json:"target"`
	Status   int    `json:"status"`
	Outcome  string `json:"outcome"`
	Error    string `json:"error"`
	Left     bool   `json:"client_left"`
	Received int    `json:"received_bytes"`
	Sent     int    `json:"sent_bytes"`
	Attempts []struct {
		Proxy, Result, Cause string
		Status               int
	} `json:"attempts"`
}

// The access log has one line for each request, however the request arrived and ended, and no line has a secret. After
// a rename of the file and SIGHUP the lines go to a new file.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	conf := confK + roundRobin + `
[[gateway.users]]
name = "ann"
password = "canary-password"
[log]
access = "all"
access_file = "access.log"
`
	w := start(t, 2, conf)
	site(w, false)
	file := filepath.Join(w.dir, "access.log")
	lines := func(n int) []accessLine {
		var text string
		eventually(t, "the line is written", func() bool {
			b, err := os.ReadFile(file)
			text = string(b)
			return err == nil && strings.Count(text, "\n") >= n
		})
		require.NotContains(t, text, "canary")
		var all []accessLine
		for l := range strings.Lines(text) {
			var a accessLine
			require.NoError(t, json.Unmarshal([]byte(l), &a), l)
			all = append(all, a)
		}
		require.Len(t, all, n)
		return all
	}
	curl := func(args ...string) {
		out, err := exec.Command("curl", append([]string{"-sS", "-m", "30", "-o", "/dev/null"},
			args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	ann := "ann:canary-password@" + w.gateway
	curl("-x", "http://"+ann, "-H", "X-Request-Id: of-ann-1", "-d", "body", "http://site.test/path?token=canary")
	a := lines(1)[0]
	require.Equal(t, "of-ann-1", a.ClientID)
	found := w.getJSON("/requests?q=OF-ANN")["requests"].([]any)
	require.Len(t, found, 1)
	require.Equal(t, "of-ann-1", found[0].(map[string]any)["client_request_id"])
	require.Equal(t, "ann http POST site.test:80 200 success", strings.Join(
		[]string{a.User, a.Listener, a.Method, a.Target, "200", a.Outcome}, " "))
	require.Equal(t, 200, a.Status)
	require.Equal(t, 4, a.Received)
	require.Greater(t, a.Sent, len("<title>the site</title>hello site.test"))
	require.Len(t, a.Attempts, 1)
	require.Equal(t, "answered", a.Attempts[0].Cause)

	curl("-x", "http://"+w.gateway, "http://site.test/")
	a = lines(2)[1]
	require.Equal(t, accessLine{
		Listener: "http", Method: "GET", Target: "site.test:80", Status: 407, Outcome: "refused",
		Error: "proxy_authentication_required", Sent: a.Sent, Attempts: a.Attempts,
	}, a)
	require.Empty(t, a.Attempts)

	curl("-p", "-x", "http://"+ann, "http://site.test/")
	a = lines(3)[2]
	require.Equal(t, []any{"connect", "CONNECT", 200}, []any{a.Listener, a.Method, a.Status})
	require.Greater(t, a.Received, len("GET / HTTP/1.1"))
	require.Greater(t, a.Sent, len("HTTP/1.1 200 OK"))

	curl("--socks5-hostname", ann, "http://site.test/")
	a = lines(4)[3]
	require.Equal(t, []any{"ann", "socks5", "CONNECT", "site.test:80", 200},
		[]any{a.User, a.Listener, a.Method, a.Target, a.Status})

	w.setAll(lab.Status(503))
	curl("-x", "http://"+ann, "http://site.test/")
	a = lines(5)[4]
	require.Equal(t, []any{503, "exhausted"}, []any{a.Status, a.Outcome})
	require.Len(t, a.Attempts, 3)
	for _, attempt := range a.Attempts {
		require.Equal(t, []any{"failure", "retry_status", 503}, []any{attempt.Result, attempt.Cause, attempt.Status})
	}

	require.NoError(t, os.Rename(file, file+".1"))
	before := w.configReadAt()
	w.signal(syscall.SIGHUP)
	w.awaitReload(before)
	curl("-x", "http://"+ann, "http://site.test/")
	lines(1)

	before = w.configReadAt()
	w.writeConfig(strings.Replace(conf, `"all"`, `"all"`+"\naccess_format = \"combined\"", 1))
	w.awaitReload(before)
	curl("-x", "http://"+ann, "http://site.test/")
	eventually(t, "a line in the other format", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(b), `"GET site.test:80 HTTP/1.1" 503 `)
	})
}
