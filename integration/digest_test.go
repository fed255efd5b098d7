package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startSquid runs Debian's squid with Digest authentication, and returns its address. A nonce is good for 10 requests.
func startSquid(t *testing.T) string {
	const helper = "/usr/lib/squid/digest_file_auth"
	if _, err := os.Stat(helper); err != nil {
		t.Skip("squid is not installed")
	}
	dir, address := t.TempDir(), freePort(t)
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) { // squid runs as another user
		require.NoError(t, os.Chmod(d, 0o777))
	}
	users := filepath.Join(dir, "users")
	require.NoError(t, os.WriteFile(users, []byte("ann:hunter2secret\n"), 0o644))
	file := filepath.Join(dir, "squid.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `http_port %[1]s
auth_param digest program %[2]s %[3]s
auth_param digest realm the lab
auth_param digest nonce_max_count 10
acl users proxy_auth REQUIRED
http_access allow users
http_access deny all
cache deny all
access_log none
cache_log %[4]s/cache.log
pid_filename %[4]s/squid.pid
coredump_dir %[4]s
shutdown_lifetime 0 seconds
`, address, helper, users, dir), 0o644))
	cmd := exec.Command("squid", "-N", "-f", file) // -N: one process
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, "squid listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}

// squid with Digest authentication serves requests and tunnels, even many at the same time. squid refuses a nonce
// whose counter does not increase. A wrong password is a failure of the proxy.
func TestS146DigestWithSquid(t *testing.T) {
	squid := startSquid(t)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w,
			"hello")
	}))
	t.Cleanup(site.Close)
	w := start(t, 0, fmt.Sprintf("[health]\nreachability = false\n[[proxies]]\nid = \"squid\"\n"+
		"url = \"http://ann:hunter2secret@%s\"\n", squid))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if a := w.request("GET", site.URL+"/", ""); a.status != 200 || a.body != "hello" ||
					a.attempts() != "1" {
					t.Error(a.status, a.attempts(), a.body)
				}
			}
		})
	}
	wg.Wait()
	for range 3 {
		status, _, c := w.connect(site.Listener.Addr().String())
		require.Equal(t, 200, status)
		c.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		buf := make([]byte, 12)
		_, err := c.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.0 200", string(buf))
		c.Close()
	}
	require.Equal(t, "closed", w.breaker("squid")["state"])
	require.Equal(t, 203.0, w.getJSON("/metrics/retries")["total_attempts"])
	status, body, _ := w.call("PATCH", "/proxies/squid", fmt.Sprintf(`{"url":"http://ann:wrong@%s"}`, squid))
	require.Equal(t, 200, status, "%s", body)
	a := w.request("GET", site.URL+"/", "")
	require.Equal(t, 502, a.status)
	require.Contains(t, a.body, "credentials")

	// With auth = "digest", a new proxy gets no Basic credentials, and serves requests and tunnels.
	status, body, _ = w.call("POST", "/proxies", fmt.Sprintf(`{"id":"only","url":"http://ann:hunter2secret@%s",`+
		`"auth":"digest"}`, squid))
	require.Equal(t, 201, status, "%s", body)
	status, body, _ = w.call("DELETE", "/proxies/squid", "")
	require.Less(t, status, 300, "%s", body)
	for range 3 {
		a = w.request("GET", site.URL+"/", "")
		require.Equal(t, []string{"200", "1", "only"}, []string{fmt.Sprint(a.status), a.attempts(), a.proxy()})
		status, _, c := w.connect(site.Listener.Addr().String())
		require.Equal(t, 200, status)
		c.Close()
	}
	require.Equal(t, "digest", w.getJSON("/proxies/only")["auth"])
}
