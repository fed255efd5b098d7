package integration

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// TestTheDashboard opens the dashboard in a browser. Between the browser and the gateway is a reverse proxy. It serves
// the dashboard in a folder, and sends another Host. It also adds the visitor to the page, and can simulate a gateway
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
	w.fakes[0].SetBehaviour(lab.Status(503))
	var stopped, hangs atomic.Bool
	var running atomic.Pointer[context.CancelFunc] // ends the responses that have begun
	goesOn := make(chan struct{})
	signedIn, once := make(chan struct{}), sync.Once{}
	api := dashboardOf(w.api, "behind.example")
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, q *http.Request) {
		if stopped.Load() {
			panic(http.ErrAbortHandler) // the connection ends without a response
		}
		if hangs.Load() {
			select {
			case <-q.Context().Done():
			case <-goesOn: // a request that began before the page's time limit was short would hang for longer
			}
			panic(http.ErrAbortHandler)
		}
		ctx, cancel := context.WithCancel(q.Context())
		defer cancel()
		if q.URL.Path == "/api/v1/events" {
			running.Store(&cancel)
		}
		if q.URL.Path == "/api/v1/events" && q.Header.Get("Authorization") == "" {
			select { // a request without a key is held until there is a key
			case <-signedIn:
			case <-q.Context().Done():
			}
		} else if q.Header.Get("Authorization") == "Bearer reads-only" {
			once.Do(func() { time.AfterFunc(100*time.Millisecond, func() { close(signedIn) }) })
		}
		api.ServeHTTP(rw, q.WithContext(ctx))
	})
	mux.HandleFunc("/module", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/wasm")
		rw.Write(loggingModule())
	})
	mux.HandleFunc("/edit", func(_ http.ResponseWriter,
		q *http.Request) {
		w.writeConfig(config(q.FormValue("max_attempts")))
	})
	mux.HandleFunc("/stop", func(http.ResponseWriter, *http.Request) {
		stopped.Store(true)
		(*running.Load())()
	})
	mux.HandleFunc("/hang", func(http.ResponseWriter, *http.Request) { hangs.Store(true) })
	mux.HandleFunc("/go", func(http.ResponseWriter, *http.Request) {
		stopped.Store(false)
		if hangs.Swap(false) {
			close(goesOn)
		}
	})
	mux.HandleFunc("/traffic", func(http.ResponseWriter, *http.Request) {
		for range 9 {
			w.get()
		}
	})
	r := visit(t, mux, visitor)
	require.Empty(t, r.Error, "after %q", r.Done)
	require.Len(t, r.Done, 73)
	_, inForce, _ := w.call("GET", "/config", "", "Authorization", "Bearer reads-only")
	require.Contains(t, string(inForce), `"gateway":"`+w.gateway+`"`)
	status, policy, _ := w.call("GET", "/retry/policy", "", "Authorization", "Bearer reads-only")
	require.Equal(t, 200, status)
	require.Contains(t, string(policy), `{"max_attempts":4,"backoff_strategy":"fixed","base_delay":0.1,`+
		`"multiplier":2,"max_backoff_delay":30,"jitter":false,"retry_status_codes":[503,429],"timeout":null,`+
		`"retry_non_idempotent":false,"failover_delay":null,`)
}

// dashboardOf returns a reverse proxy to the API at addr, which adds a script to the dashboard: /visitor.js. It sends
// the given Host.
func dashboardOf(addr, host string) *httputil.ReverseProxy {
	api := &httputil.ReverseProxy{Rewrite: func(q *httputil.ProxyRequest) {
		q.SetURL(&url.URL{Scheme: "http", Host: addr})
		q.Out.Host = host
	}}
	api.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Path != "/" {
			return nil
		}
		page, err := io.ReadAll(r.Body)
		page = append(page, "<script src=visitor.js type=module></script>"...)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(page)), int64(len(page))
		r.Header.Del("Content-Length")
		return err
	}
	return api
}

// visitReport is the report of a script: the steps that it has taken, and the error that ended it.
type visitReport struct {
	Done  []string
	Error string
}

// visit opens the dashboard in a browser. The parameter mux serves the dashboard in a folder. The result is the report
// of the script.
func visit(t *testing.T, mux *http.ServeMux, script []byte) visitReport {
	reports := make(chan visitReport, 1)
	mux.HandleFunc("/visitor.js", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/javascript")
		rw.Write(script)
	})
	mux.HandleFunc("/report", func(_ http.ResponseWriter, q *http.Request) {
		var r visitReport
		json.NewDecoder(q.Body).Decode(&r)
		reports <- r
	})
	server := httptest.NewServer(http.StripPrefix("/whirlpool", mux))
	defer server.Close()

	said := &coretest.Log{}
	browser := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run",
		"--window-size=500,9000", // so that the whole page is visible
		"--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", server.URL+"/whirlpool/")
	browser.Stdout, browser.Stderr = said, said
	browser.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // because the browser consists of many processes
	require.NoError(t, browser.Start())
	defer func() {
		syscall.Kill(-browser.Process.Pid, syscall.SIGKILL)
		browser.Wait()
	}()
	select {
	case r := <-reports:
		return r
	case <-time.After(5 * eventTimeout):
		t.Fatalf("the script does not report; the browser says:\n%s", said)
	}
	return visitReport{}
}

// scroller is a script that scrolls, searches and sorts a large pool.
//
//go:embed testdata/scroller.js
var scroller []byte

// The dashboard of a pool of 5,000 proxies requests and draws only the visible rows. A poll of these rows takes at most
// 50 KB. (Earlier, each poll requested the whole pool: 22 MB a minute and more.)
// A scroll makes no new elements. (Earlier, it made or moved all rows at each step: tasks of 50 to 150 ms.)
func TestTheDashboardOfALargePool(t *testing.T) {
	const proxies = 5000
	w := start(t, 0, "")
	w.stop()
	var list strings.Builder
	for i := range proxies {
		fmt.Fprintf(&list, "http://127.1.%d.%d:9#id=p%04d&region=%s\n", i/250, 1+i%250, i, []string{"us", "eu"}[i%2])
	}
	file := filepath.Join(w.dir, "list.txt")
	require.NoError(t, os.WriteFile(file, []byte(list.String()), 0o600))
	w.startProcess("--proxies", file)
	var largest atomic.Int64
	api := dashboardOf(w.api, w.api) // without a key, the API accepts only its own address
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, q *http.Request) {
		counted := &countingWriter{ResponseWriter: rw}
		api.ServeHTTP(counted, q)
		if path := q.URL.Path; path == "/api/v1/proxies" || path == "/api/v1/circuit-breakers" {
			largest.Store(max(largest.Load(), counted.n))
		}
	})
	r := visit(t, mux, scroller)
	require.Empty(t, r.Error, "after %q", r.Done)
	require.Len(t, r.Done, 11)
	require.Less(t, largest.Load(), int64(50_000))
}

// countingWriter counts the bytes of a response's body.
type countingWriter struct {
	http.ResponseWriter
	n int64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	w.n += int64(len(b))
	return w.ResponseWriter.Write(b)
}

func (w *countingWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }
