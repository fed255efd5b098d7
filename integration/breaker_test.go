package integration

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

func TestS37S38TheBreakerOpens(t *testing.T) {
	w := start(t, 1, confOpen)
	w.setAll(lab.Status(503))
	for range 4 {
		w.get()
	}
	b := w.breaker("F1")
	require.Equal(t, "closed", b["state"])
	require.Equal(t, 4.0, b["failure_count"])
	w.get()
	b = w.breaker("F1")
	require.Equal(t, "open", b["state"])
	require.Equal(t, 5.0, b["failure_count"])
	events := w.getJSON("/circuit-breakers/metrics")["events"].([]any)
	require.Len(t, events, 1)
	require.Equal(t, 5.0, events[0].(map[string]any)["failure_count"])
	opened := w.parseTime(events[0].(map[string]any)["timestamp"])
	require.WithinDuration(t, opened.Add(10*time.Minute), w.parseTime(b["next_test_time"]), 20*time.Millisecond)

	// A success does not clear the window.
	w.call("POST", "/circuit-breakers/F1/reset", "")
	w.fakes[0].SetScript(func(n int, _ *http.Request) lab.Behaviour {
		if n%2 == 0 {
			return lab.Status(503)
		}
		return lab.OK()
	})
	w.clearArrivals()
	for range 9 {
		w.get()
	}
	require.Equal(t, "open", w.breaker("F1")["state"])
}

func (w *whirl) tripBreaker(f *lab.Proxy) {
	f.SetBehaviour(lab.Status(503))
	before := len(w.transitions(f.Name))
	eventually(w.t, "open", func() bool {
		w.requestUntilArrivals(f, 1)
		return slices.Contains(w.transitions(f.Name)[before:], "open")
	})
}

func TestS41S42OneProbe(t *testing.T) {
	w := start(t, 3, confKB)
	w.tripBreaker(w.fakes[0])
	w.fakes[0].SetBehaviour(lab.OK())
	before := w.fakes[0].Count()
	w.requestUntilArrivals(w.fakes[0], 1)
	due := w.openedAt("F1").Add(time.Second)
	require.False(t, w.fakes[0].Arrivals()[before].At.Before(due), "no traffic while open")
	w.awaitState("F1", "closed")

	w.tripBreaker(w.fakes[0])
	hold := make(chan struct{})
	w.fakes[0].SetBehaviour(lab.Behaviour{WaitFor: hold})
	w.awaitState("F1", "half_open")
	before = w.fakes[0].Count()
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range 60 {
		wg.Go(func() { w.get(); answered.Add(1) })
	}
	eventually(t, "59 answers", func() bool { return answered.Load() == 59 })
	require.Equal(t, before+1, w.fakes[0].Count(), "exactly one probe")
	close(hold)
	wg.Wait()
	b := w.breaker("F1")
	require.Equal(t, "closed", b["state"])
	require.Equal(t, 0.0, b["failure_count"])
	w.fakes[0].SetBehaviour(lab.OK())
	w.clearArrivals()
	for range 300 {
		w.get()
	}
	require.InDelta(t, 100, w.fakes[0].Count(), 20, "its share is back")

	// A failed probe opens the breaker again for the full time.
	w.tripBreaker(w.fakes[0])
	w.awaitState("F1", "half_open")
	w.requestUntilArrivals(w.fakes[0], 1)
	w.reopened("F1")
}

// openedAt returns the time at which the breaker last opened.
func (w *whirl) openedAt(id string) (at time.Time) {
	for _, v := range w.getJSON("/circuit-breakers/metrics")["events"].([]any) {
		if e := v.(map[string]any); e["proxy_id"] == id && e["to_state"] == "open" {
			at = w.parseTime(e["timestamp"])
		}
	}
	return at
}

