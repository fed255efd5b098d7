package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// byHost returns the script of a proxy whose behaviour depends on the target's host. For other hosts it
// responds with 200.
func byHost(hosts map[string]lab.Behaviour) lab.Script {
	return func(_ int, r *http.Request) lab.Behaviour {
		host, _, _ := strings.Cut(r.Host, ":")
		return hosts[host]
	}
}

// breakerStates returns the number of breakers in each state.
func (w *whirl) breakerStates() map[string]int {
	out := map[string]int{}
	for _, b := range w.getJSON("/circuit-breakers")["circuit_breakers"].([]any) {
		out[b.(map[string]any)["state"].(string)]++
	}
	return out
}

// The behaviours of a proxy when its target is dead.
var deaths = map[string]lab.Behaviour{
	"answers 503":                  lab.Status(503),
	"closes without an answer":     {Fin: true},
	"resets":                       {Reset: true},
	"malformed head":               {Garbage: "HTTP/1.1 abc\r\n\r\n"},
	"cuts its answer":              {CutAfter: 10},
	"hangs":                        {NoResponse: true},
	"answers with two lengths":     {Garbage: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
	"the proxy answers 502 for it": lab.Status(502),
}

// quick is a configuration that shortens the wait for a target that hangs. Everything else has its default.
const quick = "[timeouts]\nattempt = \"500ms\"\n[retry]\nbase_delay = 0.1\n"

// A target that fails through every proxy opens no breaker, and the requests for other targets are served.
// This is true for requests one after the other and for simultaneous ones.
func TestADeadTargetOpensNoBreaker(t *testing.T) {
	for name, death := range deaths {
		for _, workers := range []int{1, 64} {
			t.Run(fmt.Sprintf("%s, %d at once", name, workers), func(t *testing.T) {
				t.Parallel()
				requests := 128
				if death.NoResponse {
					requests = 16 // few, because each request takes some time
				}
				config := notAdaptive + "[retry]\nbase_delay = 0.1\n"
				if death.NoResponse { // longer than in quick: the good target must respond in time, even in this burst
					config = strings.Replace(quick, "500ms", "2s", 1)
				}
				w := start(t, 6, config)
				for _, f := range w.fakes {
					f.SetScript(byHost(map[string]lab.Behaviour{"dead.test": death}))
				}
				var lost atomic.Int64
				var wg sync.WaitGroup
				for i := range workers {
					wg.Go(func() {
						for j := range max(requests/workers, 2) {
							if (i+j)%2 == 0 {
								w.request("GET", "http://dead.test/", "")
							} else if a := w.request("GET", "http://good.test/", ""); a.status != 200 {
								lost.Add(1)
							}
						}
					})
				}
				wg.Wait()
				assert.Zero(t, lost.Load(), "requests for the good target lost")
				assert.Equal(t, map[string]int{"closed": 6}, w.breakerStates())
				targets := w.getJSON("/targets")["targets"].([]any)
				require.NotEmpty(t, targets)
				assert.Equal(t, "dead.test:80", targets[0].(map[string]any)["target"])

				// F1 dies. It gets at most 10 attempts at the good target until its breaker opens. The proxies now
				// take turns: on a loaded machine F1 may have the worst latencies by chance, and the default scorer
				// would then choose it only every 30 s.
				before := w.configReadAt()
				w.writeConfig(quick + roundRobin)
				w.awaitReload(before)
				w.clearArrivals()
				w.fakes[0].SetBehaviour(lab.Status(502)) // a reset would lead to a replay on each reused connection
				requestUntil(t, "F1 opens", func(i int) {
					host := "good.test"
					if i/6%2 == 0 { // so that each proxy gets both kinds of requests
						host = "dead.test"
					}
					w.request("GET", "http://"+host+"/", "")
				}, func() bool { return w.breaker("F1")["state"] == "open" })
				at := map[string]int{}
				for _, a := range w.fakes[0].Arrivals() {
					at[a.Target]++
				}
				// At the dead target the attempts through all proxies fail, so the failures of F1 there are no
				// evidence.
				assert.LessOrEqual(t, at["http://good.test/"], 10, "%v %v", at, w.breaker("F1")["why"])
				assert.GreaterOrEqual(t, w.fakes[0].Count(), 5)
			})
		}
	}
}

// A target for which every proxy refuses the tunnel becomes suspect: the requests for it get one attempt and no wait.
// In a pool of two, the third attempt would follow after the backoff.
func TestATargetWhoseTunnelsAreRefusedIsSuspect(t *testing.T) {
	good := coretest.Serve(t, func(c net.Conn) { io.Copy(c, c) })
	refused := strings.Replace(good, "127.0.0.1", "localhost", 1)
	w := start(t, 2, notAdaptive+"[retry]\nbase_delay = 0.1\n")
	for _, f := range w.fakes {
		f.SetScript(byHost(map[string]lab.Behaviour{"localhost": lab.Status(403)}))
	}
	attempts := func(target string, status int) string {
		got, h, c := w.connect(target)
		c.Close()
		require.Equal(t, status, got)
		return h.Get("X-Whirlpool-Attempts")
	}
	for range 3 {
		require.Equal(t, "3", attempts(refused, 403))
	}
	latest := "3"
	requestUntil(t, "the target is suspect", func(int) { latest = attempts(refused, 403) },
		func() bool { return latest == "1" })
	assert.Equal(t, map[string]int{"closed": 2}, w.breakerStates())
	assert.Equal(t, "1", attempts(good, 200))

	for _, f := range w.fakes {
		f.SetBehaviour(lab.OK())
	}
	assert.Equal(t, "1", attempts(refused, 200))
	assert.Eventually(t, func() bool {
		return w.getJSON("/targets")["targets"].([]any)[0].(map[string]any)["suspect"] == false
	}, eventTimeout, 10*time.Millisecond)
}

// A dead target inside tunnels opens no breaker either. The target resets the connection after the ClientHello.
func TestADeadTargetInsideTunnelsOpensNoBreaker(t *testing.T) {
	dead := coretest.Serve(t, func(c net.Conn) {
		c.Read(make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
	})
	w := start(t, 4, notAdaptive)
	good := coretest.Serve(t, func(c net.Conn) { io.Copy(c, c) })
	for i := range 24 {
		target := dead
		if i%2 == 1 {
			target = good
		}
		status, _, c := w.connect(target)
		require.Equal(t, 200, status)
		tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if i%2 == 0 {
			assert.Error(t, tc.Handshake())
		} else {
			io.WriteString(c, "hello")
			b := make([]byte, 5)
			_, err := io.ReadFull(c, b)
			assert.NoError(t, err)
		}
		c.Close()
	}
	assert.Equal(t, map[string]int{"closed": 4}, w.breakerStates())
}

// All proxies fail now and then at random. The gateway refuses no request, and each request that three
// attempts could serve is served.
func TestNoiseOpensNoBreaker(t *testing.T) {
	for _, percent := range []int{2, 10, 30} {
		t.Run(fmt.Sprintf("%d %%", percent), func(t *testing.T) {
			t.Parallel()
			w := start(t, 8, notAdaptive+"[retry]\nbase_delay = 0.1\n")
			for i, f := range w.fakes {
				// The responses of a proxy, in their order, are the same in each run.
				f.SetScript(func(n int, _ *http.Request) lab.Behaviour {
					if rand.New(rand.NewPCG(uint64(percent*100+i), uint64(n))).IntN(100) < percent {
						return lab.Status(503)
					}
					return lab.OK()
				})
			}
			var refused, failed atomic.Int64
			var wg sync.WaitGroup
			const requests, workers = 2400, 16
			for range workers {
				wg.Go(func() {
					for range requests / workers {
						switch a := w.get(); {
						case a.outcome() == "all_breakers_open":
							refused.Add(1)
						case a.status != 200:
							failed.Add(1)
						}
					}
				})
			}
			wg.Wait()
			assert.Zero(t, refused.Load())
			most := 3*float64(requests)*pow3(float64(percent)/100) + 8
			assert.LessOrEqual(t, float64(failed.Load()), most, "three tries each fail so seldom")
			assert.Equal(t, 8, w.breakerStates()["closed"], "%v", w.breakerStates())
		})
	}
}

func pow3(p float64) float64 { return p * p * p }

// failInTurn sends requests until the proxy f gets at least two thirds of its share of them. On a loaded machine the
// first responses of f may have been slow by chance, and the default scorer then uses f less often.
func (w *whirl) failInTurn(f *lab.Proxy) {
	w.t.Helper()
	requestUntil(w.t, f.Name+" takes its turns", func(int) {
		w.clearArrivals()
		for range 60 {
			require.Equal(w.t, 200, w.get().status)
		}
	}, func() bool { return f.Count() >= 40/len(w.fakes) })
}

// One proxy of a pool of good proxies begins to fail every attempt. The test tries each way to fail.
func TestABadProxyOpensAfterAFewAttempts(t *testing.T) {
	ways := map[string]lab.Behaviour{
		"503": lab.Status(503), "502": lab.Status(502), "closes": {Fin: true}, "resets": {Reset: true},
		"hangs":   {NoResponse: true},
		"garbage": {Garbage: "SSH-2.0-OpenSSH\r\n"}, "credentials": lab.Challenge(), "cuts": {CutAfter: 10},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, 6, quick)
			w.failInTurn(w.fakes[0])
			w.clearArrivals()
			w.fakes[0].SetBehaviour(way)
			requestUntil(t, "F1 opens", func(i int) { w.request("GET", fmt.Sprintf("http://t%d.test/", i%3), "") },
				func() bool { return w.breaker("F1")["state"] == "open" })
			n := w.fakes[0].Count()
			assert.GreaterOrEqual(t, n, 5)
			assert.LessOrEqual(t, n, 12)
			why := w.breaker("F1")["why"].(map[string]any)
			assert.NotEmpty(t, why["summary"])
			w.stop()
			assert.Contains(t, w.log.String(), "why=")
		})
	}
}

