package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
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

// deadHosts returns the script of a proxy that shows the behaviour b for each host whose name begins with "dead". For
// all other hosts it responds with 200.
func deadHosts(b lab.Behaviour) lab.Script {
	return func(_ int, r *http.Request) lab.Behaviour {
		if len(r.Host) > 4 && r.Host[:4] == "dead" {
			return b
		}
		return lab.OK()
	}
}

// Many dead targets, each requested once, open no breaker while other targets are served.
func TestManyDeadTargetsOpenNoBreaker(t *testing.T) {
	w := start(t, 6, notAdaptive)
	for _, f := range w.fakes {
		f.SetScript(deadHosts(lab.Behaviour{Fin: true}))
	}
	require.Equal(t, 200, w.request("GET", "http://good.test/", "").status)
	var lost, dead atomic.Int64
	stop := coretest.RunConcurrently(6, func(i int) {
		if a := w.request("GET", fmt.Sprintf("http://good%d.test/", i), ""); a.status != 200 {
			lost.Add(1)
		}
	})
	var burst sync.WaitGroup
	for range 16 {
		burst.Go(func() {
			for range 40 {
				w.request("GET", fmt.Sprintf("http://dead%d.test/", dead.Add(1)), "")
			}
		})
	}
	burst.Wait()
	stop()
	assert.Zero(t, lost.Load())
	assert.Equal(t, map[string]int{"closed": 6}, w.breakerStates())
}

// Some requests are for names of hosts that do not exist, each name once. Then a proxy dies. Its breaker opens within
// 10 attempts at existing targets, and no other breaker opens.
func TestAProxyThatDiesAmongDeadNames(t *testing.T) {
	for _, percent := range []int{1, 10, 30, 50} {
		t.Run(fmt.Sprint(percent, " %"), func(t *testing.T) {
			t.Parallel()
			w := start(t, 6, notAdaptive+roundRobin) // so that latencies do not affect the choice
			for _, f := range w.fakes {
				f.SetScript(deadHosts(lab.Behaviour{Fin: true}))
			}
			for range 24 {
				require.Equal(t, 200, w.request("GET", "http://good.test/", "").status)
			}
			chance := rand.New(rand.NewPCG(uint64(percent), 2))
			names := 0
			request := func() {
				if chance.IntN(100) >= percent {
					a := w.request("GET", fmt.Sprintf("http://good%d.test/", names%3), "")
					require.Equal(t, 200, a.status)
					return
				}
				names++
				w.request("GET", fmt.Sprintf("http://dead%d.test/", names), "")
			}
			for range 100 {
				request()
			}
			require.Equal(t, map[string]int{"closed": 6}, w.breakerStates())
			w.clearArrivals()
			w.fakes[0].SetBehaviour(lab.Status(502))
			for i := 0; w.breaker("F1")["state"] != "open"; i++ {
				require.Less(t, i, 2000)
				request()
			}
			good := 0
			for _, a := range w.fakes[0].Arrivals() {
				if strings.HasPrefix(a.Target, "http://good") {
					good++
				}
			}
			assert.LessOrEqual(t, good, 10, "%v", w.breaker("F1")["why"])
			assert.Equal(t, map[string]int{"closed": 5, "open": 1}, w.breakerStates())
		})
	}
}

// Requests go alternately to a dead target and to a good one. Equal proxies take turns as well, so the same proxy
// always gets the requests for the dead target.
func TestADeadTargetOfOneProxyOpensNoBreaker(t *testing.T) {
	for _, n := range []int{2, 3} {
		t.Run(fmt.Sprint(n, " proxies"), func(t *testing.T) {
			t.Parallel()
			w := start(t, n, notAdaptive)
			for _, f := range w.fakes {
				f.SetScript(deadHosts(lab.Behaviour{Fin: true}))
			}
			for range 60 {
				w.request("GET", "http://dead.test/", "")
				for range n - 1 {
					require.Equal(t, 200, w.request("GET", "http://good.test/", "").status)
				}
			}
			assert.Equal(t, map[string]int{"closed": n}, w.breakerStates())
		})
	}
}

// A new gateway gets 256 simultaneous requests for a dead target.
func TestABurstAtADeadTargetOpensNoBreaker(t *testing.T) {
	for name, death := range map[string]lab.Behaviour{"closes": {Fin: true}, "cuts": {CutAfter: 10},
		"503": lab.Status(503)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, 6, "[retry]\nbase_delay = 0.1\n")
			for _, f := range w.fakes {
				f.SetScript(deadHosts(death))
			}
			for range 12 {
				require.Equal(t, 200, w.request("GET", "http://good.test/", "").status)
			}
			var wg sync.WaitGroup
			for range 256 {
				wg.Go(func() { w.request("GET", "http://dead.test/", "") })
			}
			wg.Wait()
			assert.Equal(t, map[string]int{"closed": 6}, w.breakerStates())
		})
	}
}

// While everything fails, each breaker whose open time has passed admits one probe. The probe fails,
// and the breaker opens again.
func TestOneProbeEachWhileEverythingFails(t *testing.T) {
	w := start(t, 3, "[retry]\nmax_attempts = 1\n[breaker]\ntimeout_duration = \"2s\"\n")
	w.setAll(lab.Behaviour{Fin: true})
	requestUntil(t, "all open", func(i int) { w.request("GET", fmt.Sprintf("http://t%d.test/", i%3), "") },
		func() bool { return w.breakerStates()["open"] == 3 })
	for _, f := range w.fakes {
		w.awaitState(f.Name, "half_open")
	}
	w.clearArrivals()
	begin := time.Now()
	for i := range 60 {
		w.request("GET", fmt.Sprintf("http://t%d.test/", i%3), "")
	}
	for _, f := range w.fakes {
		probes := f.Arrivals()
		require.NotEmpty(t, probes)
		for i := range probes[1:] { // on a slow machine the breaker may be half-open again
			assert.Greater(t, probes[i+1].At.Sub(probes[i].At), 2*time.Second, "one probe each time")
		}
		if state := w.breaker(f.Name)["state"]; time.Since(begin) < 2*time.Second {
			assert.Equal(t, "open", state)
		}
	}
}

// The proxies respond to a CONNECT for one target with garbage, and open tunnels to the other targets.
func TestGarbageToCONNECTForOneTarget(t *testing.T) {
	w := start(t, 3, notAdaptive)
	good := coretest.Serve(t, func(c net.Conn) { io.Copy(c, c) })
	for _, f := range w.fakes {
		f.SetScript(deadHosts(lab.Behaviour{Garbage: "\x00\x01garbage\r\n\r\n"}))
	}
	var wg sync.WaitGroup
	for range 64 { // 64 requests begin before the proxies have opened any tunnel
		wg.Go(func() {
			r, err := http.NewRequest("GET", "https://dead.test/", nil)
			if err == nil {
				w.client.Do(r)
			}
		})
	}
	wg.Wait()
	for range 30 {
		status, _, c := w.connect(good)
		require.Equal(t, 200, status)
		c.Close()
		w.connect("dead.test:443")
	}
	assert.Equal(t, map[string]int{"closed": 3}, w.breakerStates())
}

// If one proxy gets a 503 from a target that has just served the other proxies, the retry begins without a
// wait.
func TestNoWaitWhereOthersHaveJustBeenServed(t *testing.T) {
	w := start(t, 4, notAdaptive)
	for range 20 {
		require.Equal(t, 200, w.get().status)
	}
	w.fakes[0].SetBehaviour(lab.Status(503))
	for range 12 {
		require.Equal(t, 200, w.get().status)
	}
	w.noWaits()
}
