package integration

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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

// rounds returns the number of repetitions of a test: few, or the value of the environment variable.
func rounds(t *testing.T, variable string, few int) int {
	if text := os.Getenv(variable); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		return n
	}
	return few
}

// tryAPI sends a request to the API. ok is false if there was no response.
func (w *whirl) tryAPI(method, path, body string) (status int, answer string, ok bool) {
	q, err := http.NewRequest(method, "http://"+w.api+"/api/v1"+path, strings.NewReader(body))
	require.NoError(w.t, err)
	q.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, "", false
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, string(text), err == nil
}

// kept are the weights of proxies, and max_attempts of the policy, that the gateway's responses have
// confirmed.
type kept map[string]float64

const policyName = "the policy"

func (w *whirl) kept() kept {
	out := kept{policyName: w.getJSON("/retry/policy")["max_attempts"].(float64)}
	for _, p := range w.getJSON("/proxies")["proxies"].([]any) {
		proxy := p.(map[string]any)
		out[proxy["id"].(string)] = proxy["weight"].(float64)
	}
	return out
}

// change makes a random change and returns what it changes, and whether there was a response of status 2xx.
func (w *whirl) change(r *rand.Rand, now kept) (name string, value float64, ok bool) {
	name, value = fmt.Sprintf("n%d", r.IntN(6)), float64(r.IntN(1000)+1)
	if r.IntN(4) == 0 {
		name = fmt.Sprintf("F%d", r.IntN(2)+1) // a proxy of the configuration
	}
	_, there := now[name]
	var status int
	switch n := r.IntN(5); {
	case n == 0:
		name, value = policyName, float64(r.IntN(10)+1)
		status, _, ok = w.tryAPI("PUT", "/retry/policy", fmt.Sprintf(`{"max_attempts":%v}`, value))
	case there && n == 1:
		value = 0
		status, _, ok = w.tryAPI("DELETE", "/proxies/"+name+"?drain="+strconv.FormatBool(r.IntN(2) == 0), "")
	case there:
		status, _, ok = w.tryAPI("PATCH", "/proxies/"+name, fmt.Sprintf(`{"weight":%v}`, value))
	default:
		status, _, ok = w.tryAPI("POST", "/proxies",
			fmt.Sprintf(`{"id":%q,"url":"http://u:hunter2secret@127.0.0.1:9","weight":%v}`, name, value))
	}
	require.True(w.t, !ok || status < 300, "%s %d", name, status)
	return name, value, ok
}

// If the process is killed at any moment, no change with a response of status 2xx is lost. WHIRLPOOL_KILLS
// sets the number of kills.
func TestNoKillLosesAConfirmedChange(t *testing.T) {
	w := start(t, 2, confK)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig(confK)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	w.startProcess()
	now, answered := w.kept(), 0
	kills := rounds(t, "WHIRLPOOL_KILLS", 12)
	for i := range kills {
		killed := make(chan struct{})
		time.AfterFunc(time.Duration(r.IntN(60_000))*time.Microsecond, func() {
			w.cmd.Process.Kill()
			close(killed)
		})
		var name string // name of the change without a response
		var value float64
		for ok := true; ok; {
			if name, value, ok = w.change(r, now); !ok {
				break
			}
			answered++
			if now[name] = value; value == 0 {
				delete(now, name)
			}
		}
		<-killed
		w.cmd.Wait()
		w.startProcess()
		got := w.kept()
		if got[name] != now[name] { // a change without a response may have been made
			require.Equal(t, value, got[name], "kill %d: %s", i, name)
			if now[name] = value; value == 0 {
				delete(now, name)
			}
		}
		require.Equal(t, now, got, "kill %d", i)
	}
	require.NotContains(t, w.log.String(), "damaged")
	t.Logf("%d kills, %d answered changes, none lost", kills, answered)
}

