package integration

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// visitor is a script that acts on the dashboard within the page.
//
//go:embed testdata/visitor.js
var visitor []byte

// TestTheDashboard opens the dashboard in a browser. Between them is a reverse proxy that serves the
// dashboard in a folder and sends another Host. It adds the visitor to the page, and can simulate a gateway
// that has stopped or hangs.
func TestTheDashboard(t *testing.T) {
	config := func(attempts string) string {
		return `[retry]
max_attempts = ` + attempts + `
backoff_strategy = "fixed"
base_delay = 0.1
[breaker]
blame = "literal"
failure_threshold = 3
timeout_duration = "1h"
[[api.keys]]
key = "reads-only"
role = "read"
[[api.keys]]
key = "may-do-all"
role = "admin"
`
	}
	w := start(t, 3, config("3"))
	w.fakes[0].Do(lab.Status(503))
	var stopped, hangs atomic.Bool
	type report struct {
		Done  []string
		Error string
	}
	reports := make(chan report, 1)
	signedIn, once := make(chan struct{}), sync.Once{}
	api := &httputil.ReverseProxy{Rewrite: func(q *httputil.ProxyRequest) {
		q.SetURL(&url.URL{Scheme: "http", Host: w.api})
		q.Out.Host = "behind.example"
	}}
	api.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Path != "/" {
			return nil
		}
		page, err := io.ReadAll(r.Body)
		page = append(page, "<script src=visitor.js></script>"...)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(page)), int64(len(page))
		r.Header.Del("Content-Length")
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, q *http.Request) {
		if stopped.Load() {
			panic(http.ErrAbortHandler) // the connection ends without a response
		}
		if hangs.Load() {
			<-q.Context().Done()
			return
		}
		if q.URL.Path == "/api/v1/plugins" && q.Header.Get("Authorization") == "" {
			select { // a request without a key is held until there is a key
			case <-signedIn:
			case <-q.Context().Done():
			}
		} else if q.Header.Get("Authorization") == "Bearer reads-only" {
			once.Do(func() { time.AfterFunc(100*time.Millisecond, func() { close(signedIn) }) })
		}
		api.ServeHTTP(rw, q)
	})
	mux.HandleFunc("/visitor.js", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/javascript")
		rw.Write(visitor)
	})
	mux.HandleFunc("/module", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/wasm")
		rw.Write(talker())
	})
	mux.HandleFunc("/edit", func(_ http.ResponseWriter,
		q *http.Request) {
		w.write(config(q.FormValue("max_attempts")))
	})
	mux.HandleFunc("/stop", func(http.ResponseWriter, *http.Request) { stopped.Store(true) })
	mux.HandleFunc("/hang", func(http.ResponseWriter, *http.Request) { hangs.Store(true) })
	mux.HandleFunc("/go", func(http.ResponseWriter, *http.Request) { stopped.Store(false); hangs.Store(false) })
	mux.HandleFunc("/traffic", func(http.ResponseWriter, *http.Request) {
		for range 9 {
			w.get()
		}
	})
	mux.HandleFunc("/report", func(_ http.ResponseWriter, q *http.Request) {
		var r report
		json.NewDecoder(q.Body).Decode(&r)
		reports <- r
	})
	server := httptest.NewServer(http.StripPrefix("/whirlpool", mux))
	defer server.Close()

	said := &coretest.Log{}
	browser := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run",
		"--window-size=500,800", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", server.URL+"/whirlpool/")
	browser.Stdout, browser.Stderr = said, said
	browser.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // because the browser consists of many processes
	require.NoError(t, browser.Start())
	defer func() {
		syscall.Kill(-browser.Process.Pid, syscall.SIGKILL)
		browser.Wait()
	}()
	select {
	case r := <-reports:
		require.Empty(t, r.Error, "after %q", r.Done)
		require.Len(t, r.Done, 31)
		_, running, _ := w.call("GET", "/config", "", "Authorization", "Bearer reads-only")
		require.Contains(t, string(running), `"gateway":"`+w.gateway+`"`)
		status, policy, _ := w.call("GET", "/retry/policy", "", "Authorization", "Bearer reads-only")
		require.Equal(t, 200, status)
		require.Contains(t, string(policy), `{"max_attempts":4,"backoff_strategy":"fixed","base_delay":0.1,`+
			`"multiplier":2,"max_backoff_delay":30,"jitter":false,"retry_status_codes":[503,429],"timeout":null,`+
			`"retry_non_idempotent":false,"failover_delay":null,`)
	case <-time.After(3 * time.Minute):
		t.Fatalf("the visitor does not report; the browser says:\n%s", said)
	}
}