// reopened checks that a failed probe has opened the breaker for one second, the timeout_duration of confKB.
func (w *whirl) reopened(id string) {
	w.t.Helper()
	b := w.breaker(id)
	states := w.transitions(id)
	if last := len(states) - 1; states[last] == "half_open" { // on a slow machine it is half-open again
		states = states[:last]
	}
	require.Equal(w.t, []string{"half_open", "open"}, states[len(states)-2:])
	if b["state"] == "open" {
		require.WithinDuration(w.t, w.openedAt(id).Add(time.Second), w.parseTime(b["next_test_time"]),
			20*time.Millisecond)
	}
}

func TestS45AllOpen(t *testing.T) {
	w := start(t, 3, confKB)
	for _, f := range w.fakes {
		w.tripBreaker(f)
	}
	w.writeConfig(confOpen)
	eventually(t, "the change is loaded and each may be probed", func() bool {
		for _, f := range w.fakes {
			if b := w.breaker(f.Name); b["timeout_duration"] != 600.0 || b["state"] != "half_open" {
				return false
			}
		}
		return true
	})
	for range 12 {
		w.get() // the probes fail, and the breakers are now open for 10 min
	}
	first := w.openedAt("F1")
	n, conns := w.arrivals(), w.fakes[0].Connections()
	for range 200 {
		a := w.get()
		require.Equal(t, 503, a.status)
		require.Equal(t, "all_breakers_open", a.outcome())
		require.Contains(t, a.body, `"error":"all_breakers_open"`)
		after, err := strconv.Atoi(a.header.Get("Retry-After"))
		require.NoError(t, err)
		require.InDelta(t, 600-time.Since(first).Seconds(), after, 2+tolerance(a.sentAt).Seconds())
	}
	require.Equal(t, 503, w.do("POST", "x").status)
	status, h, _ := w.connect("origin.test:443")
	require.Equal(t, 503, status)
	require.Equal(t, "all_breakers_open", h.Get("X-Whirlpool-Outcome"))
	require.Equal(t, n, w.arrivals())
	require.Equal(t, conns, w.fakes[0].Connections())

	empty := start(t, 0, confK)
	a := empty.get()
	require.Equal(t, 503, a.status)
	require.Equal(t, "pool_empty", a.outcome())
}

func TestS49HalfOpenWithoutTraffic(t *testing.T) {
	w := start(t, 1, confKB)
	w.tripBreaker(w.fakes[0])
	w.setAll(lab.OK())
	w.awaitState("F1", "half_open")
	require.Equal(t, 200, w.get().status)
	require.Equal(t, "closed", w.breaker("F1")["state"])
}

func TestS58S60Reconcile(t *testing.T) {
	w := start(t, 3, confK)
	var mu sync.Mutex
	fails := 0
	for _, f := range w.fakes {
		f.SetScript(func(int, *http.Request) lab.Behaviour {
			mu.Lock()
			defer mu.Unlock()
			if fails > 0 {
				fails--
				return lab.Status(503)
			}
			return lab.OK()
		})
	}
	for want, n := range []int{50, 30, 15, 5} {
		for range n {
			fails = want
			if want == 3 {
				fails = 3
			}
			w.get()
		}
	}
	s := w.getJSON("/metrics/retries")
	require.Equal(t, 100.0, s["total_requests"])
	require.Equal(t, 170.0, s["total_attempts"])
	require.Equal(t, 70.0, s["total_retries"])
	require.Equal(t, map[string]any{"0": 50.0, "1": 30.0, "2": 15.0}, s["success_by_attempt"])
	w.reconcile(0)
	r, err := http.Get("http://" + w.api + "/metrics")
	require.NoError(t, err)
	text, _ := io.ReadAll(r.Body)
	r.Body.Close()
	for _, line := range []string{
		`whirlpool_retries_total{reason="http_503"} 70`,
		`whirlpool_requests_total{listener="http",outcome="success"} 95`,
		`whirlpool_requests_total{listener="http",outcome="exhausted"} 5`,
		`whirlpool_attempts_total{error="",outcome="success"} 95`,
		`whirlpool_attempts_total{error="http_503",outcome="failure"} 75`,
		`whirlpool_retry_success_total 45`, `whirlpool_retry_limit_exceeded_total 5`,
		`whirlpool_retry_budget_exhausted_total 0`,
		`whirlpool_attempt_duration_seconds_count{phase="ttfb"} 170`,
	} {
		require.Contains(t, string(text), line+"\n")
	}
	w.stop()
	w.awaitRetryRecords(70)
	require.Equal(t, 5, strings.Count(w.log.String(), "msg=\"request failed\""))
	require.NotContains(t, w.log.String(), "querysecret")
}

