package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// requestCounter passes requests on to the API, and counts them by path. It can hold the event stream back, as a
// reverse proxy that buffers does.
type requestCounter struct {
	api http.Handler

	mu     sync.Mutex // guards the fields below
	counts map[string]int
	last   time.Time          // time at which the last request arrived
	stop   context.CancelFunc // ends the event stream
	opened int                // number of event streams so far
	held   chan struct{}      // not nil while the event stream is held back; closed at the end of that
}

func (c *requestCounter) ServeHTTP(rw http.ResponseWriter, q *http.Request) {
	ctx, cancel := context.WithCancel(q.Context())
	defer cancel()
	path, isAPI := strings.CutPrefix(q.URL.Path, "/api/v1/")
	c.mu.Lock()
	held := c.held
	if path == "events" {
		c.stop = cancel
		c.opened++
	} else if isAPI {
		held = nil
		c.counts[path]++
		c.last = time.Now()
	} else {
		held = nil
	}
	c.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return
		}
	}
	c.api.ServeHTTP(rw, q.WithContext(ctx))
}

// take returns the counts since the last take.
func (c *requestCounter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.counts
	c.counts = map[string]int{}
	return counts
}

// quietFor reports whether there has been no request for a time.
func (c *requestCounter) quietFor(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.last) >= d
}

// hold ends the event stream and holds the next one back. The function release lets it pass.
func (c *requestCounter) hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := make(chan struct{})
	c.held = held
	c.stop()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held = nil
		close(held)
	}
}