// A target itself responds with 407: the response is relayed, and the attempt is excluded.
func TestATargetsOwn407IsRelayed(t *testing.T) {
	w := start(t, 4, notAdaptive)
	w.setAll(lab.Status(407))
	for range 18 {
		a := w.get()
		require.Equal(t, 407, a.status)
		require.Equal(t, "1", a.attempts())
	}
	assert.Equal(t, map[string]int{"closed": 4}, w.breakerStates())
	for _, f := range w.fakes {
		assert.EqualValues(t, 0, w.breaker(f.Name)["failure_count"])
	}
}

// A proxy of the pool is in fact a web server that responds with 400 to each CONNECT. Another proxy opens the
// tunnel, and the breaker of the wrong proxy opens.
func TestATargetListedAsAProxy(t *testing.T) {
	w := start(t, 4, notAdaptive)
	w.fakes[0].SetBehaviour(lab.Status(400))
	target := coretest.Serve(t, func(c net.Conn) { io.Copy(c, c) })
	requestUntil(t, "F1 opens", func(int) {
		status, _, c := w.connect(target)
		require.Equal(t, 200, status)
		io.WriteString(c, "hello")
		_, err := io.ReadFull(c, make([]byte, 5))
		require.NoError(t, err)
		c.Close()
	}, func() bool { return w.breaker("F1")["state"] == "open" })
	assert.LessOrEqual(t, w.fakes[0].Count(), 12)
}

