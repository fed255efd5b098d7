package integration

import (
	"encoding/base64"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Users whose passwords are hashes log in by HTTP and SOCKS5. At each listener, failed logins are counted and
// logged with name and address, but without the password.
func TestFailedLogins(t *testing.T) {
	t.Parallel()
	passwd := exec.Command(binary, "passwd")
	passwd.Stdin = strings.NewReader("open sesame\n")
	hash, err := passwd.Output()
	require.NoError(t, err)
	w := start(t, 1, confK+fmt.Sprintf(`
[[gateway.users]]
name = "ann"
password = "%s"
[[api.keys]]
name = "ops"
key = "0123456789abcdef"
role = "admin"
`, strings.TrimSpace(string(hash))))
	site(w, false)
	curl := func(proxy string) error {
		return exec.Command("curl", "-sSf", "-m", "30", "-x", proxy+w.gateway, "http://site.test/").Run()
	}
	require.NoError(t, curl("http://ann:open%20sesame@"))
	require.NoError(t, curl("socks5h://ann:open%20sesame@"))
	require.Error(t, curl("socks5h://ann:canary@"))
	for i := range 3 {
		login := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "bob:canary-%d", i))
		require.Equal(t, 407, w.get("Proxy-Authorization", "Basic "+login).status)
	}
	status, _, _ := w.call("GET", "/proxies", "", "Authorization", "Bearer canary-key")
	require.Equal(t, 401, status)
	text, err := exec.Command("curl", "-sSf", "-H", "Authorization: Bearer 0123456789abcdef",
		"http://"+w.api+"/metrics").Output()
	require.NoError(t, err)
	for _, line := range []string{`{listener="gateway"} 3`, `{listener="socks5"} 1`, `{listener="api"} 1`} {
		require.Contains(t, string(text), "whirlpool_auth_failures_total"+line)
	}
	eventually(t, "all are in the log", func() bool { return strings.Count(w.log.String(), "login failed") == 5 })
	require.Contains(t, w.log.String(), "listener=gateway client=127.0.0.1 user=bob")
	require.NotContains(t, w.log.String(), "canary")
}
