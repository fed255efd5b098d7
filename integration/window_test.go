package integration

import (
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// The window slides continuously. Failures leave the window one by one, and five failures within the length of the
// window open the breaker at any time.
func TestS39TheWindowSlides(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confKB) // 5 failures within 2 s
	w.setAll(lab.Status(503))
	begin := time.Now()
	at := func(s float64) { time.Sleep(time.Until(begin.Add(time.Duration(s * float64(time.Second))))) }
	var failures []response
	get := func() { failures = append(failures, w.get()) }
	// check compares the breaker with the failures of the last 2 s. On a slow machine a failure may be at the edge of
	// the window: it happened at an unknown time during its request, and the breaker's state is from an unknown time
	// during the request to the API.
	check := func() (state any, possible float64) {
		t.Helper()
		from := time.Now()
		b := w.breaker("F1")
		to := time.Now()
		certain := 0.0
		for _, f := range failures {
			if f.sentAt.Add(2 * time.Second).After(to) {
				certain++
			}
			if f.sentAt.Add(f.duration + 2*time.Second).After(from) {
				possible++
			}
		}
		require.GreaterOrEqual(t, b["failure_count"], certain)
		require.LessOrEqual(t, b["failure_count"], possible)
		if certain >= 5 {
			require.Equal(t, "open", b["state"])
		}
		return b["state"], possible
	}
	get()
	get()
	at(1.2)
	get()
	get()
	check()
	at(2.3) // the first two failures have left the window, without traffic
	check()
	get()
	get()
	if state, failures := check(); failures < 5 {
		require.Equal(t, "closed", state)
	}
	at(2.9) // the failures at 1.2, 1.2, 2.3, 2.3 and 2.9
	get()
	check()
}

// Two hundred failures happen at the same time. They lead to one transition and one event, and no further
// attempt follows.
func TestS47ManyFailuresAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confOpen+roundRobin)
	hold := make(chan struct{})
	w.fakes[0].SetBehaviour(lab.Behaviour{Status: 503, WaitFor: hold})
	var wg sync.WaitGroup
	for range 400 {
		wg.Go(func() { w.get() })
	}
	eventually(t, "all are out", func() bool { return w.arrivals() == 400 })
	close(hold)
	eventually(t, "open", func() bool { return w.breaker("F1")["state"] == "open" })
	for range 50 {
		require.Equal(t, 200, w.get().status)
	}
	wg.Wait()
	require.Equal(t, 200, w.fakes[0].Count())
	require.Equal(t, []string{"open"}, w.transitions("F1")[:1])
	events := w.getJSON("/circuit-breakers/metrics")["events"].([]any)
	require.Equal(t, 5.0, events[0].(map[string]any)["failure_count"])
	opens := 0
	for _, s := range w.transitions("F1") {
		if s == "open" {
			opens++
		}
	}
	require.Equal(t, 1, opens, "results from before the trip change nothing")
	w.reconcile(0)
}

