package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// The pool changes while a retry waits and while an attempt is in flight.
func TestS67ThePoolChangesDuringARetry(t *testing.T) {
	t.Parallel()
	w := start(t, 2, strings.Replace(confK, "0.1", "3", 1))
	waiting := func() <-chan response { // sends a request, which then waits for its first retry
		before := w.arrivals()
		got := make(chan response, 1)
		go func() { got <- w.get() }()
		eventually(t, "the first try", func() bool { return w.arrivals() == before+1 })
		return got
	}
	w.setAll(lab.Status(503))
	got := waiting() // the first attempt was through F1
	w.fakes[1].SetBehaviour(lab.OK())
	status, _, _ := w.call("DELETE", "/proxies/F2", "")
	require.Equal(t, 204, status)
	a := <-got
	require.Equal(t, 503, a.status, "the proxy that would have helped is gone")
	require.Equal(t, "F1", a.proxy())
	require.Zero(t, w.fakes[1].Count())

	got = waiting()
	status, body, _ := w.call("POST", "/proxies", `{"id":"new","url":"http://`+w.fakes[1].Addr+`"}`)
	require.Equal(t, 201, status, "%s", body)
	a = <-got
	require.Equal(t, 200, a.status, "one that came during the wait is chosen")
	require.Equal(t, "new", a.proxy())

	hold := make(chan struct{})
	w.fakes[1].SetBehaviour(lab.Behaviour{WaitFor: hold})
	w.fakes[0].SetBehaviour(lab.OK())
	running := make(chan response, 1)
	before := w.fakes[1].Count()
	go func() {
		a := w.get()
		for a.proxy() != "new" {
			a = w.get()
		}
		running <- a
	}()
	eventually(t, "an attempt runs", func() bool { return w.fakes[1].Count() > before })
	status, _, _ = w.call("DELETE", "/proxies/new?drain=true", "")
	require.Equal(t, 204, status)
	require.Equal(t, true, w.getJSON("/proxies/new")["draining"])
	for range 4 {
		require.Equal(t, "F1", w.get().proxy(), "nothing new goes through it")
	}
	close(hold)
	require.Equal(t, 200, (<-running).status, "what runs finishes")
	eventually(t, "it leaves", func() bool { s, _, _ := w.call("GET", "/proxies/new", ""); return s == 404 })

	w.fakes[0].SetBehaviour(lab.Status(503))
	got = waiting()
	w.call("DELETE", "/proxies/F1?drain=true", "")
	a = <-got
	require.Equal(t, 503, a.status)
	require.Equal(t, "pool_empty", a.outcome(), "no proxy is left in mid-request")
	require.Equal(t, "pool_empty", w.get().outcome())
}

// A reload keeps breakers, statistics and requests in flight. If the address of a proxy changes, a reload keeps none
// of them for this proxy.
func TestS69WhatAReloadKeeps(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confK)
	f1, f2 := w.fakes[0], w.fakes[1]
	f1.SetBehaviour(lab.Status(503))
	for range 6 {
		w.get(overrideHeader("max_attempts=1")...)
	}
	metrics, breaker := w.getJSON("/metrics/retries"), w.breaker("F1")
	reload := func(config, what string, done func() bool) {
		t.Helper()
		w.writeConfig(config)
		begin := time.Now()
		eventually(t, what, done)
		require.Less(t, time.Since(begin), time.Second+tolerance(begin))
	}
	threshold := func(n float64) func() bool {
		return func() bool { return w.breaker("F1")["failure_threshold"] == n }
	}
	conf := func(threshold string) string { return strings.Replace(confK, "1000000", threshold, 1) }
	reload(conf("7"), "new threshold", threshold(7))
	require.Equal(t, metrics, w.getJSON("/metrics/retries"))
	require.Equal(t, 3.0, w.breaker("F1")["failure_count"])
	require.Equal(t, breaker["last_state_change"], w.breaker("F1")["last_state_change"])
	require.Equal(t, 3.0, w.getJSON("/proxies/F1")["samples"])
	reload(conf("2"), "a lower threshold", threshold(2))
	require.Equal(t, "closed", w.breaker("F1")["state"], "nothing opens in retrospect")
	w.requestUntilArrivals(f1, 1)
	require.Equal(t, "open", w.breaker("F1")["state"], "but with the next failure")

	// A proxy with another address is a new proxy. A proxy that is removed and added again has a new breaker and
	// new statistics.
	f1.Addr, f2.Addr = f2.Addr, f1.Addr
	reload(conf("1000000"), "addresses swapped", func() bool { return w.breaker("F1")["state"] == "closed" })
	f1.Addr, f2.Addr = f2.Addr, f1.Addr
	reload(conf("1000001"), "and back", threshold(1000001))
	require.Equal(t, 0.0, w.breaker("F1")["failure_count"])

	// A request in flight keeps its policy.
	f2.SetBehaviour(lab.Status(503))
	w.putPolicy(`{"base_delay":3,"max_attempts":2}`)
	got := make(chan response, 1)
	go func() { got <- w.get() }()
	eventually(t, "it waits", func() bool { return len(w.getJSON("/requests?state=waiting")["requests"].([]any)) == 1 })
	reload(strings.Replace(conf("1000000"), "0.1", "0.2", 1), "new policy",
		func() bool { return w.getJSON("/retry/policy")["base_delay"] == 0.2 })
	require.Equal(t, "file", w.getJSON("/retry/policy")["source"], "the file's [retry] changed: it wins over PUT")
	a := <-got
	require.Equal(t, "2", a.attempts())
	require.GreaterOrEqual(t, a.duration, 3*time.Second)

	// Errors that only the engine or the plugins find also have file, line, key and value.
	for text, want := range map[string]map[string]any{
		"[selection]\nretry = \"nope\"\n":       {"key": "selection.retry", "line": 2.0, "value": `"nope"`},
		"[retry]\nbackoff_strategy = \"no\"\n":  {"key": "retry.backoff_strategy", "line": 2.0, "value": `"no"`},
		"[plugins.x]\npath = \"absent.wasm\"\n": {"key": "plugins.x.path", "line": 2.0},
	} {
		w.writeConfig(text)
		var fault map[string]any
		eventually(t, text, func() bool {
			faults := w.getJSON("/config")["reload"].(map[string]any)["faults"].([]any)
			if len(faults) == 1 {
				fault = faults[0].(map[string]any)
			}
			return fault["key"] == want["key"]
		})
		require.Equal(t, w.configFile, fault["file"])
		for name, v := range want {
			require.Equal(t, v, fault[name], text)
		}
	}
	w.writeConfig(confK)
	eventually(t, "a good one again",
		func() bool { return w.getJSON("/config")["reload"].(map[string]any)["ok"] == true })
}