func TestS62ARequestThatWaits(t *testing.T) {
	w := start(t, 1, confK)
	w.putPolicy(`{"base_delay":20}`)
	w.setAll(lab.Status(503))
	go w.get()
	var r map[string]any
	eventually(t, "waiting", func() bool {
		list := w.getJSON("/requests?state=waiting")["requests"].([]any)
		if len(list) == 1 {
			r = list[0].(map[string]any)
		}
		return len(list) == 1
	})
	require.Equal(t, 1.0, r["current_attempt"])
	next, first := w.parseTime(r["next_retry_time"]), w.fakes[0].Arrivals()[0]
	require.False(t, next.Before(first.At.Add(20*time.Second)), "the wait begins after the attempt")
	require.WithinDuration(t, first.At.Add(20*time.Second), next, time.Second+tolerance(first.At))
	one := w.getJSON("/requests/" + r["id"].(string))
	require.Equal(t, "waiting", one["state"])
}

// Two signals at the same time count as one. A later second signal ends the wait for the requests in flight.
func TestASecondSignal(t *testing.T) {
	for _, later := range []bool{false, true} {
		w := start(t, 1, "")
		hold := make(chan struct{})
		w.fakes[0].SetBehaviour(lab.Behaviour{WaitFor: hold})
		got := make(chan response, 1)
		go func() { got <- w.get() }()
		eventually(t, "it runs", func() bool { return w.arrivals() == 1 })
		w.signal(syscall.SIGTERM)
		if !later {
			w.signal(syscall.SIGTERM)
			eventually(t, "it drains", func() bool { return strings.Contains(w.log.String(), "draining") })
			close(hold)
			require.Equal(t, 200, (<-got).status)
			require.NoError(t, w.cmd.Wait())
			continue
		}
		eventually(t, "it drains", func() bool { return strings.Contains(w.log.String(), "draining") })
		ended := make(chan error, 1)
		go func() { ended <- w.cmd.Wait() }()
		var err error
		eventually(t, "it ends", func() bool {
			select {
			case err = <-ended:
				return true
			case <-time.After(300 * time.Millisecond):
				w.cmd.Process.Signal(syscall.SIGTERM)
				return false
			}
		})
		require.Error(t, err, "exit 1")
		require.Contains(t, w.log.String(), "stopped by a second signal")
		require.NotEqual(t, 200, (<-got).status)
		close(hold)
	}
}

func TestS64AClientThatLeavesIsChargedToNobody(t *testing.T) {
	w := start(t, 1, confKB)
	w.setAll(lab.Behaviour{NoResponse: true})
	for i := range 10 {
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			eventually(t, "it arrives", func() bool { return w.arrivals() == i+1 })
			leave()
		}()
		q, err := http.NewRequestWithContext(ctx, "GET", "http://origin.test/", nil)
		require.NoError(t, err)
		_, err = w.client.Do(q)
		require.ErrorIs(t, err, context.Canceled)
	}
	eventually(t, "all cancelled", func() bool {
		p, ok := w.getJSON("/metrics/retries/by-proxy")["proxies"].(map[string]any)["F1"].(map[string]any)
		return ok && p["cancelled_count"] == float64(w.arrivals())
	})
	b := w.breaker("F1")
	require.Equal(t, "closed", b["state"])
	require.Equal(t, 0.0, b["failure_count"])
	eventually(t, "attempts end", func() bool { return w.fakes[0].OpenConnections() == 0 })
	w.reconcile(0)
}

