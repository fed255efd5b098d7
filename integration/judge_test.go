package integration

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	wt "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

const confJudge = `
[retry]
max_attempts = 5
base_delay = 0.1
[selection]
judge = "ban_like"
[health]
reachability = false
[timeouts]
adaptive = false
`

// banHost makes a fake refuse requests for one host.
func banHost(f *lab.Proxy, host string) {
	f.SetScript(byHost(map[string]lab.Behaviour{host: lab.Status(403)}))
}

func (w *whirl) fetch(host string) response { return w.request("GET", "http://"+host+"/", "") }

// rests returns the ids of the proxies that rest for a host.
func (w *whirl) rests(host string) (ids []string) {
	for _, r := range w.getJSON("/rests")["rests"].([]any) {
		if r := r.(map[string]any); r["host"] == host {
			ids = append(ids, r["proxy_id"].(string))
		}
	}
	return ids
}

// One host refuses three of five proxies. Its clients get responses through the two others, and the three
// rest for that host. For other hosts all five proxies serve first attempts.
func TestS84ABanHoldsForOneHost(t *testing.T) {
	w := start(t, 5, confJudge)
	for _, f := range w.fakes[:3] {
		banHost(f, "strict.test")
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if a := w.fetch("strict.test"); a.status != 200 || a.proxy() != "F4" && a.proxy() != "F5" {
					t.Error(a.status, a.proxy(), a.outcome())
				}
			}
		})
		wg.Go(func() {
			for range 25 {
				if a := w.fetch("other.test"); a.status != 200 || a.attempts() != "1" {
					t.Error(a.status, a.attempts())
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, []string{"F1", "F2", "F3"}, w.rests("strict.test"))
	require.Empty(t, w.rests("other.test"))
	require.Contains(t, w.scrape(), "\nwhirlpool_resting_pairs 3\n")
	for _, f := range w.fakes {
		hosts := map[string]int{}
		for _, a := range f.Arrivals() {
			hosts[a.Target]++
		}
		require.Positive(t, hosts["http://other.test/"], "%s serves the other host", f.Name)
		if f.Name < "F4" {
			require.LessOrEqual(t, hosts["http://strict.test/"], 8, "%s: only requests that were under way", f.Name)
		}
	}
	require.Equal(t, map[string]int{"closed": 5}, w.breakerStates())
	eventually(t, "the log says so", func() bool {
		return strings.Contains(w.log.String(), `msg="proxy rests for the target's host"`)
	})

	// Now the host refuses the last two proxies as well.
	banHost(w.fakes[3], "strict.test")
	banHost(w.fakes[4], "strict.test")
	a := w.fetch("strict.test")
	require.Equal(t, 403, a.status, "the last response is relayed")
	require.Equal(t, "all_banned_here", a.outcome())
	a = w.fetch("strict.test")
	require.Equal(t, 503, a.status)
	require.Equal(t, "all_banned_here", a.outcome())
	require.Contains(t, a.body, `{"error":"all_banned_here"`)
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(t, err)
	require.LessOrEqual(t, after, 30, "no other proxy has confirmed the last two bans")
	require.Positive(t, after)
	require.Equal(t, 200, w.fetch("other.test").status)

	status, raw, header := w.call("POST", "/request", `{"url":"http://strict.test/"}`)
	require.Equal(t, 503, status)
	require.Contains(t, string(raw), `{"error":"all_banned_here"`)
	require.NotEmpty(t, header.Get("Retry-After"))

	status, raw, _ = w.call("POST", "/plugins/none/activate", `{"for":"judge"}`)
	require.Equal(t, 200, status, string(raw))
	require.Equal(t, 503, w.fetch("strict.test").status, "pairs rest until their time has passed")
}

// Without a judge, and with a judge that rules each response fine, clients get the same responses as before.
func TestS85WithoutAJudge(t *testing.T) {
	w := start(t, 3, confK)
	w.setAll(lab.Status(403))
	a := w.get()
	require.Equal(t, 403, a.status)
	require.Equal(t, []string{"1", "success"}, []string{a.attempts(), a.outcome()})
	require.Empty(t, w.getJSON("/rests")["rests"])
	require.Equal(t, []any{"judge"}, w.usedFor("none"))
}

func gzipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, s)
	z.Close()
	return b.String()
}

