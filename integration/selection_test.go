package integration

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A retry uses a proxy that the request has not used yet. If there is none, it uses the proxy that the
// request used longest ago.
func TestS50RetriesUseUntriedProxiesFirst(t *testing.T) {
	t.Parallel()
	w := start(t, 5, confK)
	w.putPolicy(`{"max_attempts":10}`)
	w.setAll(lab.Status(503))
	for range 3 {
		w.clearArrivals()
		require.Equal(t, "10", w.get().attempts())
		order := w.arrivalOrder()
		require.Len(t, order, 10)
		require.ElementsMatch(t, []string{"F1", "F2", "F3", "F4", "F5"}, order[:5])
		require.Equal(t, order[:5], order[5:], "the longest ago first")
	}
}

// arrivalOrder returns the name of the fake of each arrival, ordered by time.
func (w *whirl) arrivalOrder() (names []string) {
	name := map[time.Time]string{}
	for _, f := range w.fakes {
		for _, a := range f.Arrivals() {
			name[a.At] = f.Name
		}
	}
	for _, a := range w.sortedArrivals() {
		names = append(names, name[a.At])
	}
	return names
}

// The statistics of a proxy cover its last hundred attempts. Earlier attempts and attempts of other proxies do not
// count.
func TestS54TheLastHundredAttemptsCount(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK)
	sample := func(f *lab.Proxy, b lab.Behaviour, n int) {
		w.setAll(lab.OK())
		f.SetBehaviour(b)
		for goal := f.Count() + n; f.Count() < goal; {
			w.get(overrideHeader("max_attempts=1")...)
		}
	}
	rate := func(id string) (any, any) {
		p := w.getJSON("/proxies/" + id)
		return p["success_rate"], p["samples"]
	}
	check := func(id string, wantRate, wantSamples float64) {
		t.Helper()
		r, n := rate(id)
		require.Equal(t, wantRate, r)
		require.Equal(t, wantSamples, n)
	}
	f2 := w.fakes[1]
	check("F2", 0.5, 0)
	sample(f2, lab.Status(503), 150)
	check("F2", 0, 100)
	sample(f2, lab.OK(), 50)
	check("F2", 0.5, 100)
	sample(f2, lab.OK(), 50)
	check("F2", 1, 100)
	w.call("PATCH", "/proxies/F2", `{"max_in_flight":1}`)
	check("F2", 1, 100) // a change that keeps the address keeps the statistics

	// Earlier slow attempts do not count either, and failures do not change the latency.
	sample(f2, lab.Status(503), 100)
	require.Equal(t, 0.0, w.getJSON("/proxies/F2")["avg_latency"])
	r, _ := rate("F1")
	require.Equal(t, 1.0, r)
}

// A breaker that closes while a retry waits makes its proxy a candidate (edge case E2 of the
// specification): the proxy is chosen after the wait and not before it.
func TestS56AProxyThatHealsDuringTheWait(t *testing.T) {
	t.Parallel()
	w := start(t, 2, strings.Replace(confOpen, "0.1", "2.0", 1))
	w.putPolicy(`{"max_attempts":2}`)
	w.fakes[0].SetBehaviour(lab.Status(503))
	w.fakes[1].SetBehaviour(lab.Status(503))
	for range 5 {
		w.get(overrideHeader("max_attempts=1")...)
	}
	w.call("POST", "/circuit-breakers/F1/reset", "")
	w.call("POST", "/circuit-breakers/F2/reset", "")
	for w.breaker("F2")["state"] != "open" { // until F2's breaker is open for 10 min
		w.get(overrideHeader("max_attempts=1")...)
		w.call("POST", "/circuit-breakers/F1/reset", "")
	}
	w.fakes[1].SetBehaviour(lab.OK())
	before := w.fakes[0].Count()
	got := make(chan response, 1)
	go func() { got <- w.get() }()
	eventually(t, "it waits, with F1 failed and F2 open", func() bool { return w.fakes[0].Count() == before+1 })
	w.call("POST", "/circuit-breakers/F2/reset", "")
	a := <-got
	require.Equal(t, 200, a.status)
	require.Equal(t, "F2", a.proxy())
}

// Many simultaneous retries are distributed over equal proxies by their load. They do not all go to one
// proxy.
func TestS57RetriesAreSpreadOverTheProxies(t *testing.T) {
	t.Parallel()
	w := start(t, 4, confK+roundRobin)
	for range 100 { // so that the statistics are equal
		w.get()
	}
	equal := w.sameScore("F2", "F3", "F4")
	hold := make(chan struct{})
	w.fakes[0].SetBehaviour(lab.Status(503))
	for _, f := range w.fakes[1:] {
		f.SetScript(func(int, *http.Request) lab.Behaviour { return lab.Behaviour{WaitFor: hold} })
	}
	w.clearArrivals()
	var wg sync.WaitGroup
	for range 240 { // the first attempts of 60 of them go to F1, and are retried
		wg.Go(func() { w.get() })
	}
	eventually(t, "all are out", func() bool { return w.fakes[1].Count()+w.fakes[2].Count()+w.fakes[3].Count() == 240 })
	for _, f := range w.fakes[1:] {
		if equal {
			require.InDelta(t, 80, f.Count(), 12, f.Name)
		}
	}
	close(hold)
	wg.Wait()
	require.InDelta(t, 60, w.fakes[0].Count(), 1)
}
