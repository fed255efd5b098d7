package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

const confRoutes = confKB + `
[egress]
allow = ["127.0.0.0/8"]
[[gateway.users]]
name = "ann"
password = "anns-password"
[[gateway.users]]
name = "bob"
password = "bobs-password"
[[rules]]
name = "no-ads"
when = { host = "*.ads.test" }
then = { deny = true }
[[rules]]
when = { path = "/private/*", method = "GET" }
then = { deny = true }
[[rules]]
when = { port = %s }
then = { direct = true }
[[rules]]
when = { user = "bob" }
then = { tag = "res", policy = { max_attempts = 3 } }
[[rules]]
when = { host = "none.test" }
then = { tag = "none" }
[[rules]]
when = { host = "far.test" }
then = { tag = "none", prefer = true, scorer = "round_robin" }
`

// Rules choose the way of requests by host, path, port, method and user, in absolute form, CONNECT, SOCKS5 and POST
// /request.
func TestS135RulesChooseTheWay(t *testing.T) {
	direct := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "direct "+r.URL.Path)
	}))
	t.Cleanup(direct.Close)
	_, port, err := net.SplitHostPort(direct.Listener.Addr().String())
	require.NoError(t, err)
	w := start(t, 3, fmt.Sprintf(confRoutes, port))
	site(w, false) // for the tunnels of all fakes
	for id, tags := range map[string]string{"F2": `["dc", "res"]`, "F3": `["res"]`} {
		status, raw, _ := w.call("PATCH", "/proxies/"+id, `{"tags":`+tags+`}`)
		require.Equal(t, 200, status, string(raw))
	}
	// curl sends a request through the gateway and returns the response, followed by its status, the status of the
	// CONNECT, the id of the proxy, the outcome and the number of attempts.
	curl := func(args ...string) string {
		const out = "\n%{http_code} %{http_connect} %header{x-whirlpool-proxy-id} %header{x-whirlpool-outcome} " +
			"%header{x-whirlpool-attempts}"
		b, _ := exec.Command("curl", append([]string{"-s", "-m", "30", "-w", out}, args...)...).Output()
		return string(b)
	}
	ann, bob := "http://ann:anns-password@"+w.gateway, "http://bob:bobs-password@"+w.gateway
	socks := "socks5h://ann:anns-password@" + w.gateway

	// deny
	for _, url := range []string{"http://x.ads.test/", "http://a.test/private/x",
		"http://a.test/%70rivate/../private/x"} {
		require.Contains(t, curl("--path-as-is", "-x", ann, url), "\n403 000 - denied_by_rule 0", url)
	}
	require.Contains(t, curl("-x", ann, "http://x.ads.test/"),
		`{"error":"denied_by_rule","message":"the rule no-ads denies`)
	require.Contains(t, curl("-x", ann, "-d", "x", "http://a.test/private/x"), "\n200 000 F", "another method")
	require.Contains(t, curl("-x", ann, "-p", "http://x.ads.test/"), "000 403")
	require.Contains(t, curl("-x", ann, "-p", "http://a.test/private/x"), "200 200",
		"the path in a tunnel is encrypted")
	text, err := exec.Command("curl", "-sv", "-m", "30", "-x", socks, "http://x.ads.test/").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "(2)", "reply 2: not allowed")
	status, raw, _ := w.call("POST", "/request", `{"url":"https://x.ads.test/"}`)
	require.Equal(t, 403, status)
	require.Contains(t, string(raw), `"denied_by_rule"`)
	for _, f := range w.fakes {
		for _, a := range f.Arrivals() {
			require.NotContains(t, a.Target, "ads.test", "no proxy gets a denied request")
		}
	}

	// direct
	w.clearArrivals()
	target := "http://127.0.0.1:" + port + "/d"
	require.Contains(t, curl("-x", ann, target), "direct /d\n200 000 direct success 1")
	require.Contains(t, curl("-x", ann, "-p", target), "direct /d\n200 200")
	require.Contains(t, curl("-x", socks, target), "direct /d\n200 000")
	status, raw, _ = w.call("POST", "/request", fmt.Sprintf(`{"url":%q}`, target))
	require.Equal(t, 200, status)
	require.Contains(t, string(raw), `"proxy_id":"direct"`)
	require.Zero(t, w.arrivals(), "no proxy is used")

	// the tag and the policy of the rule for the user bob
	for range 12 {
		require.Regexp(t, "\n200 000 F[23] success 1$", curl("-x", bob, "http://a.test/"))
		require.Contains(t, curl("-x", bob, "-p", "http://a.test/"), "200 200")
	}
	require.Empty(t, w.fakes[0].Arrivals())
	w.setAll(lab.Status(503))
	require.Contains(t, curl("-x", bob, "http://a.test/"), "exhausted 3", "the attempts of the rule's policy")
	more := "X-Whirlpool-Retry: max_attempts=9"
	require.Contains(t, curl("-x", bob, "-H", more, "http://a.test/"), "exhausted 3", "capped by the rule's policy")
	require.Contains(t, curl("-x", ann, "-H", more, "http://a.test/"), "exhausted 1", "capped by the global policy")
	require.Contains(t, curl("-x", ann, "http://a.test/"), "exhausted 1", "the attempts of the global policy")
	w.setAll(lab.OK())
	for _, session := range []string{"s1", "s1;strict"} { // a session has a proxy of its own for each way
		field := "X-Whirlpool-Session: " + session
		for range 3 {
			require.Regexp(t, "\n200 000 F[23] success 1$", curl("-x", bob, "-H", field, "http://a.test/"))
			require.Contains(t, curl("-x", bob, "-H", field, target), "direct /d\n200 000 direct success 1")
			require.Contains(t, curl("-x", ann, "-H", field, "http://a.test/"), "\n200 000 F")
		}
	}
	require.Contains(t, curl("-x", ann, "http://none.test/"), "\n503 000 - no_proxy_with_tag 0")
	require.Contains(t, curl("-x", ann, "http://far.test/"), "\n200 000 F", "the tag is only preferred")

	// The metrics and the API name the applied rule.
	require.Contains(t, w.scrape(), `whirlpool_rule_applied_total{rule="no-ads"} `)
	list := w.getJSON("/requests?limit=1")["requests"].([]any)[0].(map[string]any)
	require.Equal(t, []any{"rules[5]"}, list["rules"])
	require.Equal(t, list, w.getJSON("/requests/"+list["id"].(string)))
	route := func(args ...string) string {
		cmd := exec.Command(binary, append([]string{"route"}, args...)...)
		cmd.Env = append(cmd.Environ(), "WHIRLPOOL_URL=http://"+w.api)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	text1 := route("--user", "bob", "http://a.test/x")
	require.Regexp(t, `way +only proxies with the tag res \(rules\[3\]\)`, text1)
	require.Regexp(t, `policy +max_attempts 3, fixed from 0.1 s \(rules\[3\]\)`, text1)
	require.Regexp(t, `no-ads +no +host \*\.ads\.test: it is a\.test`, text1)
	require.Regexp(t, `rules\[1\] +no +path /private/\*: the path is encrypted`, route("a.test:443"))
	require.Equal(t, text1, route("--user", "bob", "--config", w.configFile, "http://a.test/x"))
	var v struct{ Way string }
	require.NoError(t, json.Unmarshal([]byte(route("--json", "http://x.ads.test/")), &v))
	require.Equal(t, "deny", v.Way)

	// A file with wrong rules changes nothing; every fault is named.
	at := w.configReadAt()
	w.writeConfig(strings.Replace(fmt.Sprintf(confRoutes, port), `user = "bob"`, `user = "bop", port = 0`, 1) +
		"[[rules]]\nwhen = { host = \"*\" }\nthen = { scorer = \"fastest\", policy = { max_attempts = 11 } }\n")
	w.awaitReload(at)
	faults := fmt.Sprint(w.getJSON("/config")["reload"].(map[string]any)["faults"])
	for _, part := range []string{"rules[3].when.port", "rules[3].when.user", "did you mean bob?",
		"rules[6].then.policy.max_attempts"} {
		require.Contains(t, faults, part)
	}
	require.Contains(t, curl("-x", ann, "http://x.ads.test/"), "denied_by_rule", "the previous rules stay in force")
	at = w.configReadAt()
	w.writeConfig(fmt.Sprintf(confRoutes, port) +
		"[[rules]]\nwhen = { host = \"*\" }\nthen = { scorer = \"fastest\" }\n")
	w.awaitReload(at)
	require.Contains(t, fmt.Sprint(w.getJSON("/config")["reload"].(map[string]any)["faults"]), "rules[6].then.scorer")
}
