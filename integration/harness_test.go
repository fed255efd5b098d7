// Package integration runs the real binary with scripted proxies on loopback. The tests have the numbers of
// their scenarios (docs/scenarios.md).
package integration

import (
	"bufio"
	"bytes"
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
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

var binary string

func TestMain(m *testing.M) {
	if addr := os.Getenv(controlEnv); addr != "" {
		controlProcess(addr)
		return
	}
	if err := machine.run(); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "whirlpool")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "whirlpool")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/whirlpool").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s", out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// whirl is a running gateway with its fakes.
type whirl struct {
	t          *testing.T
	dir        string
	stateDir   string // [state] dir in the configuration that writeConfig writes; "" for none
	configFile string
	gateway    string
	api        string
	fakes      []*lab.Proxy
	log        *coretest.Log
	cmd        *exec.Cmd
	client     *http.Client
	mayPanic   bool     // plugins panic, so the log may contain panics
	fileLimit  int      // limit of open files in the next run; 0 for the limit of the machine
	env        []string // additional environment variables of the gateway
}

// freePort begins to search at 10,000 + firstPort. portsTried is the number of ports that it has tried.
var (
	firstPort  = rand.IntN(portRange)
	portsTried atomic.Int64
)

const portRange = 22_000

// freePort returns an address on which nothing listens. The port is below the range of ports that the kernel assigns
// to outgoing connections (ip_local_port_range, from 32768 on). Otherwise an outgoing connection might use the port
// before the gateway does. No two calls return the same port.
func freePort(t *testing.T) string {
	for range 1000 {
		port := 10_000 + (firstPort+int(portsTried.Add(1)))%portRange
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port found")
	return ""
}

// The configurations of the scenarios (docs/scenarios.md). The function start turns timeouts.adaptive off for them.
const (
	confK = "[retry]\nbackoff_strategy = \"fixed\"\nbase_delay = 0.1\n" +
		"[breaker]\nblame = \"literal\"\nfailure_threshold = 1000000\n"
	confKB = "[retry]\nbackoff_strategy = \"fixed\"\nbase_delay = 0.1\nmax_attempts = 1\n" +
		"[breaker]\nblame = \"literal\"\nfailure_threshold = 5\nwindow_duration = \"2s\"\ntimeout_duration = \"1s\"\n"
)

// confOpen is confKB with times longer than a test: a breaker stays open, and its window holds all failures.
var confOpen = strings.NewReplacer(`"2s"`, `"10m"`, `"1s"`, `"10m"`).Replace(confKB)

// roundRobin makes first attempts use the proxies in turn, even if many requests are in flight.
const roundRobin = "[selection]\nfirst = \"round_robin\"\n"

// If a configuration contains notAdaptive, the function start turns timeouts.adaptive off. Then no attempt is cut
// short, however slow the machine is.
const notAdaptive = "# timeouts.adaptive is off.\n"

// allowLoopback permits direct:// to connect to targets on this machine.
const allowLoopback = "[egress]\nallow = [\"127.0.0.0/8\", \"::1\"]\n"

// start runs the gateway with n fakes, F1 to Fn, which respond with 200.
func start(t *testing.T, n int, config string) *whirl {
	w := &whirl{t: t, dir: t.TempDir(), log: &coretest.Log{}, gateway: freePort(t), api: freePort(t)}
	for i := range n {
		f, err := lab.Start(fmt.Sprintf("F%d", i+1), "127.0.0.1:0", lab.Always(lab.OK()))
		require.NoError(t, err)
		t.Cleanup(f.Close)
		w.fakes = append(w.fakes, f)
	}
	if strings.Contains(config, `blame = "literal"`) || strings.Contains(config, notAdaptive) {
		w.env = append(w.env, "WHIRLPOOL_TIMEOUTS__ADAPTIVE=false")
	}
	w.configFile = filepath.Join(w.dir, "koanf.toml")
	w.writeConfig(config)
	w.startProcess()
	return w
}

// writeConfig replaces the configuration file by a rename, as an editor does.
func (w *whirl) writeConfig(config string) {
	var b strings.Builder
	b.WriteString(config)
	for _, f := range w.fakes {
		fmt.Fprintf(&b, "\n[[proxies]]\nid = %q\nurl = \"http://user:hunter2secret@%s\"\n", f.Name, f.Addr)
	}
	fmt.Fprintf(&b, "\n[state]\ndir = %q\n", w.stateDir)
	require.NoError(w.t, os.WriteFile(w.configFile+".new", []byte(b.String()), 0o600))
	require.NoError(w.t, os.Rename(w.configFile+".new", w.configFile))
}

func (w *whirl) startProcess(args ...string) {
	args = append([]string{"serve", "--config", w.configFile, "--listen", w.gateway, "--api", w.api}, args...)
	w.cmd = exec.Command(binary, args...)
	if w.fileLimit > 0 {
		w.cmd = exec.Command("sh",
			append([]string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, w.fileLimit), binary},
				args...)...)
	}
	w.cmd.Env = append(os.Environ(), w.env...)
	w.cmd.Stderr, w.cmd.Stdout = w.log, w.log
	require.NoError(w.t, w.cmd.Start())
	w.t.Cleanup(func() {
		w.cmd.Process.Kill()
		w.cmd.Wait()
		require.NotContains(w.t, w.log.String(), "hunter2secret", "credentials in the log")
		if !w.mayPanic {
			require.NotContains(w.t, w.log.String(), "panic")
		}
		require.NotContains(w.t, w.log.String(), "goroutine ")
	})
	w.client = &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: w.gateway}), MaxIdleConnsPerHost: 100,
		DisableCompression: true,
		ReadBufferSize:     64 << 10, WriteBufferSize: 64 << 10,
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for begin := time.Now(); time.Since(begin) < eventTimeout; time.Sleep(20 * time.Millisecond) {
		if r, err := http.Get("http://" + w.api + "/healthz"); err == nil {
			r.Body.Close()
			return
		}
	}
	w.t.Fatalf("the gateway does not start:\n%s", w.log)
}