// The judge finds its texts in the beginning of a body with any framing. A body without them is relayed
// unchanged.
func TestS86MarkersInBodies(t *testing.T) {
	w := start(t, 2, strings.Replace(confJudge, "ban_like", "bans", 1)+`
[plugins.bans]
builtin = "ban_like"
[plugins.bans.config]
body = ["Are you a robot?", "captcha"]
fields = ["X-Blocked: yes"]
rest = 600.0
`)
	zip := http.Header{"Content-Encoding": {"gzip"}}
	page := strings.Repeat("<p>nothing of note</p>\n", 2000)
	for name, b := range map[string]lab.Behaviour{
		"a body":                {Body: "<h1>ARE YOU a robot?</h1>"},
		"a long body":           {Body: "<h1>captcha</h1>" + page},
		"a status beside it":    {Status: 404, Body: "captcha"},
		"gzip":                  {Body: gzipped("<h1>captcha</h1>" + page), Header: zip},
		"two chunks":            {Body: "captcha", Pieces: 2, Interval: 10 * time.Millisecond},
		"a field, and any body": {Body: "x", Header: http.Header{"X-Blocked": {"yes, it is"}}},
	} {
		host := fmt.Sprintf("%d.test", len(name))
		w.fakes[0].SetBehaviour(b)
		w.fakes[1].SetBehaviour(lab.OK())
		for range 2 {
			a := w.fetch(host)
			require.Equal(t, 200, a.status, name)
			require.Equal(t, "F2", a.proxy(), name)
		}
		require.Equal(t, []string{"F1"}, w.rests(host), name)
	}
	for name, b := range map[string]lab.Behaviour{
		"long":                {Body: page},
		"empty":               {Status: 204},
		"gzip":                {Body: gzipped(page), Header: zip},
		"gzip that is none":   {Body: "plain", Header: zip},
		"chunks that trickle": {Body: "piece ", Pieces: 4, Interval: 600 * time.Millisecond},
		"large":               {Size: 3 << 20, Numbered: true},
	} {
		w.setAll(b)
		begin := time.Now()
		q, err := http.NewRequest("GET", "http://fine.test/", nil)
		require.NoError(t, err)
		r, err := w.client.Do(q)
		require.NoError(t, err, name)
		head := time.Since(begin)
		got, err := io.ReadAll(r.Body)
		r.Body.Close()
		require.NoError(t, err, name)
		switch {
		case b.Size > 0:
			want, _ := io.ReadAll(io.LimitReader(lab.Counting(), b.Size))
			require.True(t, bytes.Equal(want, got), name)
		case b.Status == 204:
			require.Empty(t, got)
		default:
			require.Equal(t, strings.Repeat(b.Body, max(b.Pieces, 1)), string(got), name)
		}
		if b.Pieces > 0 {
			require.Less(t, head, time.Since(begin)-100*time.Millisecond, "the head does not wait for the body's end")
		}
		require.Equal(t, "1", r.Header.Get("X-Whirlpool-Attempts"), name)
	}
	require.Empty(t, w.rests("fine.test"))
}

// If a body ends early while the judge waits for it, it also ends early for the client. This is true for every framing
// of the body.
func TestS86BodiesThatBreakOff(t *testing.T) {
	for name, head := range map[string]string{
		"length": "Content-Length: 100\r\n", "chunked": "Transfer-Encoding: chunked\r\n", "until close": "",
	} {
		addr := coretest.Serve(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				return
			}
			body := "a page"
			if name == "chunked" {
				body = "6\r\na page\r\n"
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n"+body)
			time.Sleep(20 * time.Millisecond)
			c.(*net.TCPConn).SetLinger(0) // RST
		})
		w := start(t, 0, "[selection]\njudge = \"bans\"\n[plugins.bans]\nbuiltin = \"ban_like\"\n"+
			"[plugins.bans.config]\nbody = [\"captcha\"]\n[[proxies]]\nurl = \"http://"+addr+"\"\n")
		a := w.fetch("a.test")
		require.Equal(t, 200, a.status, name)
		require.Error(t, a.err, name)
		require.Equal(t, "a page", a.body, name)
	}
}