// Kubernetes replaces a symbolic link to a folder. Another file in the folder that changes all the time does
// not delay the reload.
func TestS69KubernetesAndABusyFolder(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	text, err := os.ReadFile(w.configFile)
	require.NoError(t, err)
	dir := filepath.Join(w.dir, "mounted")
	version := func(n int, delay string) {
		folder := fmt.Sprintf("..version%d", n)
		require.NoError(t, os.MkdirAll(filepath.Join(dir, folder), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, folder, "koanf.toml"),
			[]byte(strings.Replace(string(text), "0.1", delay, 1)), 0o600))
		require.NoError(t, os.Symlink(folder, filepath.Join(dir, "..tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
		os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..version%d", n-1)))
	}
	version(1, "0.2")
	w.configFile = filepath.Join(dir, "koanf.toml")
	require.NoError(t, os.Symlink("..data/koanf.toml", w.configFile))
	w.cmd.Process.Kill()
	w.cmd.Wait()
	w.startProcess()
	require.Equal(t, 0.2, w.getJSON("/retry/policy")["base_delay"])
	f, err := os.Create(filepath.Join(dir, "busy.log"))
	require.NoError(t, err)
	defer f.Close()
	stop := coretest.RunConcurrently(1, func(int) {
		fmt.Fprintln(f, "a line")
		time.Sleep(3 * time.Millisecond)
	})
	for n := 2; n < 5; n++ {
		delay := fmt.Sprintf("0.%d", n+1)
		version(n, delay)
		begin := time.Now()
		eventually(t, "version "+delay, func() bool {
			return fmt.Sprint(w.getJSON("/retry/policy")["base_delay"]) == delay
		})
		require.Less(t, time.Since(begin), time.Second+tolerance(begin))
	}
	stop()
}

// A reload changes timeouts.connect.
func TestS69TheConnectTimeoutIsReloaded(t *testing.T) {
	t.Parallel()
	full := blackHole(t)
	conf := func(d string) string {
		return confK + "[timeouts]\nconnect = \"" + d + "\"\n[[proxies]]\nid = \"full\"\nurl = \"http://" + full +
			"\"\n"
	}
	w := start(t, 0, conf("10s"))
	w.writeConfig(conf("200ms"))
	eventually(t, "reloaded", func() bool { return strings.Contains(w.log.String(), "configuration reloaded") })
	a := w.get(overrideHeader("max_attempts=1")...)
	require.Equal(t, 504, a.status, a.body)
	requireTook(t, a, 0.2)
	require.Contains(t, a.header.Get("Proxy-Status"), "error=connection_timeout")
}

// blackHole returns an address that does not respond to a SYN, because the listener's queue of one is full.
func blackHole(t *testing.T) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
}

// Each route accepts the methods in openapi.json and no others. Each error response is JSON of the same form.
// A 405 has an Allow field, and a response to HEAD has no body.
func TestS13EveryRouteEveryMethod(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[[api.keys]]\nname = \"a\"\nkey = \"adminkey1234\"\nrole = \"admin\"\n[[api.keys]]\n"+
		"name = \"r\"\nkey = \"readkey12345\"\nrole = \"read\"\n")
	admin, read := []string{"Authorization", "Bearer adminkey1234"}, []string{"Authorization", "Bearer readkey12345"}
	_, doc, _ := w.call("GET", "/openapi.json", "")
	var spec struct{ Paths map[string]map[string]any }
	require.NoError(t, json.Unmarshal(doc, &spec))
	require.Greater(t, len(spec.Paths), 20)
	fails := func(body []byte, h map[string][]string) {
		t.Helper()
		var e struct{ Error, Message string }
		require.NoError(t, json.Unmarshal(body, &e), "%s", body)
		require.Regexp(t, `^[a-z][a-z0-9_]*$`, e.Error)
		require.NotEmpty(t, e.Message)
		require.Equal(t, []string{"application/json"}, h["Content-Type"])
	}
	for path, methods := range spec.Paths {
		path = strings.NewReplacer("{id}", "F1", "{name}", "linear").Replace(path)
		public := path == "/healthz" || path == "/readyz" || path == "/openapi.json"
		_, get := methods["get"]
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			_, known := methods[strings.ToLower(m)]
			known = known || m == "HEAD" && get
			status, _, h := w.call(m, path, "")
			require.Equal(t, "no-store", h.Get("Cache-Control"), "%s %s", m, path)
			if !public {
				require.Equal(t, 401, status, "%s %s without a key", m, path)
				require.Equal(t, "Bearer", h.Get("WWW-Authenticate"))
			}
			if m != "GET" && m != "HEAD" {
				status, body, h := w.call(m, path, "", read...)
				switch {
				case m == "POST" && path == "/retry/policy/preview": // changes nothing
					require.Equal(t, 415, status, "the call has no Content-Type")
				case !public:
					require.Equal(t, 403, status, "%s %s with a read key", m, path)
				}
				fails(body, h)
			}
			if !known {
				status, body, h := w.call(m, path, "", admin...)
				require.Equal(t, 405, status, "%s %s", m, path)
				for allowed := range methods {
					if allowed != "parameters" {
						require.Contains(t, h.Get("Allow"), strings.ToUpper(allowed), path)
					}
				}
				if m == "HEAD" {
					require.Empty(t, body)
				} else {
					fails(body, h)
				}
			}
		}
		status, body, h := w.call("FOO", path, "", admin...)
		require.Equal(t, 405, status)
		require.Contains(t, string(body), "FOO")
		require.NotEmpty(t, h.Get("Allow"))
		fails(body, h)
	}
}