// A process that is killed loses at most the metrics of the last few seconds. A process that ends by a
// signal loses none.
func TestMetricsSurvive(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig(confK)
	w.startProcess()
	for range 7 {
		require.Equal(t, 200, w.get().status)
	}
	requests := func() float64 { return w.getJSON("/metrics/retries")["total_requests"].(float64) }
	eventually(t, "they are written", func() bool {
		text, err := os.ReadFile(filepath.Join(w.stateDir, "metrics"))
		return err == nil && strings.Contains(string(text), `"minutes"`)
	})
	w.kill()
	w.startProcess()
	require.Equal(t, 7.0, requests())
	require.Equal(t, 200, w.get().status)
	w.stop()
	w.startProcess()
	require.Equal(t, 8.0, requests())
	require.Equal(t, "closed", w.breaker("F1")["state"])
	require.Equal(t, 0.0, w.getJSON("/proxies/F1")["samples"], "statistics begin anew")
}

// The state folder is the configured or the default one. One process uses it at a time, and damaged files are copied.
func TestTheStateFolder(t *testing.T) {
	w := start(t, 1, confK)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig(confK)
	w.startProcess()
	w.putPolicy(`{"max_attempts":7}`)
	status, body, _ := w.call("POST", "/proxies", `{"id":"n","url":"http://u:hunter2secret@127.0.0.1:9"}`)
	require.Equal(t, 201, status, "%s", body)
	status, _, _ = w.call("POST", "/proxies", `{"id":"m","url":"http://127.0.0.1:9","persist":false}`)
	require.Equal(t, 201, status)

	// A second process is refused, and its error names the first. The default folder is not used then.
	out, errs, code := command(t, "serve", "--config", w.configFile, "--listen", freePort(t), "--api", freePort(t))
	require.Equal(t, 1, code, out)
	require.Contains(t, errs, fmt.Sprintf("state is in use by process %d on host ", w.cmd.Process.Pid))

	// A damaged line is reported, and everything else is read.
	w.kill()
	path := filepath.Join(w.stateDir, "changes")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := strings.SplitAfter(string(text), "\n")
	require.NoError(t, os.WriteFile(path, []byte(lines[0]+"x"+strings.Join(lines[1:], "")), 0o600))
	w.startProcess()
	require.Equal(t, 3.0, w.getJSON("/retry/policy")["max_attempts"], "this line was damaged")
	status, _, _ = w.call("GET", "/proxies/n", "")
	require.Equal(t, 200, status)
	status, _, _ = w.call("GET", "/proxies/m", "")
	require.Equal(t, 404, status, "it was not to persist")
	copies, err := filepath.Glob(path + ".damaged-*")
	require.NoError(t, err)
	require.Len(t, copies, 1)
	eventually(t, "the log names the copy", func() bool { return strings.Contains(w.log.String(), copies[0]) })

	// state show and clear
	out, errs, code = command(t, "state", "show", "--to", "http://"+w.api)
	require.Equal(t, 0, code, errs)
	require.Contains(t, out, "proxy/n")
	_, errs, code = command(t, "state", "clear", "--key", "proxy/n", "--to", "http://"+w.api)
	require.Equal(t, 0, code, errs)
	w.kill()
	w.startProcess()
	status, _, _ = w.call("GET", "/proxies/n", "")
	require.Equal(t, 404, status)
	w.stop()

	// If a configured folder is a file, the gateway does not start.
	w.stateDir = w.configFile
	w.writeConfig(confK)
	_, errs, code = command(t, "serve", "--config", w.configFile, "--listen", freePort(t), "--api", freePort(t))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "state.dir")

	// The default folder is beside the configuration file. If it cannot be used, there is a warning.
	conf, err := os.ReadFile(w.configFile)
	require.NoError(t, err)
	conf, _, _ = cutState(conf)
	require.NoError(t, os.WriteFile(w.configFile, conf, 0o600))
	w.startProcess()
	w.putPolicy(`{"max_attempts":6}`)
	w.kill()
	w.startProcess()
	require.Equal(t, 6.0, w.getJSON("/retry/policy")["max_attempts"])
	w.kill()
	require.NoError(t, os.RemoveAll(w.configFile+".state"))
	require.NoError(t, os.WriteFile(w.configFile+".state", nil, 0o600))
	w.startProcess()
	w.putPolicy(`{"max_attempts":6}`)
	eventually(t, "it is warned of", func() bool {
		return strings.Contains(w.log.String(), "the default of state.dir cannot be used")
	})
}

