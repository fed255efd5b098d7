package integration

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// serveShare returns the script of a proxy that responds after a delay. It responds with 200 to the given percentage of
// requests, evenly distributed, and with 503 to the others.
func serveShare(percent int, delay time.Duration) lab.Script {
	return func(n int, _ *http.Request) lab.Behaviour {
		if n*37%100 < percent {
			return lab.Slow(delay)
		}
		return lab.Behaviour{Status: 503, Delay: delay}
	}
}

// evenDelay is a delay of fakes. The delays of a loaded machine are small in comparison.
const evenDelay = 50 * time.Millisecond

// requestEach makes the given number of attempts through each proxy. All attempts through F1 get 200.
func (w *whirl) requestEach(each int) {
	w.t.Helper()
	w.putPolicy(`{"max_attempts":1}`)
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			for range work {
				w.get()
			}
		})
	}
	for range each * len(w.fakes) {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
}

// firstRetries makes F1 fail. It returns how often each proxy got the first retry of n requests whose first attempt
// was through F1. If the function counts is not nil, firstRetries calls it before each request. If counts returns
// false, the request is not one of the n.
func (w *whirl) firstRetries(n int, counts func() bool, headers ...string) map[string]int {
	w.t.Helper()
	w.putPolicy(`{"max_attempts":2,"failover_delay":0}`)
	w.fakes[0].SetBehaviour(lab.Status(503))
	went := map[string]int{}
	begun := 0
	for sent := 0; begun < n; sent++ {
		require.Less(w.t, sent, 50*n, "only %d requests count", begun)
		before, counted := w.fakes[0].Count(), counts == nil || counts()
		a := w.get(headers...)
		if !counted || w.fakes[0].Count() == before || a.attempts() != "2" || a.proxy() == "F1" {
			continue // the request does not count, or its first attempt was not through F1
		}
		begun++
		went[a.proxy()]++
	}
	return went
}

// scores returns the scores that the scorer performance gives to proxies with attempts, for a request without a
// region. On a loaded machine the latencies of two equal fakes may differ so much that they decide.
func (w *whirl) scores(ids ...string) []float64 {
	w.t.Helper()
	var rates, latencies, attempts, scores []float64
	for _, id := range ids {
		p := w.getJSON("/proxies/" + id)
		rates = append(rates, p["success_rate"].(float64))
		latencies = append(latencies, p["avg_latency"].(float64))
		attempts = append(attempts, p["samples"].(float64))
	}
	normalized := make([]float64, len(ids))
	score := func(i int) float64 { return 0.7*rates[i] + 0.3*(1-normalized[i]) }
	best := 0
	for i := range ids {
		normalized[i] = (latencies[i] + 0.01) / (slices.Max(latencies) + 0.01)
		if score(i) > score(best) {
			best = i
		}
	}
	for i, n := range normalized {
		near := (1 + 2.5/math.Sqrt(max(attempts[i], 1))) * normalized[best] // docs/decisions/near-ties.md
		if n > normalized[best] && n <= near {
			normalized[i] = normalized[best]
		}
		scores = append(scores, score(i))
	}
	return scores
}

// sameScore reports whether the scorer performance treats the scores of some proxies as equal: within 2 %.
func (w *whirl) sameScore(ids ...string) bool {
	w.t.Helper()
	scores := w.scores(ids...)
	return slices.Min(scores) > 0.981*slices.Max(scores)
}

// better reports whether the scorer performance prefers the first of two proxies, with the factors of their regions.
func (w *whirl) better(id string, factor float64, than string, thanFactor float64) bool {
	w.t.Helper()
	scores := w.scores(id, than)
	return scores[1]*thanFactor < 0.979*scores[0]*factor
}

func TestS51SuccessRateDecides(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK+roundRobin)
	w.fakes[1].SetScript(serveShare(95, 0))
	w.fakes[2].SetScript(serveShare(60, 0))
	w.requestEach(200)
	w.fakes[1].SetBehaviour(lab.OK()) // so that only the 200 attempts before decide
	better := func() bool { return w.better("F2", 1, "F3", 1) }
	require.GreaterOrEqual(t, w.firstRetries(100, better)["F2"], 90)
}

func TestS52LatencyDecidesAmongEquals(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK+roundRobin)
	fast, slow := 10*time.Millisecond, 200*time.Millisecond
	w.fakes[1].SetBehaviour(lab.Slow(fast))
	w.fakes[2].SetBehaviour(lab.Slow(slow))
	w.requestEach(20)
	require.GreaterOrEqual(t, w.firstRetries(60, nil)["F2"], 54)
	w.fakes[0].SetBehaviour(lab.OK())
	w.fakes[1].SetBehaviour(lab.Slow(slow))
	w.fakes[2].SetBehaviour(lab.Slow(fast))
	w.requestEach(100)
	require.GreaterOrEqual(t, w.firstRetries(60, nil)["F3"], 54, "it flips within 100 attempts each")
}

