package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// Operators had five complaints about an early version. Each has a test. Three of them are below. The fourth complaint
// was a flood of one error in the log, and no line for a successful request (TestAFloodOfRefusalsIsFoldedInTheLog,
// TestAccessLog). The fifth was that there were no package and no commands (TestTheDebianPackage, TestTheImage,
// TestAnOutageIsMendedInATerminal, TestTopInATerminal, and the tests of the commands events and check in
// cmd/whirlpool).

// An earlier dashboard showed "5,000 of 5,000 in service" while 375 proxies refused connections. It showed only the
// first 200 rows, had no search, and requested 22 MB of JSON a minute.
func TestFailingProxiesOfALargePoolAreCountedAndFound(t *testing.T) {
	o := startOutage(t, 375)
	const sentence = "375 of 5000 proxies fail, all of them with proxy unreachable"
	eventually(t, sentence,
		func() bool { return strings.HasPrefix(o.getJSON("/status")["summary"].(string), sentence) })
	for query, total := range map[string]float64{
		"state=failing":                        375,
		"state=failing&region=fra2":            375,
		"state=failing&region=fra1":            0,
		"reason=proxy%20unreachable&vendor=NO": 0,
		"q=p4999":                              1,
	} {
		require.Equal(t, total, o.getJSON("/proxies?limit=50&" + query)["total"], query)
	}
	for _, path := range []string{
		"/status", "/proxies?limit=60", "/circuit-breakers?limit=60", "/proxy-groups?by=region",
	} {
		_, body, _ := o.call("GET", path, "")
		require.Less(t, len(body), 50_000, path)
	}
}

// The complaint: the dashboard showed "100 % delivered" in green while every response was a 403.
func TestResponsesThatAreAll403AreAnAlarm(t *testing.T) {
	w := start(t, 2, "[timeouts]\nadaptive = false\n")
	w.setAll(lab.Status(403))
	for range 20 {
		require.Equal(t, 403, w.get().status)
	}
	require.Equal(t, "2 of 2 proxies fail, both with 403 at origin.test; 0 % delivered in the last 5 minutes",
		w.getJSON("/status")["summary"])
	b := openBrowser(t, "http://"+w.api+"/", 1280, 900)
	b.until("the page is red", `document.querySelector("#verdict").className === "bad" && `+
		`document.querySelector("#verdict").textContent.includes("0 % delivered") && `+
		`document.title.startsWith("⚠ 2 of 2")`)
	b.until("the tile is red", `document.querySelector("#tiles .alarm").textContent.startsWith("0 %successful")`)
	b.until("the history has no green", `document.querySelector("#history").dataset.kinds.startsWith("refused")`)
}

// The dashboard does not state that a proxy works if its test was only a connection.
func TestADashboardTestWithoutAURL(t *testing.T) {
	w := start(t, 2, "")
	b := openBrowser(t, "http://"+w.api+"/", 1280, 900)
	b.until("the page is loaded", `!!document.querySelector("#verdict").textContent`)
	said := func(ids string) string {
		return b.eval(`import("./many.js").then(m => m.perform("test", ` + ids + `)).` +
			`then(() => document.querySelector("#toasttext").textContent)`)
	}
	const connected = " reachable; without health.url, no request was sent"
	require.Equal(t, "F1"+connected, said(`["F1"]`))
	require.Equal(t, "2 proxies"+connected, said(`["F1", "F2"]`))
	w.writeConfig("[health]\nurl = \"http://origin.test/\"\n")
	eventually(t, "the test sends a request", func() bool { return said(`["F1"]`) == "F1 passed the test" })
}

// The complaint: the reasons why a proxy fails were shown nowhere, or were lost soon.
func TestTheReasonsOfAProxySurviveARestart(t *testing.T) {
	w := start(t, 1, "")
	w.stop()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig("[retry]\nmax_attempts = 1\n")
	w.startProcess()
	w.setAll(lab.Status(503))
	for range 3 {
		w.get()
	}
	reasons := func() string { return fmt.Sprint(w.getJSON("/proxies/F1?window=1h")["reasons"]) }
	require.Contains(t, reasons(), "cause:retry_status count:3")
	w.stop()
	w.startProcess()
	require.Contains(t, reasons(), "cause:retry_status count:3")
	count := 0.0
	for _, p := range w.getJSON("/metrics/history?window=1h&proxy_id=F1")["points"].([]any) {
		for cause, n := range p.(map[string]any)["causes"].(map[string]any) {
			require.Equal(t, "retry_status", cause)
			count += n.(float64)
		}
	}
	require.Equal(t, 3.0, count)
}