// A proxy of the pool is in fact a web server that responds with 404 to each GET. The clients get the responses
// through the other proxies, and the breaker of the web server opens. A target that responds with 404 through all
// proxies costs a few attempts.
func TestS240AWebServerInThePool(t *testing.T) {
	for _, status := range []int{400, 403, 404} {
		w := start(t, 3, notAdaptive+roundRobin)
		w.fakes[0].SetBehaviour(lab.Status(status))
		for range 3 { // until F2 or F3 has relayed a response, F1's response cannot be compared with another one
			w.request("GET", "http://t0.test/", "")
		}
		requestUntil(t, "F1 opens", func(i int) {
			require.Equal(t, 200, w.request("GET", fmt.Sprintf("http://t%d.test/", i%3), "").status)
		}, func() bool { return w.breaker("F1")["state"] == "open" })
		assert.LessOrEqual(t, w.fakes[0].Count(), 12)

		w = start(t, 3, notAdaptive+roundRobin)
		w.setAll(lab.Status(status))
		attempts := 0
		for range 40 {
			a := w.get()
			require.Equal(t, status, a.status)
			require.Equal(t, "success", a.outcome())
			n, err := strconv.Atoi(a.attempts())
			require.NoError(t, err)
			attempts += n
		}
		assert.Equal(t, 40, attempts, "no proxy has relayed a response below 400")
		assert.Equal(t, map[string]int{"closed": 3}, w.breakerStates())
	}
}

