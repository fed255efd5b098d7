package integration

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// startLimited runs the gateway with two fakes, each with max_in_flight = n.
func startLimited(t *testing.T, n int, config string) *whirl {
	w := start(t, 2, config)
	for _, f := range w.fakes {
		status, body, _ := w.call("PATCH", "/proxies/"+f.Name, fmt.Sprintf(`{"max_in_flight":%d}`, n))
		require.Equal(t, 200, status, "%s", body)
	}
	return w
}

// countInState returns the number of requests in a state.
func (w *whirl) countInState(state string) int {
	return len(w.getJSON("/requests?limit=10000&state=" + state)["requests"].([]any))
}

// queueMetric returns a metric of the queue for a place in flight.
func (w *whirl) queueMetric(name, priority string) (value float64) {
	line := fmt.Sprintf("whirlpool_%s{priority=%q,queue=\"place\"} ", name, priority)
	_, rest, found := strings.Cut(w.scrape(), line)
	require.True(w.t, found, line)
	fmt.Sscan(rest, &value)
	return value
}

// Fifty clients of high priority and fifty of low priority send requests for four places, without a pause. High
// requests get most of the places and wait for less time. Low requests get at least one place in twenty. A request
// that waits for queue.max_wait is refused, and its response has a Retry-After.
func TestS71HighAndLowShareFourPlaces(t *testing.T) {
	w := startLimited(t, 2, "[queue]\nmax_wait = \"1s\"\n[timeouts]\nadaptive = false\n")
	hold := make(chan struct{}) // closed when nearly all clients wait
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	w.setAll(lab.Behaviour{WaitFor: hold, Delay: 20 * time.Millisecond})
	type class struct {
		mu      sync.Mutex
		served  int
		refused int
		took    []time.Duration
	}
	classes := map[string]*class{"high": {}, "low": {}}
	var stop atomic.Bool
	var all sync.WaitGroup
	for priority, c := range classes {
		for range 50 {
			all.Go(func() {
				for !stop.Load() {
					a := w.get("X-Whirlpool-Priority", priority)
					if stop.Load() {
						return // at the end, only low requests are left in the queue
					}
					c.mu.Lock()
					switch {
					case a.status == 200:
						c.served++
						c.took = append(c.took, a.duration)
					case a.status == 503 && a.outcome() == "all_proxies_busy" && a.header.Get("Retry-After") == "1":
						c.refused++
						if a.duration < time.Second || a.duration > time.Second+tolerance(a.sentAt) {
							t.Errorf("a %s request waited for %v", priority, a.duration)
						}
					default:
						t.Errorf("%d %s", a.status, a.body)
					}
					c.mu.Unlock()
				}
			})
		}
	}
	eventually(t, "nearly all clients wait", func() bool { return w.countInState("queued") >= 90 })
	release()
	eventually(t, "600 responses", func() bool { return w.arrivals() >= 600 })
	stop.Store(true)
	all.Wait()
	high, low := classes["high"], classes["low"]
	share := float64(low.served) / float64(high.served+low.served)
	median := func(c *class) time.Duration {
		slices.Sort(c.took)
		return c.took[len(c.took)/2]
	}
	t.Logf("served: %d high, %d low (%.1f %%); refused: %d high, %d low; median: %v high, %v low", high.served,
		low.served, 100*share, high.refused, low.refused, median(high), median(low))
	require.GreaterOrEqual(t, share, 0.05)
	require.LessOrEqual(t, share, 0.12, "1 of 13, and a few at the beginning")
	require.Less(t, median(high), median(low))
	for _, priority := range []string{"high", "low"} {
		require.Zero(t, w.queueMetric("queue_waiting", priority))
		require.GreaterOrEqual(t, int(w.queueMetric("queue_expired_total", priority)), classes[priority].refused)
	}
	require.Positive(t, w.queueMetric("queued_total", "low"))
	for _, f := range w.fakes {
		for _, a := range f.Arrivals() {
			require.Empty(t, a.Header.Get("X-Whirlpool-Priority"))
		}
	}
	w.reconcile(0)
}

