package integration

import (
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

const confRules = `
[retry]
max_attempts = 7
[health]
reachability = false
[timeouts]
adaptive = false
` + roundRobin

// One host refuses six of ten proxies with 403. With a rule, all its requests are served by the four others, and the
// six rest for that host. Requests for other hosts are served at the first attempt by all ten.
func TestS123ARuleForBans(t *testing.T) {
	w := start(t, 10, confRules+`
[[rules]]
when = { host = "*.strict.test", status = [403, 429] }
then = { rest = "10m" }
`)
	for _, f := range w.fakes[:6] {
		banHost(f, "www.strict.test")
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if a := w.fetch("www.strict.test"); a.status != 200 {
					t.Error(a.status, a.proxy(), a.outcome())
				}
			}
		})
		wg.Go(func() {
			for range 50 {
				if a := w.fetch("other.test"); a.status != 200 || a.attempts() != "1" {
					t.Error(a.status, a.attempts())
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, w.rests("www.strict.test"), 6)
	require.Empty(t, w.rests("other.test"))
	refused := 0
	for _, f := range w.fakes {
		hosts := map[string]int{}
		for _, a := range f.Arrivals() {
			hosts[a.Target]++
		}
		require.Positive(t, hosts["http://other.test/"], "%s serves the other host", f.Name)
		for _, name := range w.rests("www.strict.test") {
			if f.Name == name {
				refused += hosts["http://www.strict.test/"]
			}
		}
	}
	t.Logf("400 of 400 requests served; the six proxies refused %d attempts", refused)
	require.LessOrEqual(t, refused, 6*8, "only requests that were under way")
	status, raw, _ := w.call("POST", "/request", `{"url":"http://www.strict.test/"}`)
	require.Equal(t, 200, status, string(raw))

	// After a reload without the rule, the host's response is relayed.
	at := w.configReadAt()
	w.writeConfig(confRules)
	w.awaitReload(at)
	for _, f := range w.fakes {
		banHost(f, "late.strict.test")
	}
	require.Equal(t, 403, w.fetch("late.strict.test").status)

	// A file with a wrong rule changes nothing, and the API names file, key, value and remedy.
	at = w.configReadAt()
	w.writeConfig(confRules + "[[rules]]\nwhen = { status = 99 }\nthen = { retry = true, final = true }\n")
	w.awaitReload(at)
	faults := fmt.Sprint(w.getJSON("/config")["reload"].(map[string]any)["faults"])
	require.Contains(t, faults, "rules[0].when.status")
	require.Contains(t, faults, "from 100 to 599")
	require.Contains(t, faults, "rules[0].then.final")
	require.Contains(t, faults, "remove final or the others")
}

// A host refuses six of ten proxies, and the gateway does not know yet which ones. The policy permits three attempts,
// and the rule for the host permits more. Thus each first request for such a host is served. A request whose own
// max_attempts is 3 has three attempts.
func TestS256TheFirstRequestsForAHostThatRefusesProxies(t *testing.T) {
	w := start(t, 10, `
[health]
reachability = false
[timeouts]
adaptive = false
`+roundRobin+`
[[rules]]
preset = "ban_like"
when = { host = "*.strict.test" }
then = { max_attempts = 10 }
`)
	const hosts = 20
	for i, f := range w.fakes {
		refused := map[string]lab.Behaviour{}
		for host := range hosts {
			if (i+host)%10 < 6 {
				refused[fmt.Sprintf("h%d.strict.test", host)] = lab.Status(403)
			}
		}
		if i < 6 {
			refused["asks.strict.test"] = lab.Status(403)
		}
		f.SetScript(byHost(refused))
	}
	more := 0
	for host := range hosts {
		a := w.fetch(fmt.Sprintf("h%d.strict.test", host))
		require.Equal(t, 200, a.status, "attempts: %s", a.attempts())
		if n, err := strconv.Atoi(a.attempts()); err == nil && n > 3 {
			more++
		}
	}
	require.Positive(t, more, "first requests with more than three attempts")
	asks := "http://asks.strict.test/"
	for range 10 {
		n, err := strconv.Atoi(w.request("GET", asks, "", "X-Whirlpool-Retry", "max_attempts=3").attempts())
		require.NoError(t, err)
		require.LessOrEqual(t, n, 3)
	}
}

// Each condition and action of rules, in order: the first rule that holds is applied.
func TestS124ConditionsAndActions(t *testing.T) {
	w := start(t, 2, confRules+`
[[rules]]
when = { host = "final.test" }
then = { final = true, blame = "target" }
[[rules]]
when = { status = "400-599", header = { Server = "shield*" } }
then = { other_proxy = true }
[[rules]]
when = { status = 200, method = "GET", body = "captcha" }
then = { ban = "1h" }
[[rules]]
preset = "ban_like"
when = { host = "preset.test" }
`)
	w.setAll(lab.Status(503))
	a := w.fetch("final.test")
	require.Equal(t, []string{"503", "1", "not_retryable"}, []string{fmt.Sprint(a.status), a.attempts(), a.outcome()})

	shield := lab.Status(418)
	shield.Header = http.Header{"Server": {"shield/2"}}
	w.fakes[0].SetBehaviour(shield)
	w.fakes[1].SetBehaviour(lab.OK())
	for range 3 {
		a = w.fetch("header.test")
		require.Equal(t, []string{"200", "F2"}, []string{fmt.Sprint(a.status), a.proxy()})
	}
	require.Empty(t, w.rests("header.test"))

	w.fakes[0].SetBehaviour(lab.Status(403))
	for range 3 {
		require.Equal(t, "F2", w.fetch("preset.test").proxy())
	}
	require.Equal(t, []string{"F1"}, w.rests("preset.test"))

	w.fakes[0].SetBehaviour(lab.Behaviour{Body: gzipped("<h1>captcha</h1>"),
		Header: http.Header{"Content-Encoding": {"gzip"}}})
	for range 3 {
		require.Equal(t, "F2", w.fetch("body.test").proxy())
	}
	w.fakes[0].SetBehaviour(lab.OK())
	for range 4 {
		require.Equal(t, "F2", w.fetch("other.test").proxy(), "F1 is banned for all hosts")
	}
	w.fakes[1].SetBehaviour(lab.Behaviour{Body: "captcha"})
	a = w.fetch("body.test")
	require.Equal(t, []string{"captcha", "all_proxies_banned"}, []string{a.body, a.outcome()}, "no proxy is left")
	a = w.fetch("other.test")
	require.Equal(t, 503, a.status)
	require.Contains(t, a.body, `{"error":"all_proxies_banned"`)
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(t, err)
	require.Positive(t, after)
	require.LessOrEqual(t, after, 30, "no other proxy has served the last request")
	w.reconcile(0)
}

// A client bans a proxy through the API, for one host or for all, and ends the ban.
func TestS125BansByTheAPI(t *testing.T) {
	w := start(t, 2, confRules)
	w.setAll(lab.OK())
	next, _ := w.events("?type=ban", "")
	status, raw, _ := w.call("POST", "/proxies/F1/ban", `{"for":"10m","host":"A.test"}`)
	require.Equal(t, 200, status, string(raw))
	require.Equal(t, "ban", next().kind)
	for range 4 {
		require.Equal(t, "F2", w.fetch("a.test").proxy())
	}
	served := map[string]bool{}
	for range 4 {
		served[w.fetch("b.test").proxy()] = true
	}
	require.Len(t, served, 2, "other hosts are served by both")
	banned := w.getJSON("/targets/a.test")["banned"].([]any)
	require.Len(t, banned, 1)
	require.Equal(t, "F1", banned[0].(map[string]any)["proxy_id"])
	require.NotContains(t, w.getJSON("/proxies/F1"), "banned_until")

	status, raw, _ = w.call("POST", "/proxies/F1/ban", `{"for":"1h"}`)
	require.Equal(t, 200, status, string(raw))
	require.Contains(t, w.getJSON("/proxies/F1"), "banned_until")
	for range 4 {
		require.Equal(t, "F2", w.fetch("b.test").proxy())
	}
	for _, path := range []string{"/proxies/F1/ban", "/proxies/F1/ban?host=a.test"} {
		status, raw, _ = w.call("DELETE", path, "")
		require.Equal(t, 204, status, string(raw))
	}
	require.Empty(t, w.getJSON("/targets/a.test")["banned"])
	served = map[string]bool{}
	for range 4 {
		served[w.fetch("a.test").proxy()] = true
	}
	require.Len(t, served, 2)
	w.reconcile(0)
}

// Bans, and rests of at least an hour, survive a restart.
func TestS145BansSurviveARestart(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confRules)
	w.stop()
	w.stateDir = t.TempDir()
	w.writeConfig(confRules)
	w.startProcess()
	for path, body := range map[string]string{
		"/proxies/F1/ban": `{"for":"20m"}`, "/proxies/F2/ban": `{"for":"2h","host":"a.test"}`,
		"/proxies/F3/ban": `{"for":"30m","host":"a.test"}`,
	} {
		status, raw, _ := w.call("POST", path, body)
		require.Equal(t, 200, status, string(raw))
	}
	banned := w.getJSON("/proxies/F1")["banned_until"]
	require.Len(t, w.getJSON("/targets/a.test")["banned"], 3)
	w.stop()
	w.startProcess()
	require.WithinDuration(t, w.parseTime(banned), w.parseTime(w.getJSON("/proxies/F1")["banned_until"]), time.Second)
	require.Len(t, w.getJSON("/targets/a.test")["banned"], 2, "the short rest has ended")
	for range 4 {
		require.Equal(t, "F3", w.fetch("a.test").proxy())
	}
	require.Contains(t, w.scrape(), "\nwhirlpool_banned_proxies 1\n")
	out, err := exec.Command(binary, "status", "--url", "http://"+w.api).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "3: 2 in service, 0 half-open, 0 open, 0 draining, 0 unreached, 1 banned")
	status, raw, _ := w.call("DELETE", "/proxies/F1/ban", "")
	require.Equal(t, 204, status, string(raw))
	w.stop()
	w.startProcess()
	require.NotContains(t, w.getJSON("/proxies/F1"), "banned_until", "an ended ban does not return")
}