// A judge that traps, or computes without end, makes no request fail: the response is relayed as without a
// judge, and the plugin is quarantined.
func TestS87AHostileJudge(t *testing.T) {
	for name, c := range map[string]struct {
		code   []byte
		reason string
	}{
		"traps":     {wt.OnlyInRealCalls(0, wt.Unreachable), "trap"},
		"loops":     {wt.OnlyInRealCalls(0, wt.SpinLoop...), "fuel"},
		"rules NaN": {wt.OnlyInRealCalls(0, wt.Rules(3, -1)...), "negative_delay"},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, 3, confK)
			w.measureLatencies(time.Second, nil) // warm-up
			alone := w.measureLatencies(2*time.Second, nil)
			status, body := w.upload("POST", "hostile", wt.Judge(c.code...).Bytes())
			require.Equal(t, 201, status, body)
			status, raw, _ := w.call("POST", "/plugins/hostile/activate", `{"for":"judge"}`)
			require.Equal(t, 200, status, string(raw))
			begin := time.Now()
			judged := w.measureLatencies(2*time.Second, nil)
			t.Logf("alone:  %v", alone)
			t.Logf("judged: %v", judged)
			late := tolerance(begin)
			require.Less(t, judged.p99, 2*alone.p99+late/6)
			require.Less(t, judged.healthz, 2*alone.healthz+40*time.Millisecond+late)
			i := w.getJSON("/plugins/hostile")
			require.Equal(t, "quarantined", i["state"])
			require.Contains(t, i["faults_by_reason"], c.reason)
			require.Less(t, i["faults"], 40.0)
			require.Empty(t, w.getJSON("/rests")["rests"])
		})
	}
}

// A judge can be replaced and rolled back, and is kept over a restart, like the other kinds of plugins.
func TestS88AJudgeIsReplacedAndRolledBack(t *testing.T) {
	w := start(t, 2, confK)
	w.stateDir = t.TempDir()
	w.writeConfig(confK)
	w.stop()
	w.startProcess()
	other := wt.Judge(wt.OnlyInRealCalls(0, wt.Rules(2, 0)...)...).Bytes()
	status, body := w.upload("POST", "mine", other)
	require.Equal(t, 201, status, body)
	status, raw, _ := w.call("POST", "/plugins/mine/activate", `{"for":"judge"}`)
	require.Equal(t, 200, status, string(raw))
	require.Equal(t, []any{"judge"}, w.usedFor("mine"))
	require.Equal(t, "2", w.get().attempts(), "each response is refused until no proxy is left")
	status, body = w.upload("PUT", "mine", wt.Judge().Bytes())
	require.Equal(t, 200, status, body)
	require.Equal(t, "1", w.get().attempts())
	status, raw, _ = w.call("POST", "/plugins/mine/rollback", "")
	require.Equal(t, 200, status, string(raw))
	require.Equal(t, "2", w.get().attempts())
	status, _, _ = w.call("DELETE", "/plugins/mine", "")
	require.Equal(t, 409, status, "it is in use")

	w.stop()
	w.startProcess()
	require.Equal(t, []any{"judge"}, w.usedFor("mine"))
	require.Equal(t, "2", w.get().attempts())
	require.Contains(t, w.scrape(), `whirlpool_plugin_calls_total{`)
	status, raw, _ = w.call("POST", "/plugins/none/activate", `{"for":"judge"}`)
	require.Equal(t, 200, status, string(raw))
	require.Equal(t, "1", w.get().attempts())
}