// All requests fail at several targets: all breakers open, and the gateway refuses requests.
func TestEverythingFails(t *testing.T) {
	w := start(t, 3, quick)
	w.setAll(lab.Behaviour{Reset: true})
	requestUntil(t, "all open", func(i int) { w.request("GET", fmt.Sprintf("http://t%d.test/", i%4), "") },
		func() bool { return w.breakerStates()["open"] == 3 })
	a := w.get()
	assert.Equal(t, 503, a.status)
	assert.Equal(t, "all_breakers_open", a.outcome())
}

// A request for a suspect target gets one attempt and no wait. When the target has recovered, the next request for it
// is served at once.
func TestASuspectTarget(t *testing.T) {
	w := start(t, 6, notAdaptive)
	w.setAll(lab.Status(503))
	for range 5 {
		w.get("X-Whirlpool-Retry", "failover_delay=0")
	}
	begin, one := time.Now(), 0
	for range 10 {
		if a := w.get(); a.attempts() == "1" {
			one++
			require.Equal(t, 503, a.status, "the answer that the target gave")
		}
	}
	assert.GreaterOrEqual(t, one, 7)
	assert.Less(t, time.Since(begin), 8*time.Second+10*tolerance(begin), "ten requests that wait 3 s each take 30 s")
	w.setAll(lab.OK())
	require.Equal(t, 200, w.get().status)
	for _, f := range w.getJSON("/targets")["targets"].([]any) {
		assert.Equal(t, false, f.(map[string]any)["suspect"])
	}
}

// Requests for a target that hangs soon get one attempt, which is cut short. The other targets lose nothing.
func TestATargetThatHangsIsSuspect(t *testing.T) {
	w := start(t, 4, quick)
	for _, f := range w.fakes {
		f.SetScript(byHost(map[string]lab.Behaviour{"hangs.test": {NoResponse: true}}))
	}
	for range 20 {
		require.Equal(t, 200, w.get().status)
	}
	requestUntil(t, "the target is suspect", func(int) {
		require.Equal(t, 504, w.request("GET", "http://hangs.test/", "").status)
	}, func() bool {
		targets := w.getJSON("/targets")["targets"].([]any)
		return len(targets) > 0 && targets[0].(map[string]any)["suspect"] == true
	})
	requestUntil(t, "a request gets one attempt", func(int) {}, func() bool {
		a := w.request("GET", "http://hangs.test/", "")
		require.Equal(t, 504, a.status)
		return a.attempts() == "1"
	})
	for range 20 {
		require.Equal(t, 200, w.get().status)
	}
	assert.Equal(t, map[string]int{"closed": 4}, w.breakerStates())
}

// noWaits checks that there were retries, and that none of them waited.
func (w *whirl) noWaits() {
	w.t.Helper()
	w.stop()
	require.NotEmpty(w.t, w.loggedDelays())
	for id, delays := range w.loggedDelays() {
		require.Equal(w.t, []string{"0s"}, delays, id)
	}
}

// If no byte of the target has arrived, the retry through another proxy begins without a wait.
func TestNoWaitBeforeAFailoverWithoutAResponse(t *testing.T) {
	for name, way := range map[string]lab.Behaviour{"reset": {Reset: true}, "closed": {Fin: true},
		"credentials": lab.Challenge()} {
		t.Run(name, func(t *testing.T) {
			w := start(t, 2, notAdaptive)
			w.fakes[0].SetBehaviour(way)
			for range 4 {
				require.Equal(t, 200, w.get().status)
			}
			w.noWaits()
		})
	}
}