func TestS63ManyAtOnce(t *testing.T) {
	w := start(t, 3, confK+"[timeouts]\nattempt = \"5m\"\nconnect = \"1m\"\n")
	for _, f := range w.fakes {
		f.SetScript(func(n int, _ *http.Request) lab.Behaviour {
			b := lab.Behaviour{Delay: 100 * time.Millisecond}
			if n%10 == 0 {
				b.Status = 503
			}
			return b
		})
	}
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			if a := w.get(); a.status != 200 && a.status != 503 {
				t.Errorf("%+v", a)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1000.0, w.getJSON("/metrics/retries")["total_requests"])
	w.reconcile(0)
}

func TestS66Restart(t *testing.T) {
	w := start(t, 1, confKB)
	w.tripBreaker(w.fakes[0])
	w.putPolicy(`{"max_attempts":7}`)
	w.signal(syscall.SIGKILL)
	w.cmd.Wait()
	w.startProcess()
	require.Equal(t, "closed", w.breaker("F1")["state"])
	require.Equal(t, 1.0, w.getJSON("/retry/policy")["max_attempts"])
	require.Equal(t, 0.0, w.getJSON("/metrics/retries")["total_requests"])

	hold := make(chan struct{})
	w.setAll(lab.Behaviour{WaitFor: hold})
	w.clearArrivals()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if a := w.get(); a.status != 200 {
				t.Errorf("%+v", a)
			}
		})
	}
	eventually(t, "all running", func() bool { return w.arrivals() == 50 })
	w.signal(syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return strings.Contains(w.log.String(), "draining") })
	close(hold)
	wg.Wait()
	require.NoError(t, w.cmd.Wait(), "exit 0")
}

func TestS68Reload(t *testing.T) {
	w := start(t, 3, confK)
	stop := coretest.RunConcurrently(1, func(int) {
		if a := w.get(); a.status != 200 {
			t.Errorf("%+v", a)
		}
		time.Sleep(5 * time.Millisecond)
	})
	for bad, key := range map[string]string{
		"[retry\n": "TOML", "[retry]\nmax_attempts = 11\n": "retry.max_attempts",
		"[[proxies]]\nid=\"F1\"\nurl=\"http://127.0.0.1:1\"\n": "F1",
		"[selection]\nfirst = \"nope\"\n":                      "selection.first",
		"[pool]\nfiles = [\"missing.txt\"]\n":                  "pool.files",
	} {
		count := strings.Count(w.log.String(), "not reloaded")
		w.writeConfig(bad)
		eventually(t, "refused: "+key, func() bool { return strings.Count(w.log.String(), "not reloaded") > count })
		reload := w.getJSON("/config")["reload"].(map[string]any)
		require.Equal(t, false, reload["ok"])
		_, body, _ := w.call("GET", "/config", "")
		require.Contains(t, string(body), key)
	}
	w.writeConfig(confK + "[log]\nlevel = \"info\"\n[selection]\nfirst = \"random\"\n")
	eventually(t, "a good one works",
		func() bool { return w.getJSON("/config")["reload"].(map[string]any)["ok"] == true })
	stop()
	w.putPolicy(`{"max_attempts":9}`)
	w.writeConfig(confK + "[selection]\nfirst = \"weighted\"\n")
	eventually(t, "it is loaded", func() bool {
		return w.getJSON("/config")["config"].(map[string]any)["selection"].(map[string]any)["first"] == "weighted"
	})
	require.Equal(t, 9.0, w.getJSON("/retry/policy")["max_attempts"], "a policy put at run time stays")
	w.writeConfig(strings.Replace(confK, "0.1", "0.2", 1))
	eventually(t, "until [retry] changes", func() bool { return w.getJSON("/retry/policy")["max_attempts"] == 3.0 })
}
