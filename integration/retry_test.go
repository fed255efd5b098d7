package integration

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

func TestS14ExponentialIsTheDefault(t *testing.T) {
	w := start(t, 3, "")
	w.fakes[0].SetBehaviour(lab.Status(503))
	w.fakes[1].SetBehaviour(lab.Status(503))
	a := w.get()
	require.Equal(t, 200, a.status)
	require.Equal(t, "success", a.outcome())
	require.Equal(t, "3", a.attempts(), "of equals the next in the pool's order comes first")
	w.requireWaits(1, 2)
}

func TestS15S16Strategies(t *testing.T) {
	w := start(t, 3, confK)
	w.setAll(lab.Status(503))
	for policy, want := range map[string][]float64{
		`"backoff_strategy":"linear","base_delay":0.2,"max_backoff_delay":30`:                     {0.2, 0.4, 0.6},
		`"backoff_strategy":"fixed","base_delay":0.3,"max_backoff_delay":30`:                      {0.3, 0.3, 0.3},
		`"backoff_strategy":"exponential","base_delay":0.4,"multiplier":10,"max_backoff_delay":1`: {0.4, 1, 1},
		`"backoff_strategy":"linear","base_delay":0.4,"max_backoff_delay":1`:                      {0.4, 0.8, 1},
	} {
		w.putPolicy(`{"max_attempts":4,` + policy + `}`)
		w.clearArrivals()
		a := w.get()
		require.Equal(t, 503, a.status)
		require.Equal(t, "exhausted", a.outcome())
		w.requireWaits(want...)
	}
}

func TestS18TheCapHolds(t *testing.T) {
	w := start(t, 3, confK)
	w.setAll(lab.Status(503))
	w.putPolicy(`{"max_attempts":10,"backoff_strategy":"exponential","base_delay":60,"multiplier":10,` +
		`"max_backoff_delay":1}`)
	w.get()
	w.requireWaits(1, 1, 1, 1, 1, 1, 1, 1, 1)
}

func TestS19NoNeedlessRetry(t *testing.T) {
	w := start(t, 3, confK)
	for range 1000 {
		require.Equal(t, 200, w.get().status)
	}
	require.Equal(t, 1000, w.arrivals())
	require.Equal(t, 0.0, w.getJSON("/metrics/retries")["total_retries"])
	w.clearArrivals()
	w.setAll(lab.Behaviour{})
	first := true
	var mu sync.Mutex
	for _, f := range w.fakes {
		f.SetScript(func(int, *http.Request) lab.Behaviour {
			mu.Lock()
			defer mu.Unlock()
			if first {
				first = false
				return lab.Status(503)
			}
			return lab.OK()
		})
	}
	require.Equal(t, 200, w.get().status)
	require.Equal(t, 2, w.arrivals())
}

func TestS20MaxAttempts(t *testing.T) {
	w := start(t, 3, confK)
	w.setAll(lab.Behaviour{Status: 503, Body: "B!"})
	for _, n := range []int{1, 10} {
		w.clearArrivals()
		w.putPolicy(`{"max_attempts":` + map[int]string{1: "1", 10: "10"}[n] + `}`)
		a := w.get()
		require.Equal(t, 503, a.status)
		require.Equal(t, "B!", a.body)
		require.Equal(t, "exhausted", a.outcome())
		require.Equal(t, n, w.arrivals())
	}
}

func TestS21TimeoutCutsTheAttempt(t *testing.T) {
	w := start(t, 3, confK)
	w.putPolicy(`{"timeout":1.0}`)
	w.setAll(lab.Behaviour{NoResponse: true})
	a := w.get()
	require.Equal(t, 504, a.status)
	require.Equal(t, "timeout", a.outcome())
	requireTook(t, a, 1)
	eventually(t, "the fake's connection is closed", func() bool {
		return w.fakes[0].OpenConnections()+w.fakes[1].OpenConnections()+
			w.fakes[2].OpenConnections() == 0
	})
}

func TestS23AWaitBeyondTheTimeoutDoesNotBegin(t *testing.T) {
	w := start(t, 3, confK)
	w.putPolicy(`{"timeout":1.5,"base_delay":0.3,"max_attempts":10}`)
	w.setAll(lab.Behaviour{Status: 503, Delay: 500 * time.Millisecond})
	a := w.get()
	require.Equal(t, 2, w.arrivals())
	requireTook(t, a, 1.3)
	w.awaitRetryRecords(1)
}

func TestS24TimeoutCoversTheHeadOnly(t *testing.T) {
	w := start(t, 1, confK)
	w.putPolicy(`{"timeout":3,"max_attempts":1}`)
	w.setAll(lab.Behaviour{Pieces: 40, Interval: 100 * time.Millisecond, Body: "piece"})
	a := w.get()
	require.NoError(t, a.err)
	require.Equal(t, strings.Repeat("piece", 40), a.body)
}