// A target has just served all proxies, and then fails. The first request is retried at once, and lost. A retry of the
// next request waits, and is served.
func TestS245ATargetThatIsDownForAShortTime(t *testing.T) {
	w := start(t, 4, notAdaptive+"[retry]\nbase_delay = 0.5\n")
	const before, failures = 8, 4
	var arrivals atomic.Int32
	for _, f := range w.fakes {
		f.SetScript(func(int, *http.Request) lab.Behaviour {
			if n := arrivals.Add(1); n > before && n <= before+failures {
				return lab.Status(503)
			}
			return lab.OK()
		})
	}
	for range before {
		require.Equal(t, 200, w.get().status)
	}
	first := w.get()
	require.Equal(t, 503, first.status)
	require.Equal(t, "3", first.attempts())
	next := w.get()
	require.Equal(t, 200, next.status)
	require.Equal(t, "2", next.attempts())
	requireTook(t, next, 0.5)
}

// A proxy is itself a Whirlpool gateway, whose attempts at a dead target have all failed. The outer gateway does not
// retry, so two gateways take as long as one gateway.
func TestTwoLevelsOfGateways(t *testing.T) {
	inner := start(t, 4, notAdaptive+"[retry]\nbase_delay = 0.5\n")
	inner.setAll(lab.Status(503))
	outer := start(t, 0, notAdaptive+"[[proxies]]\nurl = \"http://"+
		inner.gateway+"\"\n[[proxies]]\nid = \"again\"\nurl = \"http://"+inner.gateway+"\"\n")
	a := outer.get()
	require.Equal(t, 503, a.status)
	require.Equal(t, "1", a.attempts())
	requireTook(t, a, 1.5) // the inner gateway waits 0.5 s and 1 s
	require.Equal(t, 3, inner.arrivals())
	require.Equal(t, []string{"exhausted"}, a.header.Values("X-Whirlpool-Outcome"))
}

// If a proxy requires authentication schemes that the gateway does not support, the error names these schemes.
func TestASchemeThatIsNotSpoken(t *testing.T) {
	w := start(t, 1, "")
	w.fakes[0].SetBehaviour(lab.Behaviour{Status: 407, Header: http.Header{"Proxy-Authenticate": {"Negotiate",
		"NTLM"}}})
	a := w.get()
	require.Equal(t, 502, a.status)
	require.Contains(t, a.body, "Negotiate or NTLM")
	status, header, _ := w.connect("origin.test:443")
	require.Equal(t, 502, status)
	require.Contains(t, header.Get("Proxy-Status"), "Negotiate or NTLM")
}

// A proxy that cannot resolve names responds with its own error page. Another proxy serves the request, and the breaker
// of the first proxy opens, although its responses are fast.
func TestAProxysOwnErrorPage(t *testing.T) {
	w := start(t, 3, notAdaptive+"[selection]\nfirst = \"performance\"\n")
	w.fakes[0].SetBehaviour(lab.Behaviour{Garbage: "HTTP/1.0 500 Unable to connect\r\nServer: tinyproxy/1.11.1\r\n" +
		"Content-Type: text/html\r\nConnection: close\r\n\r\n<html>"})
	for range 60 {
		require.Equal(t, 200, w.get().status)
	}
	assert.LessOrEqual(t, w.fakes[0].Count(), 12)
	rule := start(t, 3, notAdaptive)
	rule.fakes[0].SetBehaviour(lab.Behaviour{Status: 404, Header: http.Header{"X-Error": {"quota used up"}}})
	status, body, _ := rule.call("PATCH", "/proxies/F1", `{"own_error":[{"header":"X-Error: quota"}]}`)
	require.Equal(t, 200, status, "%s", body)
	requestUntil(t, "F1 opens", func(int) {
		a := rule.get()
		require.Equal(t, 200, a.status, "%+v", a)
	}, func() bool { return rule.breaker("F1")["state"] == "open" })
	assert.LessOrEqual(t, rule.fakes[0].Count(), 12)
}
