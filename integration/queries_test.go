package integration

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// An id may be any text without control characters, except for "metrics", which is a route. Everywhere an id
// is set, this name is refused.
func TestS09IdsAndTheMetricsRoute(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	for i, id := range []string{"a/b", "a b", "per%cent", "ü", "?q=1", "#f", "retry", "Metrics", "metrics/", "x:1",
		strings.Repeat("i", 256)} {
		status, body, _ := w.call("POST", "/proxies", fmt.Sprintf(`{"id":%q,"url":"http://127.0.0.1:%d"}`, id, i+1))
		require.Equal(t, 201, status, "%s", body)
		at := "/circuit-breakers/" + url.PathEscape(id)
		require.Equal(t, id, w.getJSON(at)["proxy_id"])
		status, body, _ = w.call("POST", at+"/reset", "")
		require.Equal(t, 200, status, "%s", body)
		require.Equal(t, id, w.getJSON("/proxies/" + url.PathEscape(id))["id"])
		status, body, _ = w.call("PATCH", "/proxies/"+url.PathEscape(id), `{"region":"EU"}`)
		require.Equal(t, 200, status, "%s", body)
		status, _, _ = w.call("DELETE", "/proxies/"+url.PathEscape(id), "")
		require.Equal(t, 204, status)
		status, _, _ = w.call("GET", at, "")
		require.Equal(t, 404, status)
	}
	for _, id := range []string{"metrics", "", strings.Repeat("i", 257), `a\u0000b`, `a\r\nX-Evil: 1`} {
		status, body, _ := w.call("POST", "/proxies", `{"id":"`+id+`","url":"http://127.0.0.1:1"}`)
		require.Equal(t, 400, status, "%q: %s", id, body)
	}
	events := w.getJSON("/circuit-breakers/metrics")
	require.Contains(t, events, "events")
	w.writeConfig(confK + "[[proxies]]\nid = \"metrics\"\nurl = \"http://127.0.0.1:1\"\n")
	eventually(t, "refused in the file", func() bool {
		return w.getJSON("/config")["reload"].(map[string]any)["ok"] == false
	})
	status, _, _ := w.call("POST", "/circuit-breakers/metrics/reset", "")
	require.Equal(t, 404, status)
}

// Without traffic, no total changes, whatever queries are made. The time series, the summary and the proxies
// have the same totals.
func TestS59QueriesChangeNoTotals(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK)
	w.fakes[0].SetScript(func(n int, _ *http.Request) lab.Behaviour {
		return lab.Behaviour{Status: []int{200, 503, 404}[n%3]}
	})
	for range 60 {
		w.get()
	}
	paths := []string{"/metrics/retries", "/metrics/retries/timeseries", "/metrics/retries/timeseries?interval=day",
		"/metrics/retries/by-proxy", "/circuit-breakers/metrics"}
	first := map[string]string{}
	for _, p := range paths {
		_, body, _ := w.call("GET", p, "")
		first[p] = string(body)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				for _, p := range paths {
					if _, body, _ := w.call("GET", p, ""); string(body) != first[p] {
						t.Errorf("%s: %s, was %s", p, body, first[p])
					}
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	w.reconcile(0)
	for _, hours := range []int{1, 24, 168} { // limited to the retention
		points := w.getJSON(fmt.Sprintf("/metrics/retries/timeseries?hours=%d", hours))
		require.Equal(t, 24.0, points["retention_hours"])
		total := 0.0
		for _, p := range points["data_points"].([]any) {
			total += p.(map[string]any)["total_requests"].(float64)
		}
		require.Equal(t, 60.0, total)
	}
}

// Queries take less than 100 ms with a thousand proxies, while traffic is counted.
func TestS65QueriesUnderLoad(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confK)
	var b strings.Builder
	b.WriteString(`{"proxies":[`)
	for i := range 1000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"p%d","url":"http://u%d:hunter2secret@%s"}`, i, i, w.fakes[i%2].Addr)
	}
	status, body, _ := w.call("POST", "/proxies", b.String()+"]}")
	require.Equal(t, 201, status, "%.200s", body)
	stop := coretest.RunConcurrently(4, func(int) {
		if a := w.get(); a.status != 200 {
			t.Errorf("%+v", a)
		}
	})
	defer stop()
	for _, path := range []string{"/metrics/retries", "/metrics/retries/timeseries", "/metrics/retries/by-proxy",
		"/circuit-breakers", "/circuit-breakers/metrics", "/proxies", "/requests"} {
		var took, control []time.Duration // control is a query with nearly no work, which alternates with the others
		for range 40 {
			for path, took := range map[string]*[]time.Duration{path: &took, "/retry/policy": &control} {
				begin := time.Now()
				status, _, _ := w.call("GET", path, "")
				*took = append(*took, time.Since(begin))
				require.Equal(t, 200, status)
			}
		}
		// Only the fastest query shows how long a query takes: on a loaded machine, the others also wait
		// for the CPU.
		require.Less(t, slices.Min(took), 100*time.Millisecond+3*slices.Min(control), path)
	}
	stop()
	w.reconcile(0)
}