// If a client leaves while its request waits, the request takes no place. The next request gets the place.
func TestS72AClientLeavesTheQueue(t *testing.T) {
	w := startLimited(t, 1, "[queue]\nmax_wait = \"1m\"\n")
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	w.setAll(lab.Behaviour{WaitFor: hold})
	var all sync.WaitGroup
	ask := func(priority string) {
		all.Go(func() {
			if a := w.get("X-Whirlpool-Priority", priority); a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	ask("low")
	ask("low")
	eventually(t, "both places are taken", func() bool { return w.arrivals() == 2 })
	var leaving []net.Conn
	for _, head := range []string{
		"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n",
		"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n",
	} {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		defer c.Close()
		fmt.Fprintf(c, "%sX-Whirlpool-Priority: high\r\n\r\n", head)
		leaving = append(leaving, c)
	}
	ask("normal")
	eventually(t, "three wait", func() bool { return w.countInState("queued") == 3 })
	require.EqualValues(t, 2, w.queueMetric("queue_waiting", "high"))
	for _, c := range leaving {
		c.Close()
	}
	eventually(t, "two have left", func() bool { return w.countInState("queued") == 1 })
	release()
	all.Wait()
	w.setAll(lab.OK())
	require.Equal(t, 3, w.arrivals(), "nothing was sent for those that left")
	for _, f := range w.fakes {
		require.Zero(t, w.getJSON("/proxies/" + f.Name)["in_flight"])
	}
	for _, r := range w.getJSON("/requests?state=done")["requests"].([]any) {
		if q, waited := r.(map[string]any)["queue"]; waited {
			require.Positive(t, q.(map[string]any)["waited"])
			require.Contains(t, []string{"high", "normal"}, q.(map[string]any)["priority"])
		}
	}
	w.reconcile(0)
}

// The user of a request limits its priority. An unknown priority is refused.
func TestPrioritiesOfUsers(t *testing.T) {
	w := startLimited(t, 1, "[queue]\nmax_wait = \"1m\"\n"+`
[[gateway.users]]
name = "crawler"
password = "crawler-password"
priority = "low"
[[gateway.users]]
name = "shop"
password = "shop-password"
`)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	w.setAll(lab.Behaviour{WaitFor: hold})
	as := func(user, priority string) []string {
		q, _ := http.NewRequest("GET", "http://a.test/", nil)
		q.SetBasicAuth(user, user+"-password")
		headers := []string{"Proxy-Authorization", q.Header.Get("Authorization")}
		if priority != "" {
			headers = append(headers, "X-Whirlpool-Priority", priority)
		}
		return headers
	}
	a := w.get(as("shop", "urgent")...)
	require.Equal(t, 400, a.status)
	require.Contains(t, a.body, "invalid_priority")
	require.Contains(t, a.body, "it must be high, normal or low")
	var all sync.WaitGroup
	ask := func(headers ...string) {
		all.Go(func() {
			if a := w.get(headers...); a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	ask(as("shop", "")...)
	ask(as("shop", "")...)
	eventually(t, "both places are taken", func() bool { return w.arrivals() == 2 })
	ask(as("crawler", "high")...)
	ask(as("crawler", "")...)
	ask(as("shop", "high")...)
	ask(as("shop", "")...)
	all.Go(func() { w.postRequest(`{"url":"http://origin.test/","priority":"high"}`) })
	eventually(t, "five wait", func() bool { return w.countInState("queued") == 5 })
	waiting := map[string]int{}
	for _, p := range []string{"high", "normal", "low"} {
		waiting[p] = int(w.queueMetric("queue_waiting", p))
	}
	require.Equal(t, map[string]int{"high": 2, "normal": 1, "low": 2}, waiting)
	release()
	all.Wait()
	require.Equal(t, map[string]any{"max_waiting": 1024.0, "max_wait": "1m0s"},
		w.getJSON("/config")["config"].(map[string]any)["queue"])
}

// With blame = "literal" requests wait only if the configuration has [queue].
func TestTheQueueWithLiteralBreakers(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		took   float64
	}{"no queue": {confK, 0}, "with one": {confK + "[queue]\nmax_wait = \"0.5s\"\n", 0.5}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startLimited(t, 1, c.config)
			hold := make(chan struct{})
			release := sync.OnceFunc(func() { close(hold) })
			t.Cleanup(release)
			w.setAll(lab.Behaviour{WaitFor: hold})
			var all sync.WaitGroup
			for range 2 {
				all.Go(func() { w.get() })
			}
			eventually(t, "both places are taken", func() bool { return w.arrivals() == 2 })
			a := w.get()
			require.Equal(t, 503, a.status)
			require.Equal(t, "all_proxies_busy", a.outcome())
			require.Equal(t, "1", a.header.Get("Retry-After"))
			requireTook(t, a, c.took)
			release()
			all.Wait()
		})
	}
}
