package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// startDemo starts the gateway on its embedded lab, as make run does. The file has the gateway's addresses.
func startDemo(t *testing.T) *whirl {
	w := &whirl{t: t, dir: t.TempDir(), log: &coretest.Log{}, gateway: freePort(t), api: freePort(t)}
	w.configFile = filepath.Join(w.dir, "koanf.toml")
	require.NoError(t, os.WriteFile(w.configFile, nil, 0o600))
	w.startProcess("--demo")
	return w
}

// command runs a command of the binary with the gateway's URL.
func (w *whirl) command(args ...string) (out string, code int) {
	w.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "WHIRLPOOL_URL=http://"+w.api, "XDG_CONFIG_HOME="+w.dir)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// The commands work with the binary and its embedded lab, one after the other.
func TestTheCommands(t *testing.T) {
	w := startDemo(t)
	eventually(t, "the dead proxy's breaker is open", func() bool {
		out, _ := w.command("proxies", "list", "--state", "open")
		return strings.Contains(out, "dead")
	})
	file := filepath.Join(w.dir, "new.toml")
	for _, c := range []struct {
		args string
		code int
		out  string // a regular expression
	}{
		{"status", 0, `breaker +dead: open since `},
		{"proxies list --sort uses --limit 1", 0, `1 of 6 proxies`},
		{"request http://demo.example/", 0, `success, \d bytes(.|\n)*answered +200 `},
		{"request http://demo.example/ --retry max_attempt=4", 1, `did you mean max_attempts\?`},
		{"request http://demo.example/ --body", 0, `.`},
		{"policy get", 0, `max_attempts +3\n`},
		{"policy set max_attempts=5 retry_status_codes=502,503", 0, `max_attempts +5\n(.|\n)*source +runtime`},
		{"policy reset", 0, `max_attempts +3\n(.|\n)*\[502,503,504\]`},
		{"proxies add 127.0.0.1:9 --id nine --region eu", 0, `nine is added: http://127\.0\.0\.1:9`},
		{"proxies ban nine --for 1h", 0, `nine is banned until `},
		{"proxies list --state banned", 0, `nine +banned +eu `},
		{"proxies unban nine", 0, `nine is not banned`},
		{"proxies reset nine dead", 0, `nine has a closed breaker\ndead has`},
		{"proxies test alpha", 0, `alpha is reachable: [\d.]+ ms for a connection`},
		{"proxies test alpha nine", 1, `nine: (.|\n)*1 of 2 proxies failed`},
		{"proxies delete nine nine", 1, `there is no proxy "nine"\n(.|\n)*1 of 2 proxies failed`},
		{"proxies drain alpha", 0, `alpha is draining`},
		{"proxies undrain alpha", 0, `alpha is in the pool again`},
		{"proxies undrain nine", 1, `add it again`},
		{"reload", 0, `the configuration is in force`},
		{"events --follow=false --type policy", 0, `policy \{"max_attempts":5`},
		{"config init " + file, 0, `is written`},
		{"config check " + file, 0, `is valid: 0 proxies`},
		{"config fmt --check " + file, 0, `^$`},
		{"config diff " + file, 1, `\+ log\.level = "info"`},
		{"doctor --config " + w.configFile, 0, `OK +clock|WARN +clock`},
		{"audit", 0, `TIME +NODE +KEY +CHANGE`},
		{"state show", 0, `policy|no state folder|changes in `},
		{"version --json", 0, `"platform": "`},
		{"completion bash", 0, `complete`},
		{"__complete proxies ban a", 0, `^alpha\n`},
		{"proxys list", 2, `did you mean proxies\?`},
	} {
		out, code := w.command(strings.Fields(c.args)...)
		require.Equal(t, c.code, code, "%s\n%s", c.args, out)
		require.Regexp(t, c.out, out, c.args)
	}
}

// top runs in a terminal: it shows the proxies, sorts and filters them, and ends with q.
func TestTopInATerminal(t *testing.T) {
	w := startDemo(t)
	tmux := func(args ...string) string {
		out, err := exec.Command("tmux", append([]string{"-L", "whirlpool-" + filepath.Base(w.dir) + w.api[10:]},
			args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	tmux("new-session", "-d", "-x", "110", "-y", "20", "WHIRLPOOL_URL=http://"+w.api+" "+binary+
		" top --interval 100ms --sort proxy 2>"+w.dir+"/errors; echo ended with $?; sleep 100")
	defer exec.Command("tmux", "-L", "whirlpool-"+filepath.Base(w.dir)+w.api[10:], "kill-server").Run()
	screen := func() string { return tmux("capture-pane", "-p") }
	eventually(t, "the proxies are on the screen", func() bool {
		return strings.Contains(screen(), "6 proxies") && strings.Contains(screen(), "charlie")
	})
	tmux("send-keys", "/bra")
	eventually(t, "the filter hides the others", func() bool {
		return strings.Contains(screen(), "bravo") && !strings.Contains(screen(), "charlie")
	})
	tmux("send-keys", "Enter", "r", "q")
	eventually(t, "top has ended", func() bool { return strings.Contains(screen(), "ended with 0") })
}
