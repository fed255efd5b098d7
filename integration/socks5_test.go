package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// site starts a web site, with or without TLS. All tunnels of the fakes lead to it.
func site(w *whirl, withTLS bool) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "<title>the site</title>hello "+r.Host)
	}))
	if withTLS {
		s.StartTLS()
	} else {
		s.Start()
	}
	w.t.Cleanup(s.Close)
	w.setAll(lab.Behaviour{TunnelTo: s.Listener.Addr().String()})
	return s
}

// awaitIdle waits until no request and no tunnel is in flight. The end of a tunnel is recorded after its client has
// left.
func (w *whirl) awaitIdle() {
	w.t.Helper()
	eventually(w.t, "nothing is in flight", func() bool {
		return strings.Contains(w.scrape(), "whirlpool_requests_in_flight 0\n")
	})
}

// curl, requests and Chromium use the gateway as a SOCKS5 proxy. If a proxy fails, another one is used, as
// for a CONNECT. BIND and UDP ASSOCIATE are refused.
func TestS220SOCKS5Clients(t *testing.T) {
	w := start(t, 3, "")
	site(w, true)
	w.fakes[0].SetBehaviour(lab.Status(503))
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	for range 6 {
		page := run("curl", "-sSfk", "-m", "20", "--socks5-hostname", w.gateway, "https://site.test/")
		require.Contains(t, page, "hello")
	}
	script := `import requests, urllib3
urllib3.disable_warnings()
p = {"https": "socks5h://` + w.gateway + `"}
for i in range(6):
    print(requests.get("https://site.test/", proxies=p, timeout=20, verify=False).text)`
	require.Equal(t, 6, strings.Count(run("/usr/bin/python3", "-c", script), "hello site.test"))
	page := run("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir="+t.TempDir(), "--ignore-certificate-errors", "--proxy-server=socks5://"+w.gateway,
		"--dump-dom", "https://site.test/")
	require.Contains(t, page, "<title>the site</title>")
	for _, command := range []string{"\x02", "\x03"} { // BIND, UDP ASSOCIATE
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		fmt.Fprint(c, "\x05\x01\x00\x05"+command+"\x00\x01\xc0\x00\x02\x01\x00\x50")
		replies, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", string(replies), "command not supported")
		c.Close()
	}
	w.awaitIdle()
	require.Regexp(t, `whirlpool_requests_total\{listener="socks5",outcome="success"\} \d\d`, w.scrape())
	w.reconcile(0)
}

// If there are users, a SOCKS5 client needs the same user name and password as an HTTP client.
func TestSOCKS5Users(t *testing.T) {
	w := start(t, 1, "[[gateway.users]]\nname = \"ann\"\npassword = \"open sesame\"\n")
	site(w, false)
	get := func(user string) ([]byte, error) {
		args := []string{"-sSf", "-m", "10", "--socks5-hostname", w.gateway, "http://site.test/"}
		if user != "" {
			args = append(args, "--proxy-user", user)
		}
		return exec.Command("curl", args...).CombinedOutput()
	}
	out, err := get("ann:open sesame")
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "hello")
	for _, user := range []string{"", "ann:open", "bob:open sesame"} {
		out, err := get(user)
		require.Error(t, err, "%s: %s", user, out)
	}
	w.awaitIdle()
	require.EqualValues(t, 1, w.getJSON("/metrics/retries")["total_requests"])
}
