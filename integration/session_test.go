package integration

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// S126: a session keeps its proxy, with curl, Python requests and SOCKS5 clients, and after a reload. If the proxy
// fails, the session moves to another proxy, and a response field reports the move. A strict session gets a 503 while
// the breaker is open.
func TestS126SessionsKeepTheirProxy(t *testing.T) {
	config := "[retry]\nbase_delay = 0.1\n[breaker]\nblame = \"literal\"\nfailure_threshold = 3\n" +
		"[[gateway.users]]\nname = \"ann\"\npassword = \"pw\"\n"
	w := start(t, 4, config)
	origin, err := lab.Start("origin", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(origin.Close)
	user, field := "ann:pw@", "X-Whirlpool-Session: abc123"
	named := "ann-session-abc123-ttl-10m:pw@"
	curl := func(args ...string) string {
		out, err := exec.Command("curl", append([]string{"-sS", "-m", "10"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
		return string(out)
	}
	to, served := "http://"+origin.Addr+"/", func() (used []*lab.Proxy) {
		for _, f := range w.fakes {
			if f.Count() > 0 {
				used = append(used, f)
			}
		}
		return used
	}
	for range 3 {
		curl("-f", "-x", "http://"+named+w.gateway, to)
		curl("-f", "-x", "http://"+user+w.gateway, "-H", field, to)
		curl("-f", "-x", "http://"+named+w.gateway, "-p", to)
		curl("-f", "-x", "http://"+user+w.gateway, "-p", "--proxy-header", field, to)
		curl("-f", "-x", "socks5h://"+named+w.gateway, to)
	}
	script := `import requests
for i in range(3):
    r = requests.get("` + to + `", proxies={"http": "http://` + named + w.gateway + `"}, timeout=10)
    assert r.status_code == 200, r.status_code
    r = requests.get("` + to + `", proxies={"http": "http://` + user + w.gateway + `"}, timeout=10,
        headers={"X-Whirlpool-Session": "abc123"})
    assert r.status_code == 200, r.status_code`
	out, err := exec.Command("/usr/bin/python3", "-c", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Len(t, served(), 1)
	first := served()[0]
	for _, a := range first.Arrivals() {
		require.Empty(t, a.Header.Get("X-Whirlpool-Session"))
	}

	w.writeConfig(config + "# changed\n[retry_budget]\nmin_per_second = 11\n")
	eventually(t, "the configuration is reloaded", func() bool {
		return strings.Contains(w.log.String(), "configuration reloaded")
	})
	curl("-f", "-x", "http://"+named+w.gateway, to)
	require.Len(t, served(), 1)

	strict := "ann-session-abc123-strict:pw@"
	first.SetBehaviour(lab.Status(503))
	for range 2 {
		curl("-x", "http://"+strict+w.gateway, to)
	}
	head := curl("-D", "-", "-o", "/dev/null", "-x", "http://"+strict+w.gateway, to)
	require.Contains(t, head, "X-Whirlpool-Outcome: session_proxy_unavailable")
	require.Contains(t, head, " 503 ")
	require.Contains(t, head, "Retry-After: ")
	head = curl("-D", "-", "-o", "/dev/null", "-x", "http://"+named+w.gateway, to)
	require.Contains(t, head, " 200 ")
	require.Contains(t, head, "X-Whirlpool-Session-Moved: "+first.Name)
	head = curl("-D", "-", "-o", "/dev/null", "-x", "http://"+named+w.gateway, to)
	require.NotContains(t, head, "X-Whirlpool-Session-Moved")

	head = curl("-D", "-", "-o", "/dev/null", "-x",
		"http://ann-session-abc124-region-us-city-x-ttl-10m-retry-5:pw@"+w.gateway, to)
	require.Contains(t, head, " 200 ")

	head = curl("-D", "-", "-x", "http://ann-session-a-planet-x:pw@"+w.gateway, to)
	require.Contains(t, head, " 407 ")
	require.Contains(t, head, `unknown option \"planet\"`)
	require.NotContains(t, w.log.String(), "ann-session-a-planet-x:pw")
}

// A session over SOCKS5 moves to a second proxy when its first one fails. It keeps the second proxy even when the first
// one works again. It ends after its ttl without a request.
func TestSessionsOverSOCKS5End(t *testing.T) {
	w := start(t, 4, "[retry]\nbase_delay = 0.1\n[timeouts]\nadaptive = false\n[[gateway.users]]\nname = \"ann\"\n"+
		"password = \"pw\"\n")
	site(w, false)
	var down *lab.Proxy
	through := func(ttl string) *lab.Proxy {
		before := map[*lab.Proxy]int{}
		for _, f := range w.fakes {
			before[f] = f.Count()
		}
		out, err := exec.Command("curl", "-sSf", "-m", "20", "-x",
			"socks5h://ann-session-abc-ttl-"+ttl+":pw@"+w.gateway, "http://site.test/").CombinedOutput()
		require.NoError(t, err, "%s", out)
		var used []*lab.Proxy
		for _, f := range w.fakes {
			if f != down && f.Count() > before[f] {
				used = append(used, f)
			}
		}
		require.Len(t, used, 1)
		return used[0]
	}
	first := through("10m")
	require.Equal(t, first, through("10m"))
	down = first
	down.SetBehaviour(lab.Status(503))
	second := through("10m")
	down = nil
	site(w, false)
	for range 3 {
		require.Equal(t, second, through("10m"), "the session stays")
	}
	require.Equal(t, second, through("1s"))
	time.Sleep(time.Second + 100*time.Millisecond)
	require.Equal(t, first, through("1s"), "a new session of the same name has the first proxy")
}

// One line of a list stands for many exits of a vendor: its user name has variables for the session, a random value,
// the region, and the environment. A retry uses another session of the vendor. A client's session keeps its session of
// the vendor. A connection is not reused with another user name.
func TestS225OneLineIsManyExits(t *testing.T) {
	t.Parallel()
	const templates = "{env:LOGIN}-cc-{region}-sid-{session}-x-{rand8}"
	w := start(t, 1, confK)
	w.kill()
	w.env = append(w.env, "LOGIN=ann")
	config := strings.Replace(confK, "[retry]", "[retry]\nmax_attempts = 2", 1)
	w.writeConfig(config + "[[proxies]]\nid = \"{user}\"\nregion = \"us\"\nurl = \"http://" + templates +
		":hunter2secret@" + w.fakes[0].Addr + "\"\n")
	w.startProcess()
	id := "ann-cc-{region}-sid-{session}-x-{rand8}"
	require.NotEmpty(t, w.getJSON("/proxies/" + url.PathEscape(id))["url"])
	status, _, _ := w.call("DELETE", "/proxies/F1", "")
	require.Equal(t, 204, status)
	w.fakes[0].SetScript(func(n int, _ *http.Request) lab.Behaviour {
		if n == 0 {
			return lab.Status(503)
		}
		return lab.OK()
	})
	user := regexp.MustCompile(`^ann-cc-(\w+)-sid-(\w{13})-x-(\w{8}):hunter2secret$`)
	parts := func() (all [][]string) {
		for _, a := range w.fakes[0].Arrivals() {
			login, err := base64.StdEncoding.DecodeString(
				strings.TrimPrefix(a.Header.Get("Proxy-Authorization"), "Basic "))
			require.NoError(t, err)
			found := user.FindStringSubmatch(string(login))
			require.NotNil(t, found, "%s", login)
			all = append(all, found[1:])
		}
		return all
	}
	require.Equal(t, "2", w.get().attempts())
	for range 2 {
		require.Equal(t, 200, w.get("X-Whirlpool-Session", "abc", "X-Whirlpool-Region", "de").status)
	}
	got := parts()
	require.Len(t, got, 4)
	require.Equal(t, "us us de de", got[0][0]+" "+got[1][0]+" "+got[2][0]+" "+got[3][0])
	require.NotEqual(t, got[0][1], got[1][1], "a retry is a new session")
	require.Equal(t, got[2][1], got[3][1], "the session keeps its exit")
	require.NotEqual(t, got[2][2], got[3][2], "the random value is new each time")
	require.Equal(t, 4, w.fakes[0].Connections(), "no connection is reused with another login")
}