func TestS25S26Idempotency(t *testing.T) {
	w := start(t, 2, confK)
	try := func(method string, headers ...string) (response, int) {
		w.clearArrivals()
		w.setAll(lab.OK())
		w.requestUntilArrivals(w.fakes[1], 1) // so the next first attempt goes to F1
		w.clearArrivals()
		w.fakes[0].SetBehaviour(lab.Status(503))
		return w.do(method, map[bool]string{true: "payload", false: ""}[method == "POST" || method == "PUT"],
			headers...), w.arrivals()
	}
	for _, m := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"} {
		a, n := try(m)
		require.Equal(t, 200, a.status, m)
		require.Equal(t, 2, n, m)
	}
	for _, m := range []string{"POST", "PUT", "PATCH", "FOO"} {
		a, n := try(m)
		require.Equal(t, 503, a.status, m)
		require.Equal(t, "not_retryable", a.outcome(), m)
		require.Equal(t, 1, n, m)
	}
	for _, m := range []string{"POST", "PUT"} {
		a, n := try(m, overrideHeader("retry_non_idempotent")...)
		require.Equal(t, 200, a.status, m)
		require.Equal(t, 2, n)
		for _, x := range w.sortedArrivals() {
			require.Equal(t, "payload", string(x.Body), "replayed byte for byte")
		}
	}
}

// Each attempt has the whole head and the whole body, even if the body arrives in pieces after the head.
func TestBodiesOfEverySizeArriveWhole(t *testing.T) {
	w := start(t, 2, confK)
	w.fakes[0].SetBehaviour(lab.Status(503))
	for _, size := range []int{1, 4000, 5000, 20_000, 100_000, 1_000_000} {
		w.clearArrivals()
		body := strings.Repeat("0123456789", size/10+1)[:size]
		for range 2 {
			a := w.do("POST", body, "X-Whirlpool-Retry", "retry_non_idempotent", "X-Mark", "here", "Expect",
				"100-continue")
			require.Equal(t, 200, a.status, "%d: %s", size, a.body)
		}
		all := w.sortedArrivals()
		require.GreaterOrEqual(t, len(all), 3)
		for _, x := range all {
			require.Equal(t, body, string(x.Body))
			require.Equal(t, "here", x.Header.Get("X-Mark"))
			require.Equal(t, "http://origin.test/path?token=querysecret", x.Target)
		}
	}
}

func TestS28S29OtherStatusesPass(t *testing.T) {
	w := start(t, 3, confK)
	for _, code := range []int{400, 401, 403, 404, 409, 429, 500, 501} {
		w.clearArrivals()
		w.setAll(lab.Behaviour{Status: code, Body: "as it is",
			Header: http.Header{"Www-Authenticate": {"Basic realm=x"}}})
		a := w.get()
		require.Equal(t, code, a.status)
		require.Equal(t, "as it is", a.body)
		require.Equal(t, "Basic realm=x", a.header.Get("WWW-Authenticate"))
		require.Equal(t, 1, w.arrivals())
	}
	for _, id := range []string{"F1", "F2", "F3"} {
		require.Equal(t, 0.0, w.breaker(id)["failure_count"])
	}
	w.putPolicy(`{"retry_status_codes":[502]}`)
	w.clearArrivals()
	w.setAll(lab.Status(503))
	require.Equal(t, 503, w.get().status)
	require.Equal(t, 1, w.arrivals())
}

func TestS30RetryAfter(t *testing.T) {
	w := start(t, 1, confK)
	w.putPolicy(`{"retry_status_codes":[429,503],"max_attempts":2,"max_backoff_delay":2}`)
	for value, want := range map[string]float64{"1": 1, "3600": 2, "junk": 0.1,
		time.Now().Add(4 * time.Hour).UTC().Format(http.TimeFormat): 2} {
		w.clearArrivals()
		w.setAll(lab.Behaviour{Status: 429, Header: http.Header{"Retry-After": {value}}})
		w.get()
		w.requireWaits(want)
	}
	require.Equal(t, 0.0, w.breaker("F1")["failure_count"], "429 is not a failure of the proxy")
}

func TestS31ProxyAuthentication(t *testing.T) {
	w := start(t, 3, confOpen)
	w.putPolicy(`{"max_attempts":3}`)
	w.fakes[0].SetBehaviour(lab.Behaviour{Status: 407, Header: http.Header{"Proxy-Authenticate": {"Basic"}}})
	for range 15 {
		a := w.get()
		require.Equal(t, 200, a.status)
		require.Empty(t, a.header.Get("Proxy-Authenticate"))
	}
	require.Equal(t, 5, w.fakes[0].Count())
	w.setAll(lab.Challenge())
	w.call("POST", "/circuit-breakers/F1/reset", "")
	a := w.get()
	require.Equal(t, 502, a.status)
	require.NotContains(t, a.header, "Proxy-Authenticate")
}