// cutState removes the section [state], which whirl.write puts at the end.
func cutState(conf []byte) (before, after []byte, found bool) {
	text, rest, found := strings.Cut(string(conf), "\n[state]\n")
	return []byte(text), []byte(rest), found
}

// Without a configuration file nothing is kept, which a log record states at the start.
func TestWithoutAFileNothingIsKept(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "proxies.txt")
	require.NoError(t, os.WriteFile(list, []byte("http://127.0.0.1:9\n"), 0o600))
	w := &whirl{t: t, dir: dir, log: &coretest.Log{}, gateway: freePort(t), api: freePort(t)}
	cmd := exec.Command(binary, "serve", "--proxies", list, "--listen", w.gateway, "--api", w.api)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, w.log, w.log
	require.NoError(t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	eventually(t, "it serves", func() bool { _, _, ok := w.tryAPI("GET", "/healthz", ""); return ok })
	eventually(t, "the log says so", func() bool {
		return strings.Contains(w.log.String(), "changes through the API last until the restart")
	})
	_, answer, _ := w.tryAPI("GET", "/state", "")
	require.JSONEq(t, `{"kept":false,"dir":"","changes":[]}`, answer)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1)
}

// After SIGTERM the readiness check fails at once, clients are served for drain_delay, and changes are refused.
func TestTheDelayBeforeADrain(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig(confK + "[gateway]\ndrain_delay = \"3s\"\n")
	w.startProcess()
	begin := time.Now()
	require.NoError(t, w.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "it is not ready", func() bool {
		status, _, _ := w.tryAPI("GET", "/readyz", "")
		return status == 503
	})
	for range 3 {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		fmt.Fprint(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		response, err := io.ReadAll(c) // returns when the connection ends
		require.NoError(t, err)
		require.Contains(t, string(response), "HTTP/1.1 200 OK\r\n")
		require.Contains(t, string(response), "Connection: close\r\n")
		c.Close()
	}
	status, answer, ok := w.tryAPI("PUT", "/retry/policy", `{"max_attempts":9}`)
	require.True(t, ok)
	require.Equal(t, 503, status)
	require.Contains(t, answer, "shutting_down")
	require.NoError(t, w.cmd.Wait())
	require.GreaterOrEqual(t, time.Since(begin), 3*time.Second)
	w.startProcess()
	require.Equal(t, 3.0, w.getJSON("/retry/policy")["max_attempts"])
}

// A new process gets the sockets and the state folder while clients send requests. No request is lost or
// refused. WHIRLPOOL_RESTARTS sets the number of restarts.
func TestRestartsUnderLoad(t *testing.T) {
	w := start(t, 1, confK)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig("[retry]\nmax_attempts = 1\n[breaker]\nblame = \"literal\"\n")
	w.fakes[0].SetBehaviour(lab.Slow(5 * time.Millisecond))
	var files []*os.File
	for _, at := range []string{w.gateway, w.api} {
		l, err := net.Listen("tcp", at)
		require.NoError(t, err)
		file, err := l.(*net.TCPListener).File()
		require.NoError(t, err)
		defer l.Close()
		files = append(files, file)
	}
	begin := func() *exec.Cmd {
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" serve --config "$1"`, binary, w.configFile)
		cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=gateway:api")
		cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = files, w.log, w.log
		require.NoError(t, cmd.Start())
		return cmd
	}
	serves := func(cmd *exec.Cmd) func() bool {
		line := "gateway    http://" + w.gateway
		return func() bool { return strings.Count(w.log.String(), line) > 0 && cmd.ProcessState == nil }
	}
	cmd := begin()
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	eventually(t, "it serves", serves(cmd))

	var sent, failed atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range 8 {
		transport := &http.Transport{
			Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: w.gateway}),
			DisableKeepAlives: i%2 == 0, MaxIdleConnsPerHost: 1,
		}
		clients.Go(func() {
			defer transport.CloseIdleConnections()
			for ctx.Err() == nil {
				r, err := (&http.Client{Transport: transport}).Get("http://origin.test/")
				sent.Add(1)
				if err != nil {
					failed.Add(1)
					t.Logf("client %d: %v", i, err)
					continue
				}
				text, err := io.ReadAll(r.Body)
				r.Body.Close()
				if err != nil || r.StatusCode != 200 {
					failed.Add(1)
					t.Logf("client %d: %d %s %v", i, r.StatusCode, text, err)
				}
			}
		})
	}
	restarts := rounds(t, "WHIRLPOOL_RESTARTS", 3)
	for i := range restarts {
		weight := float64(i + 1)
		var status int
		eventually(t, "a change is made", func() bool {
			status, _, _ = w.tryAPI("PATCH", "/proxies/F1", fmt.Sprintf(`{"weight":%v}`, weight))
			return status == 200
		})
		w.log.Reset()
		next := begin()
		eventually(t, "it waits for the state folder", func() bool {
			return strings.Contains(w.log.String(), "waiting for another process")
		})
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		eventually(t, "it serves", serves(next))
		require.NoError(t, cmd.Wait(), "%s", w.log)
		cmd = next
		var proxy struct{ Weight float64 }
		_, answer, _ := w.tryAPI("GET", "/proxies/F1", "")
		require.NoError(t, json.Unmarshal([]byte(answer), &proxy))
		require.Equal(t, weight, proxy.Weight, "restart %d", i)
	}
	stop()
	clients.Wait()
	require.Zero(t, failed.Load(), "of %d requests", sent.Load())
	t.Logf("%d restarts, %d requests, none lost or refused", restarts, sent.Load())
}