// response is the response that a client got.
type response struct {
	status   int
	header   http.Header
	body     string
	err      error
	sentAt   time.Time     // time before the request was sent
	duration time.Duration // time from sentAt to the end of the response
}

func (a response) attempts() string { return a.header.Get("X-Whirlpool-Attempts") }
func (a response) outcome() string  { return a.header.Get("X-Whirlpool-Outcome") }
func (a response) proxy() string    { return a.header.Get("X-Whirlpool-Proxy-Id") }

// do sends a request through the gateway. The parameter headers has a name, its value, the next name and so on.
func (w *whirl) do(method, body string, headers ...string) response {
	return w.request(method, "http://origin.test/path?token=querysecret", body, headers...)
}

// request does the same as do, for another URL.
func (w *whirl) request(method, target, body string, headers ...string) response {
	q, err := http.NewRequest(method, target, strings.NewReader(body))
	require.NoError(w.t, err)
	if body == "" {
		q.Body = nil
	}
	for i := 0; i+1 < len(headers); i += 2 {
		q.Header.Add(headers[i], headers[i+1])
	}
	begin := time.Now()
	r, err := w.client.Do(q)
	a := response{err: err}
	if err == nil {
		defer r.Body.Close()
		b, rerr := io.ReadAll(r.Body)
		a = response{status: r.StatusCode, header: r.Header, body: string(b), err: rerr}
	}
	a.sentAt, a.duration = begin, time.Since(begin)
	return a
}

func (w *whirl) get(headers ...string) response { return w.do("GET", "", headers...) }

// getOnce makes one GET on a connection of its own. The result sentAfter is the time from the beginning of the
// connection until the request has been sent.
func (w *whirl) getOnce() (status int, sentAfter time.Duration, err error) {
	begun := time.Now()
	c, err := net.DialTimeout("tcp", w.gateway, 10*time.Minute)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	c.SetDeadline(begun.Add(10 * time.Minute))
	fmt.Fprint(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n")
	sentAfter = time.Since(begun)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, sentAfter, err
	}
	return r.StatusCode, sentAfter, nil
}

func overrideHeader(s string) []string { return []string{"X-Whirlpool-Retry", s} }

func (w *whirl) connect(target string) (int, http.Header, net.Conn) {
	c, err := net.DialTimeout("tcp", w.gateway, eventTimeout)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	c.SetReadDeadline(time.Now().Add(eventTimeout))
	var head []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := c.Read(one); err != nil {
			w.t.Fatalf("CONNECT: %v after %q", err, head)
		}
		head = append(head, one[0])
	}
	var status int
	fmt.Sscanf(string(head), "HTTP/1.1 %d", &status)
	h := http.Header{}
	for _, line := range strings.Split(string(head), "\r\n")[1:] {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h.Add(name, value)
		}
	}
	return status, h, c
}