// The dashboard requests only the data that has changed according to the event stream, and nothing while the page is
// hidden. If a proxy buffers the stream, the page reports this and polls.
func TestTheDashboardListens(t *testing.T) {
	const quiet = 4 * time.Second // a page that polls is never quiet for so long
	w := start(t, 6, "")
	w.get()
	c := &requestCounter{api: dashboardOf(w.api, w.api), counts: map[string]int{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close) // the browser, which keeps the event stream open, ends first
	b := openBrowser(t, server.URL+"/", 1280, 900)
	const rows, link = `document.querySelector("#proxies").rows.length`, `document.querySelector("#link").textContent`

	left := 6 // proxies in the pool
	shown := func(what string) {
		t.Helper()
		b.until(what, fmt.Sprintf("%s === %d", rows, left))
	}
	drain := func() {
		t.Helper()
		status, body, _ := w.call("DELETE", fmt.Sprintf("/proxies/F%d?drain=true", left), "")
		require.Equal(t, 204, status, "%s", body)
		left--
	}
	shown("the page shows the pool")
	b.until("the page listens", link+` === "live"`)
	eventually(t, "the page of an idle gateway requests nothing", func() bool { return c.quietFor(quiet) })

	// On a machine with much load, the page may have lost the stream and polled for a moment. So one of three changes
	// must show that it requests only the views of the change.
	var unchanged []string
	for left > 3 {
		c.take()
		begun := time.Now()
		drain()
		shown("the change is visible")
		t.Logf("the change was visible after %v", time.Since(begun))
		eventually(t, "the page requests nothing more", func() bool { return c.quietFor(quiet) })
		counts := c.take()
		unchanged = []string{"plugins", "requests", "targets", "retry/policy", "metrics/history", "metrics/retries",
			"status", "circuit-breakers/metrics"}
		unchanged = slices.DeleteFunc(unchanged, func(path string) bool { return counts[path] == 0 })
		if len(unchanged) == 0 {
			break
		}
	}
	require.Empty(t, unchanged, "requests for views that have not changed")

	hide := func(hidden string) {
		b.eval(`Object.defineProperty(document, "hidden", { configurable: true, get: () => ` + hidden + ` });
			void document.dispatchEvent(new Event("visibilitychange"))`)
	}
	hide("true")
	drain()
	b.until("the stream reports the state",
		fmt.Sprintf(`/^(All %d proxies|The proxy)/.test(document.querySelector("#verdict").textContent)`, left))
	b.eval(`new Promise(next => setTimeout(next, 2500))`) // a visible page would request the list in this time
	require.Empty(t, c.take(), "a hidden page requests nothing")
	hide("false")
	shown("the page is up to date when it is visible again")

	release := c.hold()
	b.until("the page polls", link+` === "polling, because a proxy holds the event stream back"`)
	drain()
	shown("a poll shows the change")
	release()
	b.until("the page listens again", link+` === "live"`)
	eventually(t, "the polls end", func() bool { return c.quietFor(quiet) })
}

// S179: Seven tabs share one event stream. A browser opens at most six connections to a host, so with a stream for
// each tab the seventh tab would wait forever. The stream continues when the tab that was opened first is closed.
func TestS179TabsShareAStream(t *testing.T) {
	const tabs = 7
	w := start(t, 3, "")
	c := &requestCounter{api: dashboardOf(w.api, w.api), counts: map[string]int{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close) // the browser, which keeps the event stream open, ends first
	b := openBrowser(t, server.URL+"/", 1280, 900)
	sessions := []string{b.session}
	for len(sessions) < tabs {
		sessions = append(sessions, b.openTab(server.URL+"/", 1280, 900))
	}
	isLive := func(proxies int) {
		t.Helper()
		for i, session := range sessions {
			b.session = session
			b.call("Page.bringToFront", map[string]any{}, nil) // a hidden page requests no list
			b.until(fmt.Sprintf("tab %d is live", i), fmt.Sprintf(`
				document.querySelector("#link").textContent === "live"
				&& document.querySelector("#proxies").rows.length === %d
				&& /^(All %d|Both) proxies/.test(document.querySelector("#verdict").textContent)`, proxies, proxies))
		}
	}
	isLive(3)
	streams := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.opened
	}
	opened := streams() // 1, or more if the stream was lost for a moment on a machine with much load
	require.Less(t, opened, tabs, "event streams of all tabs")

	b.session = sessions[0]
	b.call("Page.close", map[string]any{}, nil)
	sessions = sessions[1:]
	status, body, _ := w.call("DELETE", "/proxies/F3", "")
	require.Equal(t, 204, status, "%s", body)
	isLive(2)
	require.LessOrEqual(t, streams(), opened+1, "the other tabs open no streams of their own")
}

// The error of an action is visible where the action was: in a dialog, in the upper one of two after a reload, and far
// down the page. A chart says that it could not be loaded.
func TestTheDashboardShowsErrorsInView(t *testing.T) {
	w := start(t, 2, "")
	b := openBrowser(t, "http://"+w.api+"/", 1280, 700)
	b.until("the page shows the pool", `document.querySelector("#proxies").rows.length === 2`)
	const seen = `window.seen = () => {
		const box = document.querySelector("#alert").getBoundingClientRect();
		const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
		return top?.closest("#alert")?.textContent || "";
	}`
	b.eval(seen)
	b.eval(`document.querySelector("#proxies [data-key=F1] .link-button").click()`)
	b.until("the page of a proxy is open", `document.querySelectorAll("#proxy .actions button").length > 0`)
	const setBan = `window.confirm = () => true;
		window.ban = [...document.querySelectorAll("#proxy .actions button")].find(b => /^ban/.test(b.textContent))`
	b.eval(setBan)
	status, body, _ := w.call("DELETE", "/proxies/F1", "")
	require.Equal(t, 204, status, "%s", body)
	b.eval(`ban.click()`) // it works even if the page has been drawn again
	b.until("the error of an action is visible in the dialog", `seen().startsWith("F1: there is no proxy")`)
	b.eval(`document.querySelector("#proxy .close").click()`)
	b.until("it is visible on the page", `seen().startsWith("F1: there is no proxy")`)
	b.eval(`document.querySelector("#alert button").click()`)
	b.until("it can be closed", `document.querySelector("#alert").hidden`)

	w.writeConfig("[retry]\nmax_attempts = 11\n")
	b.eval(`document.querySelector("#configuration").open = true; document.querySelector("#readagain").scrollIntoView();
		document.querySelector("#readagain").click()`)
	b.until("the error is visible far down the page", `scrollY > 300 && seen().startsWith(`+
		`"reload the file: the configuration was not reloaded; the previous one stays in force")`)

	b.call("Network.enable", map[string]any{}, nil)
	b.call("Network.setCacheDisabled", map[string]any{"cacheDisabled": true}, nil)
	b.call("Network.setBlockedURLs", map[string]any{"urls": []string{"*uplot.js"}}, nil)
	b.eval(`location.hash = "#proxy=F2&request=R"; location.reload()`)
	b.until("both dialogs are open", `document.querySelectorAll("dialog[open]").length === 2 &&
		document.querySelectorAll("#proxy .actions button").length > 0`)
	b.until("a chart could not be loaded", `document.querySelector("#chart").textContent.includes("not be loaded")`)
	b.eval(seen)
	b.eval(setBan)
	status, body, _ = w.call("DELETE", "/proxies/F2", "")
	require.Equal(t, 204, status, "%s", body)
	b.eval(`ban.click()`)
	b.until("the error is visible in the upper dialog", `seen().startsWith("F2: there is no proxy")`)
}
