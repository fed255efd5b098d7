package integration

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

const confLimits = "[health]\nreachability = false\n[timeouts]\nadaptive = false\n[queue]\nmax_wait = \"10m\"\n"

// requireSpaced requires that each arrival, with index n, is at least n intervals after began, a time before the first
// request.
func requireSpaced(t *testing.T, began time.Time, arrivals []lab.Arrival, interval time.Duration) {
	t.Helper()
	slices.SortFunc(arrivals, func(a, b lab.Arrival) int { return a.At.Compare(b.At) })
	for i, a := range arrivals {
		require.GreaterOrEqual(t, a.At.Sub(began), time.Duration(i)*interval, "arrival %d", i)
	}
}

// Each proxy gets one request for the limited host in 2 s; the other requests wait, and all are served. Requests for
// another host do not wait. A limit is not a failure.
func TestS140LimitsPerProxyAndHost(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confLimits+"[[limits]]\nhost = \"*.shop.test\"\nmin_interval = \"2s\"\n")
	began := time.Now()
	var wg sync.WaitGroup
	var served atomic.Int64
	for range 6 {
		wg.Go(func() {
			if a := w.fetch("www.shop.test"); a.status != 200 || a.attempts() != "1" {
				t.Error(a.status, a.attempts())
			}
			served.Add(1)
		})
	}
	others := 0
	for ; served.Load() < 6; others++ {
		require.Equal(t, 200, w.fetch("other.test").status)
	}
	wg.Wait()
	all := time.Since(began)
	for _, f := range w.fakes {
		limited := slices.DeleteFunc(f.Arrivals(), func(a lab.Arrival) bool {
			return a.Target != "http://www.shop.test/"
		})
		require.Len(t, limited, 3, "both proxies serve the host equally")
		requireSpaced(t, began, limited, 2*time.Second)
		require.Equal(t, "closed", w.breaker(f.Name)["state"])
	}
	require.GreaterOrEqual(t, all, 4*time.Second)
	require.Greater(t, others, 6, "the other host does not wait for the limit")
	w.reconcile(0)
}

// The rate of a proxy is changed through the API. If a limit lasts longer than the wait in the queue, the response is a
// 503 at once, with the time of the limit.
func TestS141ARateAndItsEnd(t *testing.T) {
	t.Parallel()
	w := start(t, 1, "[health]\nreachability = false\n")
	status, body, _ := w.call("PATCH", "/proxies/F1", `{"rate": 0.01}`)
	require.Equal(t, 200, status, "%s", body)
	require.Equal(t, 200, w.get().status)
	a := w.get()
	require.Equal(t, 503, a.status)
	require.Equal(t, "all_proxies_busy", a.outcome())
	wait, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(t, err)
	require.Greater(t, wait, 30)
	require.LessOrEqual(t, wait, 100)
	p := w.getJSON("/proxies/F1")
	require.Equal(t, 0.01, p["rate"])
	require.WithinDuration(t, time.Now().Add(100*time.Second), w.parseTime(p["limited_until"]), 60*time.Second)
	require.Equal(t, 1, w.fakes[0].Count())
	status, body, _ = w.call("PATCH", "/proxies/F1", `{"rate": 0}`)
	require.Equal(t, 200, status, "%s", body)
	require.Equal(t, 200, w.get().status)
}

// The bytes of a day are counted in both directions, and survive a restart and a kill.
func TestS142BytesOfTheDaySurviveARestart(t *testing.T) {
	t.Parallel()
	waitPastMidnight()
	w := start(t, 2, "[health]\nreachability = false\n")
	w.stop()
	w.stateDir = t.TempDir()
	w.writeConfig("[health]\nreachability = false\n[[limits]]\nbytes_per_day = 50000\n")
	w.startProcess()
	w.setAll(lab.Behaviour{Size: 20_000})
	served := 0
	for w.get().status == 200 {
		served++
		require.Less(t, served, 10, "the limit has no effect")
	}
	require.Equal(t, 6, served, "each proxy serves two responses within the limit, and one that exceeds it")
	for _, f := range w.fakes {
		today := w.getJSON("/proxies/" + f.Name)["bytes_today"].(float64)
		require.Greater(t, today, 60_000.0)
		require.Less(t, today, 65_000.0)
	}
	w.stop()
	w.startProcess()
	a := w.get()
	require.Equal(t, 503, a.status)
	require.Equal(t, "all_proxies_busy", a.outcome())
	wait, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(t, err)
	midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	require.WithinDuration(t, midnight, time.Now().Add(time.Duration(wait)*time.Second), 5*time.Second)
}

// The bytes of a tunnel count while it is open.
func TestBytesOfAnOpenTunnelCount(t *testing.T) {
	t.Parallel()
	waitPastMidnight()
	host := responder(t, nil)
	w := start(t, 1, "[health]\nreachability = false\n[[limits]]\nbytes_per_day = 1000000\n")
	status, _, c := w.connect(host)
	require.Equal(t, 200, status)
	defer c.Close()
	before := w.getJSON("/proxies/F1")["bytes_today"].(float64)
	fmt.Fprintf(c, "GET /x HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	eventually(t, "the bytes are counted", func() bool {
		return w.getJSON("/proxies/F1")["bytes_today"].(float64) > before+100
	})
	require.Equal(t, 1.0, w.getJSON("/proxies/F1")["in_flight"])
}