// limitFiles starts the gateway again with a limit of open files.
func (w *whirl) limitFiles(n int) {
	w.t.Helper()
	w.kill()
	w.fileLimit = n
	w.startProcess()
}

// startWithState is like start, but the gateway has a state folder.
func startWithState(t *testing.T, n int, config string) *whirl {
	w := start(t, n, config)
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig(config)
	w.startProcess()
	return w
}

// call sends a request to the API.
func (w *whirl) call(method, path, body string, headers ...string) (int, []byte, http.Header) {
	q, err := http.NewRequest(method, "http://"+w.api+"/api/v1"+path, strings.NewReader(body))
	require.NoError(w.t, err)
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	r, err := http.DefaultClient.Do(q)
	require.NoError(w.t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(w.t, err)
	require.NotContains(w.t, string(b), "hunter2secret", "credentials in an answer")
	if r.StatusCode == 202 && q.Header.Get("Prefer") == "" && strings.HasPrefix(path, "/plugins") {
		success := map[string]int{"POST": 201, "PUT": 200, "PATCH": 200}[method]
		status, b := w.awaitUpload(b, success)
		return status, b, r.Header
	}
	return r.StatusCode, b, r.Header
}

// awaitUpload waits for the end of an upload, and returns the status and the body of a response after the checks: on a
// loaded machine they may take longer than the first response waits. The parameter body is the body of the 202, which
// names the upload, and successStatus is the status for an accepted module.
func (w *whirl) awaitUpload(body []byte, successStatus int) (int, []byte) {
	w.t.Helper()
	var upload struct {
		ID, State string
		Plugin    json.RawMessage
		Error     struct{ Error string }
	}
	require.NoError(w.t, json.Unmarshal(body, &upload))
	for ; upload.State == "checking"; time.Sleep(50 * time.Millisecond) {
		_, body, _ = w.call("GET", "/uploads/"+upload.ID, "")
		require.NoError(w.t, json.Unmarshal(body, &upload))
	}
	switch upload.Error.Error {
	case "":
		return successStatus, upload.Plugin
	case "invalid_plugin":
		return 422, body
	case "conflict":
		return 409, body
	}
	return 500, body
}

// getJSON sends a GET to the API and requires the status 200.
func (w *whirl) getJSON(path string) map[string]any {
	status, body, _ := w.call("GET", path, "")
	require.Equal(w.t, 200, status, "%s: %s", path, body)
	var v map[string]any
	require.NoError(w.t, json.Unmarshal(body, &v))
	return v
}

func (w *whirl) putPolicy(policy string) {
	status, body, _ := w.call("PUT", "/retry/policy", policy)
	require.Equal(w.t, 200, status, "%s", body)
}

func (w *whirl) breaker(id string) map[string]any { return w.getJSON("/circuit-breakers/" + id) }

func (w *whirl) setAll(b lab.Behaviour) {
	for _, f := range w.fakes {
		f.SetBehaviour(b)
	}
}

func (w *whirl) arrivals() (n int) {
	for _, f := range w.fakes {
		n += f.Count()
	}
	return n
}

func (w *whirl) clearArrivals() {
	for _, f := range w.fakes {
		f.Clear()
	}
}

// sortedArrivals returns the arrivals at all fakes, ordered by time.
func (w *whirl) sortedArrivals() []lab.Arrival {
	var all []lab.Arrival
	for _, f := range w.fakes {
		all = append(all, f.Arrivals()...)
	}
	for i := range all {
		for j := i; j > 0 && all[j].At.Before(all[j-1].At); j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
	return all
}

// requireWaits checks the waits between attempts, in seconds, with a tolerance for late ones.
func (w *whirl) requireWaits(want ...float64) {
	w.t.Helper()
	all := w.sortedArrivals()
	require.Len(w.t, all, len(want)+1)
	for i, s := range want {
		// A fake records the arrival of a request before it responds, and the end of its response. The wait begins
		// between the two.
		require.GreaterOrEqual(w.t, all[i+1].At.Sub(all[i].At).Seconds(), s, "wait %d is early", i)
		late := all[i+1].At.Sub(all[i].Ended).Seconds() - s
		require.LessOrEqual(w.t, late, tolerance(all[0].At).Seconds(), "wait %d is late", i)
	}
}

// requestUntilArrivals sends GETs until the fake has n more arrivals.
func (w *whirl) requestUntilArrivals(f *lab.Proxy, n int) {
	goal := f.Count() + n
	for begin := time.Now(); time.Since(begin) < eventTimeout; {
		if f.Count() >= goal {
			return
		}
		w.get()
	}
	w.t.Fatalf("%s gets no traffic", f.Name)
}

// requestUntil calls request with 0, 1, 2 and so on, until ok returns true.
func requestUntil(t *testing.T, what string, request func(i int), ok func() bool) {
	t.Helper()
	begin := time.Now()
	for i := 0; !ok(); i++ {
		require.Less(t, time.Since(begin), 4*eventTimeout, "never: %s", what)
		request(i)
	}
}

// eventTimeout is the longest time that a test waits for an event. Only a test that fails waits for so long.
const eventTimeout = time.Minute

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < eventTimeout; time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// parseTime parses a time in a response of the API, such as next_test_time of a breaker.
func (w *whirl) parseTime(value any) time.Time {
	w.t.Helper()
	text, _ := value.(string)
	at, err := time.Parse(time.RFC3339, text)
	require.NoError(w.t, err)
	return at
}

// loggedDelays returns the waits before retries in the log, by request id.
func (w *whirl) loggedDelays() map[string][]string {
	out := map[string][]string{}
	for _, m := range retryRecord.FindAllStringSubmatch(w.log.String(), -1) {
		out[m[1]] = append(out[m[1]], m[2])
	}
	return out
}

var retryRecord = regexp.MustCompile(`msg=retry request_id=(\S+) .*?delay=(\S+)`)

// awaitRetryRecords waits until the log has n records of retries. They are written shortly after the retries.
func (w *whirl) awaitRetryRecords(n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d records of retries", n), func() bool {
		return strings.Count(w.log.String(),
			"msg=retry") == n
	})
}

