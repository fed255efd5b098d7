package integration

import (
	"context"
	"net/http"
	"net/http/httptest"
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
	last   time.Time          // when the last request arrived
	stop   context.CancelFunc // ends the event stream
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

// hold ends the event stream and holds the next one back. The result ends that.
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

// The dashboard requests only what the event stream reports as changed, and nothing while it is hidden. If a proxy
// buffers the stream, the page says so and polls.
func TestTheDashboardListens(t *testing.T) {
	const quiet = 6 * time.Second // a page that polls is never quiet for so long
	w := start(t, 4, "")
	w.get()
	c := &requestCounter{api: dashboardOf(w.api, w.api), counts: map[string]int{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close) // after the browser has ended, which keeps the event stream open
	b := openBrowser(t, server.URL+"/", 1280, 900)
	const rows, link = `document.querySelector("#proxies").rows.length`, `document.querySelector("#link").textContent`
	drain := func(id string) {
		t.Helper()
		status, body, _ := w.call("DELETE", "/proxies/"+id+"?drain=true", "")
		require.Equal(t, 204, status, "%s", body)
	}

	b.until("the page is up to date", rows+` === 4 && `+link+` === "live"`)
	eventually(t, "the page of an idle gateway requests nothing", func() bool { return c.quietFor(quiet) })
	for path, n := range c.take() {
		require.LessOrEqual(t, n, 3, "requests for %s until then", path)
	}

	begun := time.Now()
	drain("F1")
	b.until("the change is visible", rows+` === 3`)
	t.Logf("the change was visible after %v", time.Since(begun))
	eventually(t, "the page requests nothing more", func() bool { return c.quietFor(quiet) })
	counts := c.take()
	for _, unchanged := range []string{"plugins", "requests", "targets", "retry/policy", "metrics/history",
		"metrics/retries", "status", "circuit-breakers/metrics"} {
		require.Zero(t, counts[unchanged], unchanged)
	}

	hide := func(hidden string) {
		b.eval(`Object.defineProperty(document, "hidden", { configurable: true, get: () => ` + hidden + ` });
			void document.dispatchEvent(new Event("visibilitychange"))`)
	}
	hide("true")
	drain("F2")
	b.until("the stream reports the state",
		`document.querySelector("#verdict").textContent.startsWith("All 2 proxies")`)
	b.eval(`new Promise(next => setTimeout(next, 2500))`) // in which a visible page would request the list
	require.Empty(t, c.take(), "a hidden page requests nothing")
	hide("false")
	b.until("the page is up to date when it is visible again", rows+` === 2`)

	release := c.hold()
	b.until("the page polls", link+` === "polling, because a proxy holds the event stream back"`)
	drain("F3")
	b.until("a poll shows the change", rows+` === 1`)
	release()
	b.until("the page listens again", link+` === "live"`)
	eventually(t, "the polls end", func() bool { return c.quietFor(quiet) })
}
