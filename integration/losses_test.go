package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A target refuses its requests through one of the proxies. The proxy serves the other targets, so it does not fail.
func TestS260WhyRequestsAreLost(t *testing.T) {
	w := start(t, 3, "[selection]\nfirst = \"round_robin\"\n")
	w.fakes[1].SetScript(byHost(map[string]lab.Behaviour{"shop.test": lab.Status(403)}))
	const reason = "403 at shop.test"
	requestUntil(t, "some requests are lost", func(int) {
		w.request("GET", "http://shop.test/", "")
		for range 3 {
			w.get()
		}
	}, func() bool {
		s := w.getJSON("/status")
		return len(s["losses"].([]any)) > 0 && s["proxies"].(map[string]any)["failing"] == 0.0
	})

	s := w.getJSON("/status")
	require.Regexp(t, `^all 3 proxies work; \d+ % delivered in the last 5 minutes, (most of )?the rest lost with `+
		reason+`$`, s["summary"])
	loss := s["losses"].([]any)[0].(map[string]any)
	require.Equal(t, []any{reason, "F2"}, []any{loss["reason"], loss["proxy"]})
	out, err := exec.Command(binary, "status", "--url", "http://"+w.api).Output()
	require.NoError(t, err)
	require.Regexp(t, `lost +\d+ requests?: `+reason+`, through F2\n`, string(out))

	b := openBrowser(t, "http://"+w.api+"/#requests=failed", 1280, 900)
	b.until("the first sentence has the reason", `document.querySelector("#verdict").textContent.includes("`+reason+
		`") && document.querySelector("#verdict").className !== "ok" && / %/.test(document.title)`)
	b.until("a refused request is not green", `document.querySelectorAll("#requests .pill.refused").length > 0 && `+
		`document.querySelectorAll("#requests .closed").length === 0`)
	b.until("the list of targets counts it", `document.querySelector("#targets").textContent.includes("refused")`)
	b.eval(`document.querySelector("#reasons button").click()`)
	b.until("the page of the target names the proxy", `document.querySelector("#target").open && `+
		`/F2\d+ of \d+ failed or refused403/.test(document.querySelector("#target").textContent)`)
}

// After a restart, the status has the failing proxies and the reasons before the first request.
func TestS261ReasonsAfterARestart(t *testing.T) {
	t.Parallel()
	w := start(t, 3, "")
	w.kill()
	w.stateDir = filepath.Join(w.dir, "state")
	w.writeConfig("")
	w.startProcess()
	for _, f := range w.fakes {
		f.SetScript(byHost(map[string]lab.Behaviour{"dead.test": lab.Status(504)}))
	}
	w.fakes[0].SetBehaviour(lab.Behaviour{Reset: true})
	requestUntil(t, "F1 has failed", func(int) {
		require.Equal(t, 200, w.get().status)
		w.request("GET", "http://dead.test/", "")
	}, func() bool {
		p := w.getJSON("/metrics/retries/by-proxy")["proxies"].(map[string]any)["F1"]
		return p != nil && p.(map[string]any)["failure_count"].(float64) > 0
	})
	status, _, _ := w.call("POST", "/proxies/F2/ban", `{"for":"1h"}`)
	require.Equal(t, 200, status)
	target := func() map[string]any {
		for _, x := range w.getJSON("/targets")["targets"].([]any) {
			if x := x.(map[string]any); x["target"] == "dead.test" || x["target"] == "dead.test:80" {
				return x
			}
		}
		return nil
	}
	causes := func() string {
		p := w.getJSON("/metrics/retries/by-proxy")["proxies"].(map[string]any)
		return fmt.Sprint(p["F1"].(map[string]any)["causes"])
	}
	wantTarget, wantCauses := target(), causes()
	require.NotNil(t, wantTarget)
	w.stop()
	w.startProcess()
	require.Equal(t, wantCauses, causes())
	require.NotNil(t, target())
	require.Equal(t, fmt.Sprint(wantTarget["reasons"]), fmt.Sprint(target()["reasons"]))
	require.Regexp(t, `\d+ % delivered in the last 5 minutes`, w.getJSON("/status")["summary"])
	require.Equal(t, 1.0, w.getJSON("/status")["proxies"].(map[string]any)["banned"])
}
