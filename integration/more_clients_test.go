package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// S150: httpx, aiohttp, Scrapy and undici fetch a plain site and an intercepted one, by GET and POST, over HTTP and (if
// they can) SOCKS5. A third of the first attempts gets a 503.
func TestS150MoreRealClients(t *testing.T) {
	i := startIntercepting(t, confK+roundRobin)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "hello %s %s %s", q.Host, q.Method, body)
	}))
	t.Cleanup(site.Close)
	i.throughFakes(site.Listener.Addr().String())
	urls := []string{"http://plain.test/", "https://site.test/"}
	for name, client := range map[string][]string{
		"httpx":   {"/usr/bin/python3", "httpx_client.py"},
		"aiohttp": {"/usr/bin/python3", "aiohttp_client.py"},
		"Scrapy":  {"/usr/bin/python3", "scrapy_client.py"},
		"undici":  {"node", "undici_client.mjs"},
	} {
		t.Run(name, func(t *testing.T) {
			if client[0] == "node" {
				installNodePackages(t)
			}
			inside, before := i.failed.Load(), len(i.fakes[0].Arrivals())
			cmd := exec.Command(client[0], append([]string{client[1], i.gateway}, urls...)...)
			cmd.Dir = filepath.Join("testdata", "clients")
			cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+i.ca, "NODE_EXTRA_CA_CERTS="+i.ca)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "ok")
			failed := 0
			for _, a := range i.fakes[0].Arrivals()[before:] {
				if a.Target == "http://plain.test/" {
					failed++
				}
			}
			require.Greater(t, i.failed.Load(), inside, "a request inside the intercepted site is retried")
			require.NotZero(t, failed, "a request in absolute form is retried")
		})
	}
}

// throughFakes makes the fakes connect tunnels for plain.test to the site, and tunnels for intercepted hosts to the
// targets. F1 responds with 503 to a request in plain HTTP, and connects tunnels to the target that responds with 503.
func (i *interceptedWorld) throughFakes(site string) {
	for n, f := range i.fakes {
		f.SetScript(func(_ int, q *http.Request) lab.Behaviour {
			switch {
			case q.Method == http.MethodConnect && strings.HasPrefix(q.RequestURI, "plain.test:"):
				return lab.Behaviour{TunnelTo: site}
			case q.Method == http.MethodConnect && n == 0:
				return lab.Behaviour{TunnelTo: i.bad}
			case q.Method == http.MethodConnect:
				return lab.Behaviour{TunnelTo: i.good}
			case n == 0:
				return lab.Status(503)
			}
			body, _ := io.ReadAll(q.Body)
			return lab.Behaviour{Body: fmt.Sprintf("hello plain.test %s %s", q.Method, body)}
		})
	}
}

// installNodePackages installs the packages of testdata/clients/package-lock.json, unless it has installed them before.
func installNodePackages(t *testing.T) {
	dir := filepath.Join("testdata", "clients")
	lock, err := os.Open(filepath.Join(dir, "package-lock.json"))
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)) // one installation at a time
	installed, _ := os.ReadFile(filepath.Join(dir, "node_modules", "installed"))
	wanted, err := io.ReadAll(lock)
	require.NoError(t, err)
	if bytes.Equal(installed, wanted) {
		return
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "node_modules", "installed"), wanted, 0o644))
}
