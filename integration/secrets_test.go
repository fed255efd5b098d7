package integration

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// TestSecretsShowNowhere configures a credential of each kind, makes requests succeed and fail, and searches
// every response, metric and log line for the credentials.
func TestSecretsShowNowhere(t *testing.T) {
	t.Parallel()
	w := start(t, 3, `
[log]
level = "debug"
[retry]
base_delay = 0.1
[[gateway.users]]
name = "alice"
password = "canary-client"
[[api.keys]]
name = "ops"
key = "canary-api-key-0123456789"
role = "admin"
`)
	key := []string{"Authorization", "Bearer canary-api-key-0123456789"}
	login := []string{"Proxy-Authorization", "Basic " +
		base64.StdEncoding.EncodeToString([]byte("alice:canary-client"))}
	secrets := []string{"canary", "hunter2secret", base64.StdEncoding.EncodeToString([]byte("user:hunter2secret")),
		login[1][6:]}
	var seen []string
	look := func(text string) { seen = append(seen, text) }
	for _, b := range []lab.Behaviour{lab.OK(), lab.Status(503), lab.Challenge(), {Reset: true}, {Fin: true},
		{Garbage: "nonsense\r\n\r\n"}} {
		w.setAll(b)
		a := w.do("GET", "", append(login, "Cookie", "canary-cookie")...)
		look(a.body)
		for name, values := range a.header {
			for _, v := range values {
				look(name + ": " + v)
			}
		}
	}
	look(w.get().body) // without credentials
	look(w.get("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("alice:canary-wrong"))).body)
	for _, body := range []string{
		`{"url":"http://u:canary-added@127.0.0.1:1"}`, `{"url":"ftp://u:canary-bad@127.0.0.1:1"}`,
		`{"url":"http://u:canary-port@127.0.0.1:99999"}`,
		`{"url":"http://u:canary-broken@`,
	} {
		_, answer, _ := w.call("POST", "/proxies", body, key...)
		look(string(answer))
	}
	for _, path := range []string{"/proxies", "/config", "/requests", "/circuit-breakers", "/circuit-breakers/metrics",
		"/metrics/retries",
		"/metrics/retries/by-proxy", "/plugins", "/retry/policy"} {
		status, answer, _ := w.call("GET", path, "", key...)
		require.Equal(t, 200, status, path)
		look(string(answer))
	}
	_, answer, _ := w.call("GET", "/proxies", "", "Authorization", "Bearer canary-guess")
	look(string(answer))
	r, err := http.NewRequest("GET", "http://"+w.api+"/metrics", nil)
	require.NoError(t, err)
	r.Header.Set(key[0], key[1])
	m, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	text, _ := io.ReadAll(m.Body)
	m.Body.Close()
	require.Equal(t, 200, m.StatusCode)
	look(string(text))
	eventually(t, "the log says something", func() bool { return strings.Contains(w.log.String(), "retry") })
	look(w.log.String())
	for _, s := range secrets {
		for _, text := range seen {
			require.NotContains(t, text, s)
		}
	}
	for _, f := range w.fakes {
		for _, a := range f.Arrivals() {
			require.NotContains(t, a.Header.Get("Proxy-Authorization"), login[1], "the client's login never goes on")
		}
	}
}

// TestSignals: SIGHUP reloads the configuration, the first SIGTERM drains the gateway, and the second one
// ends it.
func TestSignals(t *testing.T) {
	t.Parallel()
	w := start(t, 1, "[gateway]\ndrain_grace = \"30s\"\n"+confK)
	w.writeConfig("[gateway]\ndrain_grace = \"30s\"\n[retry]\nmax_attempts = 7\n")
	w.signal(syscall.SIGHUP)
	eventually(t, "the reloaded policy", func() bool { return w.getJSON("/retry/policy")["max_attempts"] == 7.0 })
	hold := make(chan struct{})
	defer close(hold)
	w.setAll(lab.Behaviour{WaitFor: hold})
	go w.get()
	eventually(t, "a request in flight", func() bool { return w.arrivals() == 1 })
	ended := make(chan error, 1)
	go func() { ended <- w.cmd.Wait() }()
	w.signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		t.Fatalf("it did not wait for the request: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	var body []byte
	eventually(t, "who spreads the load shall send no more", func() bool {
		var status int
		status, body, _ = w.call("GET", "/readyz", "")
		return status == 503
	})
	require.Contains(t, string(body), "shutting down")
	status, _, _ := w.call("GET", "/healthz", "")
	require.Equal(t, 200, status)
	for begin := time.Now(); ; { // a second signal is ignored if it follows the first one within 100 ms
		w.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
			return
		case <-time.After(200 * time.Millisecond):
			require.Less(t, time.Since(begin), eventTimeout, "a second signal did not end it")
		}
	}
}