// Traffic, failures, probes and manual resets happen at the same time. The events of a breaker are still a
// valid sequence.
func TestS48OneHistory(t *testing.T) {
	t.Parallel()
	w := start(t, 2, "[retry]\nbackoff_strategy = \"fixed\"\nbase_delay = 0.1\nmax_attempts = 1\n[breaker]\n"+
		"blame = \"literal\"\nfailure_threshold = 3\nwindow_duration = \"1s\"\ntimeout_duration = \"50ms\"\n")
	var sick atomic.Bool
	for _, f := range w.fakes {
		f.SetScript(func(int, *http.Request) lab.Behaviour {
			if sick.Load() {
				return lab.Status(503)
			}
			return lab.OK()
		})
	}
	stops := []func(){
		coretest.RunConcurrently(16, func(int) {
			if a := w.get(); a.status == 503 && a.outcome() == "all_breakers_open" {
				time.Sleep(time.Millisecond)
			}
		}),
		coretest.RunConcurrently(1, func(int) {
			w.call("POST", "/circuit-breakers/F1/reset",
				"")
			time.Sleep(7 * time.Millisecond)
		}),
		coretest.RunConcurrently(1, func(int) { w.getJSON("/circuit-breakers"); time.Sleep(time.Millisecond) }),
	}
	reasons := []string{"F1threshold", "F1manual_reset", "F2threshold", "F2timeout", "F2probe_failure",
		"F2probe_success"}
	eventually(t, "each kind of change", func() bool {
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			sick.Store(!sick.Load())
		}
		met := map[string]bool{}
		for _, v := range w.getJSON("/circuit-breakers/metrics")["events"].([]any) {
			e := v.(map[string]any)
			met[e["proxy_id"].(string)+e["reason"].(string)] = true
		}
		return !slices.ContainsFunc(reasons, func(r string) bool { return !met[r] })
	})
	for _, stop := range stops {
		stop()
	}
	seen := map[string]int{}
	for _, id := range []string{"F1", "F2"} {
		eventually(t, "no change is due", func() bool { return w.breaker(id)["state"] != "open" })
		state := "closed"
		last := ""
		for _, v := range w.getJSON("/circuit-breakers/metrics")["events"].([]any) {
			e := v.(map[string]any)
			if e["proxy_id"] != id {
				continue
			}
			from, to, reason := e["from_state"].(string), e["to_state"].(string), e["reason"].(string)
			require.Equal(t, state, from, "a chain")
			require.Contains(t, []string{
				"closed open threshold", "open half_open timeout", "half_open closed probe_success",
				"half_open open probe_failure",
				"open closed manual_reset", "half_open closed manual_reset",
			}, from+" "+to+" "+reason)
			require.LessOrEqual(t, last, e["timestamp"].(string), "ascending")
			state, last = to, e["timestamp"].(string)
			seen[id+reason]++
		}
		require.Equal(t, w.breaker(id)["state"], state)
	}
	for _, reason := range reasons {
		require.NotZero(t, seen[reason], reason)
	}
	w.reconcile(0)
	all := len(w.getJSON("/circuit-breakers/metrics")["events"].([]any))
	require.Equal(t, float64(all), w.getJSON("/metrics/retries")["circuit_breaker_events_count"])
	w.stop()
	require.Equal(t, all, strings.Count(w.log.String(), `msg="circuit breaker `), "one record a transition")
}

// Breakers open while retries wait, and clients leave. All counts still agree, and the log has one record for
// each retry.
func TestS58CountsAgreeUnderAnyFailures(t *testing.T) {
	t.Parallel()
	w := start(t, 4, "[retry]\nbackoff_strategy = \"fixed\"\nbase_delay = 0.1\n[breaker]\nblame = \"literal\"\n"+
		"failure_threshold = 4\nwindow_duration = \"1s\"\ntimeout_duration = \"100ms\"\n[timeouts]\nattempt = \"1s\"\n")
	weather := []lab.Behaviour{
		lab.OK(), lab.OK(), lab.OK(), lab.OK(), lab.Status(503), lab.Challenge(), lab.Status(429), lab.Status(404),
		{Fin: true}, {Reset: true},
		{Garbage: "nonsense\r\n\r\n"}, {CutAfter: 10}, lab.Slow(20 * time.Millisecond),
		lab.Slow(1500 * time.Millisecond),
		{Pieces: 3, Interval: time.Millisecond},
	}
	for _, f := range w.fakes {
		f.SetScript(func(int, *http.Request) lab.Behaviour { return weather[rand.IntN(len(weather))] })
	}
	overrides := []string{"max_attempts=3", "max_attempts=5, retry_non_idempotent", "timeout=0.5", "failover_delay=0",
		"retry_status_codes=(429 503)"}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			client := *w.client
			for i := range 40 {
				client.Timeout = 20 * time.Second
				if i%8 == 0 {
					client.Timeout = 60 * time.Millisecond
				}
				q, _ := http.NewRequest([]string{"GET", "POST", "HEAD", "DELETE"}[i%4], "http://origin.test/", nil)
				q.Header.Set("X-Whirlpool-Retry", overrides[rand.IntN(len(overrides))])
				if r, err := client.Do(q); err == nil {
					io.Copy(io.Discard, r.Body)
					r.Body.Close()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	eventually(t, "all have ended", func() bool {
		for _, v := range w.getJSON("/requests")["requests"].([]any) {
			if v.(map[string]any)["state"] != "done" {
				return false
			}
		}
		return true
	})
	s := w.getJSON("/metrics/retries")
	w.awaitRetryRecords(int(s["total_retries"].(float64)))
	attempts := 0.0
	for _, p := range w.getJSON("/metrics/retries/by-proxy")["proxies"].(map[string]any) {
		attempts += p.(map[string]any)["total_attempts"].(float64)
	}
	// A reused connection may have ended before the proxy received the request. A client may leave before its
	// request was sent.
	lost := attempts - float64(w.arrivals())
	require.LessOrEqual(t, lost, s["replays"].(float64)+16*5)
	w.reconcile(int(lost))
	for _, f := range w.fakes {
		require.Equal(t, 0.0, w.getJSON("/proxies/" + f.Name)["in_flight"])
	}
}