// reconcile checks that all counts agree. (I1) Each attempt arrived at a proxy or was refused. (I2) Each attempt
// succeeded, failed or was cancelled. (I3) The sum of the successes by attempt equals the sum by proxy. (I4) The
// totals by hour equal the overall totals. (I5) The openings by proxy equal the events.
func (w *whirl) reconcile(refused int) {
	w.t.Helper()
	s := w.getJSON("/metrics/retries")
	num := func(v any) int { return int(v.(float64)) }
	attempts, success, byAttempt, requests, retries := 0, 0, 0, 0, 0
	opens := map[string]int{}
	for id, v := range w.getJSON("/metrics/retries/by-proxy")["proxies"].(map[string]any) {
		p := v.(map[string]any)
		attempts += num(p["total_attempts"])
		success += num(p["success_count"])
		opens[id] = num(p["circuit_breaker_opens"])
		require.Equal(w.t, num(p["total_attempts"]), num(p["success_count"])+num(p["failure_count"])+
			num(p["cancelled_count"]), "I2")
	}
	for _, n := range s["success_by_attempt"].(map[string]any) {
		byAttempt += num(n)
	}
	for _, v := range w.getJSON("/metrics/retries/timeseries")["data_points"].([]any) {
		requests += num(v.(map[string]any)["total_requests"])
		retries += num(v.(map[string]any)["total_retries"])
	}
	// A lost attempt may arrive late.
	for begin := time.Now(); w.arrivals()+refused < attempts && time.Since(begin) < eventTimeout; {
		time.Sleep(10 * time.Millisecond)
	}
	require.Equal(w.t, w.arrivals()+refused, attempts, "I1: arrivals")
	require.Equal(w.t, attempts, num(s["total_attempts"]), "I1: summary")
	require.Equal(w.t, success, byAttempt, "I3")
	require.Equal(w.t, num(s["total_requests"]), requests, "I4: requests")
	require.Equal(w.t, num(s["total_retries"]), retries, "I4: retries")
	events := map[string]int{}
	for _, v := range w.getJSON("/circuit-breakers/metrics")["events"].([]any) {
		if e := v.(map[string]any); e["to_state"] == "open" {
			events[e["proxy_id"].(string)]++
		}
	}
	for id, n := range opens {
		require.Equal(w.t, events[id], n, "I5")
	}
}

func (w *whirl) signal(s syscall.Signal) { require.NoError(w.t, w.cmd.Process.Signal(s)) }

// stop ends the gateway with SIGTERM. After that, the log is complete.
func (w *whirl) stop() {
	w.t.Helper()
	w.signal(syscall.SIGTERM)
	require.NoError(w.t, w.cmd.Wait())
}