// The test adds, changes, drains and removes proxies while twenty clients send requests. No request fails, draining
// proxies leave the pool, and all counts agree.
func TestS67ThePoolChangesUnderLoad(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confK)
	for i := range 3 {
		f, err := lab.Start(fmt.Sprintf("X%d", i), "127.0.0.1:0", lab.Always(lab.Slow(2*time.Millisecond)))
		require.NoError(t, err)
		t.Cleanup(f.Close)
		w.fakes = append(w.fakes, f)
	}
	x := w.fakes[2:]
	stop := coretest.RunConcurrently(20, func(int) {
		if a := w.get(); a.status != 200 || a.err != nil {
			t.Errorf("%+v", a)
		}
	})
	for range 5 {
		for _, c := range []struct {
			method, path, body string
			want               int
		}{
			{"POST", "/proxies", fmt.Sprintf(`{"proxies":[{"id":"X0","url":"http://%s"},{"id":"X1",`+
				`"url":"http://%s"},{"id":"X2","url":"http://%s"}]}`, x[0].Addr, x[1].Addr, x[2].Addr), 201},
			{"PATCH", "/proxies/X1", `{"weight":2}`, 200},
			{"PATCH", "/proxies/X2", `{"url":"http://` + x[0].Addr + `"}`, 200},
			{"PATCH", "/proxies/F1", `{"max_in_flight":5}`, 200},
			{"PATCH", "/proxies/F1", `{"max_in_flight":0}`, 200},
			{"DELETE", "/proxies/X0?drain=true", "", 204},
			{"DELETE", "/proxies/X1", "", 204},
			{"DELETE", "/proxies/X2?drain=true", "", 204},
			{"POST", "/config/reload", "", 200},
			{"PUT", "/retry/policy", `{"max_attempts":4}`, 200},
		} {
			status, body, _ := w.call(c.method, c.path, c.body)
			require.Equal(t, c.want, status, "%s %s: %s", c.method, c.path, body)
		}
		eventually(t, "all that drains leaves",
			func() bool { return len(w.getJSON("/proxies")["proxies"].([]any)) == 2 })
	}
	stop()
	w.reconcile(0)
}