// F1 fails. If a retry has no wanted region, it wants the region of the proxy that failed.
func TestS53TheWantedRegionRaisesTheScore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		two, three int    // percentage of successes of F2 (in the US) and of F3
		one        string // region of F1
		region     string // region of F3
		wish       string
		want       string
	}{
		"85 US beats 90 EU when US is wanted":          {85, 90, "US", "EU", "US", "F2"},
		"85 US beats 90 EU when nothing is wanted":     {85, 90, "US", "EU", "", "F2"},
		"90 EU beats 85 US when EU is wanted":          {85, 90, "EU", "EU", "EU", "F3"},
		"90 EU beats 85 US when another is wanted":     {85, 90, "US", "EU", "ASIA", "F3"},
		"90 EU beats 60 US although US is wanted":      {60, 90, "US", "EU", "US", "F3"},
		"90 EU beats 60 US although a US proxy failed": {60, 90, "US", "EU", "", "F3"},
		"100 beats 92, both boosted: no tie at a cap":  {100, 92, "US", "US", "US", "F2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, 3, confK+roundRobin)
			w.setAll(lab.Slow(evenDelay))
			w.fakes[1].SetScript(serveShare(c.two, evenDelay))
			w.fakes[2].SetScript(serveShare(c.three, evenDelay))
			for id, region := range map[string]string{"F1": c.one, "F2": "US", "F3": c.region} {
				status, body, _ := w.call("PATCH", "/proxies/"+id, `{"region":"`+region+`"}`)
				require.Equal(t, 200, status, "%s", body)
			}
			var headers []string
			wanted := c.one
			if c.wish != "" {
				headers = []string{"X-Whirlpool-Region", c.wish}
				wanted = c.wish
			}
			factor := map[string]float64{"F2": 1, "F3": 1}
			if wanted == "US" {
				factor["F2"] = 1.1
			}
			if wanted == c.region {
				factor["F3"] = 1.1
			}
			other := map[string]string{"F2": "F3", "F3": "F2"}[c.want]
			better := func() bool { return w.better(c.want, factor[c.want], other, factor[other]) }
			w.requestEach(200)
			require.GreaterOrEqual(t, w.firstRetries(60, better, headers...)[c.want], 54)
		})
	}
}

func TestS55ProxiesWithoutAttemptsAndTies(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK+roundRobin)
	w.setAll(lab.Status(503)) // so that no latency decides
	went := w.firstRetries(100, nil)
	require.LessOrEqual(t, max(went["F2"], went["F3"]), 70, "%v", went)

	w = start(t, 3, confK+roundRobin)
	w.setAll(lab.Slow(evenDelay))
	w.fakes[1].SetScript(serveShare(95, evenDelay))
	w.fakes[2].SetScript(serveShare(94, evenDelay))
	w.requestEach(200)
	for rounds := 0; !w.sameScore("F2", "F3"); rounds++ {
		require.Less(t, rounds, 100, "the latencies are never nearly equal")
		w.requestEach(10)
	}
	w.putPolicy(`{"max_attempts":2,"failover_delay":0}`)
	w.fakes[0].SetBehaviour(lab.Status(503))
	hold := make(chan struct{})
	before := [2]int{w.fakes[1].Count(), w.fakes[2].Count()}
	w.fakes[1].SetBehaviour(lab.Behaviour{WaitFor: hold})
	w.fakes[2].SetBehaviour(lab.Behaviour{WaitFor: hold})
	var wg sync.WaitGroup
	for range 240 { // the first attempts of 80 of them go to F1, and are retried
		wg.Go(func() { w.get() })
	}
	eventually(t, "240 requests at once", func() bool {
		return w.fakes[1].Count()+w.fakes[2].Count()-before[0]-before[1] == 240
	})
	second, third := w.fakes[1].Count()-before[0], w.fakes[2].Count()-before[1]
	close(hold)
	wg.Wait()
	require.LessOrEqual(t, max(second, third), 80+64, "F2 %d, F3 %d", second, third)
}

