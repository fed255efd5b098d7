package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// curl and python3-requests use the gateway in the usual ways.
func TestRealClients(t *testing.T) {
	w := start(t, 3, confK)
	w.fakes[0].SetBehaviour(lab.Status(503))
	origin, err := lab.Start("origin", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(origin.Close)
	for _, args := range [][]string{
		{"-x", "http://" + w.gateway, "http://origin.test/"},
		{"-x", "http://" + w.gateway, "--proxytunnel", "http://" + origin.Addr + "/"},
		{"-x", "http://" + w.gateway, "-d", "a=b", "-H", "X-Whirlpool-Retry: retry_non_idempotent",
			"http://origin.test/"},
	} {
		out, err := exec.Command("curl", append([]string{"-sSf", "-m", "10"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
	script := `import requests, sys
p = {"http": "http://` + w.gateway + `"}
s = requests.Session()
for i in range(20):
    r = s.get("http://origin.test/", proxies=p, timeout=10)
    assert r.status_code == 200, r.status_code
    assert int(r.headers["X-Whirlpool-Attempts"]) in (1, 2)
h = {"X-Whirlpool-Retry": "retry_non_idempotent"}
r = s.post("http://origin.test/", data=b"x" * 100000, proxies=p, headers=h, timeout=10)
assert r.status_code == 200, (r.status_code, r.text, dict(r.headers))
print("ok")`
	out, err := exec.Command("/usr/bin/python3", "-c", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	w.reconcile(0)
}

// Clients show only the status line of a refused CONNECT, so the status line has the reason.
func TestARefusedTunnelHasAReason(t *testing.T) {
	w := start(t, 1, "[retry]\nbase_delay = 0.1\n[breaker]\nfailure_threshold = 4\n")
	w.fakes[0].Close()
	script := `import requests
try:
    requests.get("https://origin.test/", proxies={"https": "http://` + w.gateway + `"}, timeout=10)
except requests.exceptions.ProxyError as e:
    print(e)`
	shown := func() string {
		out, err := exec.Command("/usr/bin/python3", "-c", script).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Contains(t, shown(), "Tunnel connection failed: 502 Bad Gateway: no proxy brought an answer: attempt")
	require.Contains(t, shown(), "Tunnel connection failed: 503 Service Unavailable: no proxy is admissible: every "+
		"circuit breaker is open")
}

// The commands of the README work line by line with the demo.
func TestTheTour(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, tour, ok := strings.Cut(string(readme), "## Five minutes")
	require.True(t, ok)
	tour, _, _ = strings.Cut(tour, "## ")
	w := &whirl{t: t, dir: t.TempDir(), log: &coretest.Log{}, gateway: freePort(t), api: freePort(t)}
	w.configFile = filepath.Join(w.dir, "koanf.toml")
	require.NoError(t, os.WriteFile(w.configFile, nil, 0o600))
	w.startProcess("--demo")
	lines := regexp.MustCompile(`(?m)^    (curl .*?)(?: +#.*)?$`).FindAllStringSubmatch(tour, -1)
	require.Len(t, lines, 5)
	for _, l := range lines {
		line := strings.NewReplacer("127.0.0.1:8888", w.gateway, "127.0.0.1:8889", w.api).Replace(l[1])
		if !strings.Contains(line, "max_attempts=1") { // with one attempt the request may go to the proxy that refuses
			line += " -f"
		}
		out, err := exec.Command("sh", "-c", line+" -sS -m 10").CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, out)
	}
	page, err := http.Get("http://" + w.api + "/")
	require.NoError(t, err)
	defer page.Body.Close()
	require.Equal(t, 200, page.StatusCode)
	printed := regexp.MustCompile(`try +(curl .*)`).FindStringSubmatch(w.log.String())
	require.Len(t, printed, 2)
	for range 20 {
		out, err := exec.Command("sh", "-c", printed[1]+" -f -sS -m 10").CombinedOutput()
		require.NoError(t, err, "%s", out)
		// the same with https, which a newcomer tries next
		tunnel := strings.Replace(printed[1], "http://demo", "https://demo", 1) + " -k -f -sS -m 10"
		out, err = exec.Command("sh", "-c", tunnel).CombinedOutput()
		require.NoError(t, err, "%s\n%s", tunnel, out)
		socks := strings.Replace(printed[1], "-x http://", "--socks5-hostname ", 1) + " -f -sS -m 10"
		out, err = exec.Command("sh", "-c", socks).CombinedOutput()
		require.NoError(t, err, "%s\n%s", socks, out)
	}
}

func TestConfigCheckNamesEveryFault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.toml")
	require.NoError(t, os.WriteFile(file, []byte("[retry]\nmax_attempts = 11\n[gateway]\nlisen = \"a\"\n[[proxies]]\n"+
		"url = \"ftp://u:hunter2secret@h\"\n[api]\nlisten = \"0.0.0.0:1\"\n"), 0o600))
	out, err := exec.Command(binary, "config", "check", file).CombinedOutput()
	require.Error(t, err)
	for _, want := range []string{":2: retry.max_attempts = 11", ":4: gateway.lisen", ":6: proxies[0].url",
		":8: api.listen", "api.keys"} {
		require.Contains(t, string(out), want)
	}
	require.NotContains(t, string(out), "hunter2secret")
	out, err = exec.Command(binary, "config", "check", "../koanf.toml").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// With format = "json", each line on standard output and standard error is a JSON record, also at the start.
func TestEveryLineIsARecord(t *testing.T) {
	w := start(t, 1, "[log]\nformat = \"json\"\nlevel = \"debug\"\n")
	w.fakes[0].SetBehaviour(lab.Status(503))
	w.get(overrideHeader("max_attempts=2, base_delay=0.1")...)
	require.NoError(t, w.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, w.cmd.Wait())
	var messages []any
	for line := range strings.Lines(w.log.String()) {
		var record map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &record), line)
		messages = append(messages, record["msg"])
		if record["msg"] == "listening" {
			require.Equal(t, []any{w.gateway, w.api, 1.0}, []any{record["gateway"], record["api"], record["proxies"]})
		}
	}
	require.Contains(t, messages, "listening")
	require.Contains(t, messages, "draining")
}

func TestListsAreWatched(t *testing.T) {
	w := start(t, 2, "")
	list := filepath.Join(w.dir, "list.txt")
	require.NoError(t, os.WriteFile(list, []byte("# mine\nnonsense\n127.0.0.1:7:u:hunter2secret\n"), 0o600))
	w.writeConfig("[pool]\nfiles = [\"list.txt\"]\n")
	eventually(t, "the list is read", func() bool { return len(w.getJSON("/proxies")["proxies"].([]any)) == 3 })
	eventually(t, "the bad line is named", func() bool { return strings.Contains(w.log.String(), "list.txt:2:") })
	require.NoError(t, os.WriteFile(list, []byte("127.0.0.1:7:u:hunter2secret\n127.0.0.1:8\n"), 0o600))
	eventually(t, "the list is read again", func() bool { return len(w.getJSON("/proxies")["proxies"].([]any)) == 4 })
}

func TestUsers(t *testing.T) {
	w := start(t, 1, confK+"[[gateway.users]]\nname = \"ann\"\npassword = \"open sesame\"\n")
	a := w.get()
	require.Equal(t, 407, a.status)
	require.Contains(t, a.header.Get("Proxy-Authenticate"), "Basic")
	out, err := exec.Command("curl", "-sSf", "-x", "http://ann:open%20sesame@"+w.gateway,
		"http://origin.test/").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, w.fakes[0].Arrivals()[0].Header.Get("Proxy-Authorization"), "YW5u",
		"the client's login stays here")
}

// 256 MiB in each direction need little memory. A whole GiB also passes, but takes minutes with the race
// detector.
func TestLargeBodiesStream(t *testing.T) {
	w := start(t, 1, confK)
	const size = 256 << 20
	w.setAll(lab.Behaviour{Size: size})
	w.get()
	before := resident(t, w.cmd.Process.Pid, "VmRSS")
	r, err := w.client.Get("http://origin.test/")
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, r.Body)
	r.Body.Close()
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	w.setAll(lab.OK())
	q, err := http.NewRequest("POST", "http://origin.test/", io.LimitReader(endless{}, size))
	require.NoError(t, err)
	r, err = w.client.Do(q)
	require.NoError(t, err)
	r.Body.Close()
	require.Equal(t, 200, r.StatusCode)
	all := w.fakes[0].Arrivals()
	require.EqualValues(t, size, all[len(all)-1].Length)
	require.Less(t, resident(t, w.cmd.Process.Pid, "VmHWM")-before, 32<<10, "KiB, at the peak")
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// resident returns a process's resident memory in KiB: the current size (VmRSS) or the peak (VmHWM).
func resident(t *testing.T, pid int, which string) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	m := regexp.MustCompile(which + `:\s+(\d+) kB`).FindSubmatch(status)
	n, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return n
}

// If a body ends early at the proxy, the client gets a broken transfer and no regular end.
func TestATruncatedBodyBreaksTheTransfer(t *testing.T) {
	w := start(t, 1, confK)
	w.setAll(lab.Behaviour{CutAfter: 100})
	a := w.get()
	require.Equal(t, 200, a.status)
	require.Error(t, a.err)
	require.Equal(t, 1.0, w.breaker("F1")["failure_count"])
	require.Equal(t, 1, w.arrivals(), "nothing is retried once a byte has gone out")
	eventually(t, "the log says so", func() bool {
		return strings.Contains(w.log.String(),
			"reason=http_response_incomplete")
	})
	w.reconcile(0)
}

// An uploaded module chooses the proxies of the running gateway.
func TestAPluginIsUploadedAndActivated(t *testing.T) {
	w := start(t, 3, confK)
	code, err := os.ReadFile("../plugins/builtin/weighted.wasm")
	require.NoError(t, err)
	status, body := w.upload("POST", "mine", code)
	require.Equal(t, 201, status, body)
	status, body = w.upload("POST", "broken", code[:50])
	require.Equal(t, 422, status, body)
	status, b, _ := w.call("POST", "/plugins/mine/test", "{}")
	require.Equal(t, 200, status, "%s", b)
	status, b, _ = w.call("POST", "/plugins/mine/activate", `{"for":"first"}`)
	require.Equal(t, 200, status, "%s", b)
	for range 20 {
		require.Equal(t, 200, w.get().status)
	}
	p := w.getJSON("/plugins/mine")
	require.Equal(t, 20.0, p["calls"])
	require.Equal(t, []any{"first"}, p["used_for"])
	status, _, _ = w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 409, status, "it is in use")
	status, body = w.upload("PUT", "mine", code)
	require.Equal(t, 200, status, body)
	status, b, _ = w.call("POST", "/plugins/mine/rollback", "")
	require.Equal(t, 200, status, "%s", b)
	require.Equal(t, 200, w.get().status)
	status, _, _ = w.call("POST", "/plugins/mine/activate", `{"for":"backoff"}`)
	require.Equal(t, 422, status)
}

// If the reader of the log ends, the gateway continues without it.
func TestTheReaderOfTheLogEnds(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	w.cmd.Process.Kill()
	w.cmd.Wait()
	r, sink, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(binary, "serve", "--config", w.configFile, "--listen", w.gateway, "--api", w.api)
	cmd.Stdout, cmd.Stderr = sink, sink
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	sink.Close()
	eventually(t, "it runs", func() bool { return w.canGet("/healthz") })
	r.Close()
	w.setAll(lab.Status(503))
	for range 3 { // each of these requests is logged
		require.Equal(t, 503, w.get(overrideHeader("max_attempts=2")...).status)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "exit 0")
}

func (w *whirl) canGet(path string) bool {
	r, err := http.Get("http://" + w.api + path)
	if err == nil {
		r.Body.Close()
	}
	return err == nil
}

// The API lists a tunnel as in flight until it ends.
func TestATunnelIsListedUntilItEnds(t *testing.T) {
	w := start(t, 1, confK)
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { origin.Close() })
	status, h, c := w.connect(origin.Addr().String())
	require.Equal(t, 200, status)
	id := "/requests/" + h.Get("X-Whirlpool-Request-Id")
	eventually(t, "a tunnel", func() bool { return w.getJSON(id)["state"] == "tunnel" })
	require.Nil(t, w.getJSON(id)["finished_at"])
	require.Len(t, w.getJSON("/requests?state=tunnel")["requests"], 1)
	c.Close()
	there, err := origin.Accept()
	require.NoError(t, err)
	there.Close()
	eventually(t, "its end", func() bool { return w.getJSON(id)["state"] == "done" })
	require.Equal(t, "success", w.getJSON(id)["outcome"])
	w.reconcile(0)
}