func TestS32EveryFault(t *testing.T) {
	w := start(t, 2, "[timeouts]\nattempt = \"2s\"\n"+confK+roundRobin)
	origin, err := lab.Start("origin", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(origin.Close)
	failures := 0.0
	f1 := w.fakes[0]
	faults := map[string]lab.Behaviour{
		"hole": {NoResponse: true}, "rst": {Reset: true}, "fin0": {Fin: true},
		"garbage":   {Garbage: "what is this\r\n\r\n"},
		"half head": {Garbage: "HTTP/1.1 200 OK\r\nContent-Le"}, "1 MB head": {Garbage: "HTTP/1.1 200 OK\r\nX: " +
			strings.Repeat("x", 1<<20)},
		"tls": {Garbage: "\x15\x03\x01\x00\x02\x02\x28"},
	}
	turn := func() { // makes F1 the proxy of the next first attempt
		w.setAll(lab.OK())
		w.requestUntilArrivals(w.fakes[1], 1)
	}
	for name, b := range faults {
		turn()
		f1.SetBehaviour(b)
		a := w.get()
		require.Equal(t, 200, a.status, name)
		require.Equal(t, "2", a.attempts(), name)
		require.Equal(t, "F2", a.proxy(), name)
		failures++
		require.Equal(t, failures, w.breaker("F1")["failure_count"], name)
	}
	for _, code := range []int{502, 503, 504, 500} {
		turn()
		f1.SetBehaviour(lab.Status(code))
		status, h, _ := w.connect(origin.Addr)
		require.Equal(t, 200, status)
		require.Equal(t, "2", h.Get("X-Whirlpool-Attempts"))
		failures++
		require.Equal(t, failures, w.breaker("F1")["failure_count"], "CONNECT %d", code)
	}
	turn()
	f1.SetBehaviour(lab.Status(403))
	status, _, _ := w.connect(origin.Addr)
	require.Equal(t, 200, status)
	require.Equal(t, failures, w.breaker("F1")["failure_count"], "CONNECT 403 is policy")
	turn()
	f1.Refuse()
	a := w.get()
	require.Equal(t, 200, a.status)
	require.Equal(t, "2", a.attempts())
	require.Equal(t, failures+1, w.breaker("F1")["failure_count"])
}

func TestS34S35Overrides(t *testing.T) {
	w := start(t, 3, confK)
	w.setAll(lab.Status(503))
	w.get(overrideHeader("max_attempts=5")...)
	w.requireWaits(0.1, 0.1, 0.1, 0.1)
	w.clearArrivals()
	w.get()
	w.requireWaits(0.1, 0.1)
	for _, linear := range []string{"strategy=linear", `{"backoff_strategy":"linear"}`, "backoff_strategy=linear"} {
		w.clearArrivals()
		w.get(overrideHeader(linear)...)
		w.requireWaits(0.1, 0.2)
	}
	for _, a := range w.sortedArrivals() {
		for name := range a.Header {
			require.False(t, strings.HasPrefix(strings.ToLower(name), "x-whirlpool"), name)
			require.NotEqual(t, "Proxy-Connection", name)
		}
	}
	w.clearArrivals()
	w.get(overrideHeader("max_attempts=1")...)
	require.Equal(t, 1, w.arrivals())
	w.clearArrivals()
	for _, bad := range []string{"max_attempts=11", "nonsense", "unknown=1", "max_attempts=", `{"max_attempts":11}`, "",
		"base_delay=a"} {
		require.Equal(t, 400, w.get(overrideHeader(bad)...).status, bad)
	}
	require.Equal(t, 400, w.get("X-Whirlpool-Retry", "max_attempts=2", "X-Whirlpool-Retry", "max_attempts=2").status)
	require.Zero(t, w.arrivals())
}

func TestS70PoliciesAreNeverMixed(t *testing.T) {
	w := start(t, 3, confK)
	w.setAll(lab.Status(503))
	a, b := `{"max_attempts":2,"base_delay":0.1}`, `{"max_attempts":4,"base_delay":0.2}`
	w.putPolicy(a)
	stop := coretest.RunConcurrently(20, func(int) {
		w.get()
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // so that the requests begin at different times
	})
	for range 50 {
		w.putPolicy(b)
		time.Sleep(10 * time.Millisecond)
		w.putPolicy(a)
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	w.putPolicy(b)
	require.Equal(t, "4", w.get().attempts())
	w.reconcile(0)
	w.stop()
	seen := map[string]int{}
	for _, delays := range w.loggedDelays() {
		seen[strings.Join(delays, " ")]++
	}
	require.Len(t, seen, 2, "%v", seen)
	require.Positive(t, seen["100ms"], "%v", seen)
	require.Positive(t, seen["200ms 200ms 200ms"], "%v", seen)
}
