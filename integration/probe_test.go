package integration

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// transitions returns the states that a proxy's breaker has entered, in order.
func (w *whirl) transitions(id string) (states []string) {
	for _, v := range w.getJSON("/circuit-breakers/metrics")["events"].([]any) {
		if e := v.(map[string]any); e["proxy_id"] == id {
			states = append(states, e["to_state"].(string))
		}
	}
	return states
}

func (w *whirl) awaitState(id, want string) {
	w.t.Helper()
	eventually(w.t, id+" "+want, func() bool { return w.breaker(id)["state"] == want })
}

// A probe that reaches its attempt timeout is a failure: the breaker opens for its full time, and does not
// admit another probe at once.
func TestS42AProbeThatHangsReopens(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confKB+"[timeouts]\nattempt = \"300ms\"\n")
	w.tripBreaker(w.fakes[0])
	w.setAll(lab.Behaviour{NoResponse: true})
	w.awaitState("F1", "half_open")
	require.Equal(t, 504, w.get().status)
	w.reopened("F1")
	require.Equal(t, []string{"open", "half_open", "open"}, w.transitions("F1")[:3])
}

// A probe whose response takes longer than the probe timeout closes the breaker.
func TestS42AProbeMayStreamForLong(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confKB+"[timeouts]\nattempt = \"2s\"\n")
	w.tripBreaker(w.fakes[0])
	w.setAll(lab.Behaviour{Pieces: 40, Interval: 100 * time.Millisecond, Body: "piece"})
	w.awaitState("F1", "half_open")
	a := w.get()
	require.NoError(t, a.err)
	require.Equal(t, strings.Repeat("piece", 40), a.body)
	require.Equal(t, "closed", w.breaker("F1")["state"])
}

// An opened tunnel also closes the breaker, even if the client sends nothing through it. A program that only checks
// whether a port is open uses a tunnel in this way.
func TestS42AnOpenTunnelClosesTheBreaker(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confKB)
	w.tripBreaker(w.fakes[0])
	w.setAll(lab.OK())
	w.awaitState("F1", "half_open")
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer origin.Close()
	go func() {
		if c, err := origin.Accept(); err == nil {
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	status, _, c := w.connect(origin.Addr().String())
	require.Equal(t, 200, status)
	c.Close()
	w.awaitState("F1", "closed")
	require.Equal(t, []string{"open", "half_open", "closed"}, w.transitions("F1"))
}

// Of 200 simultaneous requests one is the probe. The others are refused, each with a Retry-After. If the
// client of a probe leaves, the breaker admits another probe.
func TestS43ASingleProbe(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confKB)
	w.tripBreaker(w.fakes[0])
	hold := make(chan struct{})
	w.setAll(lab.Behaviour{WaitFor: hold})
	w.awaitState("F1", "half_open")
	before := w.arrivals()
	answers := make(chan response, 200)
	for range 200 {
		go func() { answers <- w.get() }()
	}
	for range 199 {
		a := <-answers
		require.Equal(t, 503, a.status)
		require.Equal(t, "all_breakers_open", a.outcome())
		require.Equal(t, "1", a.header.Get("Retry-After"))
	}
	require.Equal(t, before+1, w.arrivals())
	close(hold)
	require.Equal(t, 200, (<-answers).status)
	require.Equal(t, "closed", w.breaker("F1")["state"])

	w.tripBreaker(w.fakes[0])
	w.setAll(lab.Behaviour{NoResponse: true})
	w.awaitState("F1", "half_open")
	before = w.arrivals()
	c, err := net.Dial("tcp", w.gateway)
	require.NoError(t, err)
	fmt.Fprintf(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
	eventually(t, "the probe is out", func() bool { return w.arrivals() == before+1 })
	require.Equal(t, 503, w.get().status)
	c.Close()
	left := time.Now()
	w.fakes[0].SetBehaviour(lab.OK())
	eventually(t, "the slot is free again", func() bool { return w.get().status == 200 })
	require.Less(t, time.Since(left), 100*time.Millisecond+tolerance(left))
	require.Equal(t, []string{"open", "half_open", "closed", "open", "half_open", "closed"}, w.transitions("F1"))
	w.reconcile(0)
}

// Twelve proxies recover at the same time under traffic. Each of them is probed once, and all are used again.
func TestS44ManyHalfOpen(t *testing.T) {
	t.Parallel()
	w := start(t, 12, strings.NewReplacer(`"2s"`, `"1m"`, `"1s"`, `"5s"`).Replace(confKB))
	w.setAll(lab.Status(503))
	for range 60 {
		w.get()
	}
	for _, f := range w.fakes {
		require.Equal(t, []string{"open"}, w.transitions(f.Name))
	}
	w.setAll(lab.Slow(50 * time.Millisecond))
	w.putPolicy(`{"max_attempts":3}`)
	for _, f := range w.fakes {
		w.awaitState(f.Name, "half_open")
	}
	w.clearArrivals()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { w.get() })
	}
	wg.Wait()
	for _, f := range w.fakes {
		require.Equal(t, "closed", w.breaker(f.Name)["state"], f.Name)
		require.Equal(t, []string{"open", "half_open", "closed"}, w.transitions(f.Name))
	}
	w.clearArrivals()
	for range 120 {
		require.Equal(t, 200, w.get().status)
	}
	for _, f := range w.fakes {
		require.InDelta(t, 10, f.Count(), 3, "%s has its share", f.Name)
	}
}

// The last closed breaker opens during a request. The request gets a 503 at once, without the wait for its
// next retry. With a single proxy, the retries go through this proxy while its breaker permits.
func TestS46AllOpenInMidRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ proxies, threshold, tries int }{{3, 1, 3}, {1, 5, 5}} {
		w := start(t, c.proxies, fmt.Sprintf(
			"[retry]\nbackoff_strategy = \"fixed\"\nbase_delay = 0.3\nmax_attempts = 10\n[breaker]\n"+
				"blame = \"literal\"\nfailure_threshold = %d\n", c.threshold))
		w.setAll(lab.Status(503))
		a := w.get()
		require.Equal(t, 503, a.status)
		require.Equal(t, "all_breakers_open", a.outcome())
		require.Contains(t, a.body, `"error":"all_breakers_open"`)
		after, err := strconv.Atoi(a.header.Get("Retry-After"))
		require.NoError(t, err)
		require.LessOrEqual(t, after, 30)
		require.GreaterOrEqual(t, float64(after), 30-a.duration.Seconds(),
			"the first breaker opened during the request")
		require.Equal(t, c.tries, w.arrivals())
		requireTook(t, a, 0.3*float64(c.tries-1)) // without the wait for the next retry
		w.reconcile(0)
		w.stop()
		w.awaitRetryRecords(c.tries - 1) // the log has no record of the retry that is not made
	}
}

// While no proxy can be reached, Retry-After is the time of the next reachability check, and not that of the
// breakers. A proxy that can be reached again serves requests.
func TestRetryAfterWithoutAReachableProxy(t *testing.T) {
	t.Parallel()
	w := start(t, 2, "")
	for _, f := range w.fakes {
		f.Refuse()
		eventually(t, "its breaker is open", func() bool {
			w.get(overrideHeader("max_attempts=1")...)
			return w.breaker(f.Name)["state"] == "open"
		})
	}
	a := w.get()
	require.Equal(t, 503, a.status)
	require.Equal(t, "all_breakers_open", a.outcome())
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(t, err)
	require.Positive(t, after)
	require.Less(t, after, 20, "breakers are open for 30 s")
}