func TestS61LatencyWithoutBackoff(t *testing.T) {
	t.Parallel()
	w := start(t, 3, strings.Replace(confK, "base_delay = 0.1", "base_delay = 2.0", 1))
	status, body, _ := w.call("DELETE", "/proxies/F2", "")
	require.Contains(t, []int{200, 204}, status, "%s", body)
	status, body, _ = w.call("DELETE", "/proxies/F3", "")
	require.Contains(t, []int{200, 204}, status, "%s", body)
	begin := time.Now()
	w.fakes[0].SetScript(func(n int, _ *http.Request) lab.Behaviour {
		b := lab.Slow(200 * time.Millisecond)
		if n%10 == 0 {
			b.Status = 503
		}
		return b
	})
	for range 18 {
		w.get()
	}
	p := w.getJSON("/metrics/retries/by-proxy")["proxies"].(map[string]any)
	require.Len(t, p, 1, "proxies without attempts are absent")
	// If the two waits of 2 s were included, the average would be 0.4 s.
	requireLatency := func(seconds any) {
		t.Helper()
		require.GreaterOrEqual(t, seconds, 0.2)
		require.LessOrEqual(t, seconds, 0.2+tolerance(begin).Seconds())
	}
	requireLatency(p["F1"].(map[string]any)["avg_latency"])
	points := w.getJSON("/metrics/retries/timeseries")["data_points"].([]any)
	requests, retries := 0.0, 0.0
	for _, x := range points {
		point := x.(map[string]any)
		requests += point["total_requests"].(float64)
		retries += point["total_retries"].(float64)
		requireLatency(point["avg_latency"])
		require.True(t, strings.HasSuffix(point["timestamp"].(string), ":00:00Z"), "%v", point)
	}
	s := w.getJSON("/metrics/retries")
	require.Equal(t, s["total_requests"], requests)
	require.Equal(t, s["total_retries"], retries)
	require.Greater(t, retries, 0.0)
}

func TestS40TheDefaultsOfTheBreaker(t *testing.T) {
	t.Parallel()
	w := start(t, 2, "[retry]\nmax_attempts = 1\n")
	w.fakes[0].SetBehaviour(lab.Status(503))
	w.requestUntilArrivals(w.fakes[0], 5)
	require.Equal(t, "open", w.breaker("F1")["state"])
	w.fakes[0].SetBehaviour(lab.OK())
	silent := w.fakes[0].Count()
	for w.fakes[0].Count() == silent && time.Since(w.openedAt("F1")) < 2*time.Minute {
		require.Equal(t, 200, w.get().status)
		time.Sleep(250 * time.Millisecond)
	}
	require.Greater(t, w.fakes[0].Count(), silent)
	due := w.openedAt("F1").Add(30 * time.Second)
	probed := w.fakes[0].Arrivals()[silent].At
	require.Greater(t, probed, due.Add(-time.Millisecond))
	require.Less(t, probed, due.Add(2*time.Second+tolerance(due)))
	w.awaitState("F1", "closed")
}

// TestSmuggling sends requests that two parsers might interpret differently. Each is refused with 400, the
// connection is closed, and nothing is forwarded.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	for name, rest := range map[string]string{
		"two lengths":            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"length and chunked":     "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked twice":          "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"a coding of its own":    "Transfer-Encoding: xchunked\r\n\r\n",
		"space before the colon": "Content-Length : 5\r\n\r\nhello",
		"obs-fold":               "X: a\r\n b\r\n\r\n",
		"bare LF":                "X: a\nContent-Length: 5\r\n\r\n",
		"NUL":                    "X: a\x00\r\n\r\n",
		"two hosts":              "Host: other.test\r\n\r\n",
	} {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		fmt.Fprintf(c, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n%s", rest)
		c.SetReadDeadline(time.Now().Add(eventTimeout))
		answer, err := io.ReadAll(c)
		require.NoError(t, err, "%s: the connection is closed", name)
		require.True(t, strings.HasPrefix(string(answer), "HTTP/1.1 400 "), "%s: %.80s", name, answer)
		require.Equal(t, 1, strings.Count(string(answer), "HTTP/1.1 "), name)
		c.Close()
	}
	require.Zero(t, w.arrivals())

	// Pipelined requests get their responses in order.
	c, err := net.Dial("tcp", w.gateway)
	require.NoError(t, err)
	defer c.Close()
	w.fakes[0].SetScript(func(_ int, r *http.Request) lab.Behaviour { return lab.Behaviour{Body: r.URL.Path} })
	io.WriteString(c, strings.Repeat("GET http://a.test/one HTTP/1.1\r\nHost: a.test\r\n\r\n"+
		"GET http://a.test/two HTTP/1.1\r\nHost: a.test\r\n\r\n", 2)+
		"GET http://a.test/end HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
	c.SetReadDeadline(time.Now().Add(eventTimeout))
	answers, err := io.ReadAll(c)
	require.NoError(t, err)
	var order []string
	for _, part := range strings.Split(string(answers), "\r\n\r\n")[1:] {
		path, _, _ := strings.Cut(part, "HTTP/1.1")
		order = append(order, path)
	}
	require.Equal(t, []string{"/one", "/two", "/one", "/two", "/end"}, order)
}