// A user's usage survives a restart and, except for the last few seconds, a kill.
func TestUsageSurvives(t *testing.T) {
	t.Parallel()
	waitPastMidnight()
	w := start(t, 1, confK)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig(confK + `
[[gateway.users]]
name = "ann"
password = "open sesame"
requests_per_day = 3
`)
	w.startProcess()
	login := base64.StdEncoding.EncodeToString([]byte("ann:open sesame"))
	get := func() int { return w.get("Proxy-Authorization", "Basic "+login).status }
	require.Equal(t, 200, get())
	w.stop()
	w.startProcess()
	require.Equal(t, 200, get())
	require.Equal(t, 200, get())
	require.Equal(t, 429, get())
	eventually(t, "it is written", func() bool {
		text, err := os.ReadFile(filepath.Join(w.stateDir, "metrics"))
		return err == nil && strings.Contains(string(text), `"requests":3`)
	})
	w.kill()
	w.startProcess()
	require.Equal(t, 429, get())
	require.Equal(t, 3.0, w.getJSON("/users")["users"].([]any)[0].(map[string]any)["requests_today"])
}

// A list has several lines with the same host and port, and changes while the gateway does not run. These lines keep
// their ids and changes.
func TestSharedHostAndPortSurvive(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	list := filepath.Join(w.dir, "list.txt")
	w.writeConfig(confK + fmt.Sprintf("[pool]\nfiles = [%q]\n", list))
	lines := func(users ...string) {
		text := ""
		for _, user := range users {
			text += "http://" + user + ":hunter2secret@127.0.0.1:9\n"
		}
		require.NoError(t, os.WriteFile(list, []byte(text), 0o600))
	}
	pool := func() kept {
		out := w.kept()
		delete(out, policyName)
		delete(out, "F1")
		return out
	}
	lines("a", "b", "c")
	w.startProcess()
	status, _, _ := w.call("DELETE", "/proxies/127.0.0.1:9-2", "")
	require.Equal(t, 204, status)
	status, _, _ = w.call("PATCH", "/proxies/127.0.0.1:9-3", `{"weight":4}`)
	require.Equal(t, 200, status)
	for _, step := range []struct {
		users []string
		want  kept
	}{
		{[]string{"b", "c"}, kept{"127.0.0.1:9-3": 4}},
		{[]string{"c", "x", "b", "a"}, kept{"127.0.0.1:9": 1, "127.0.0.1:9-3": 4, "127.0.0.1:9-4": 1}},
	} {
		w.kill()
		lines(step.users...)
		w.startProcess()
		require.Equal(t, step.want, pool(), step.users)
	}
	text, err := os.ReadFile(filepath.Join(w.stateDir, "ids"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "hunter2")
}
