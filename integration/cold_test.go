package integration

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A cold start: 500 GETs by 32 workers through 3 good proxies, a slow one, 2 that fail 40 % of attempts, one that
// refuses connections and one that hangs. The default scorer wastes at most a third of the attempts that round_robin
// wastes.
//
// In about one of 25 runs, a request of the first 20 ms fails. Before any proxy has responded, its three attempts go
// to the proxy that refuses connections and to the two that fail 40 % of attempts.
func TestAColdStartLearnsFromTheFirstAttempts(t *testing.T) {
	run := func(config string) (wasted, failed int) {
		w := start(t, 8, config)
		w.fakes[3].SetBehaviour(lab.Slow(300 * time.Millisecond))
		for _, i := range []int{4, 5} {
			w.fakes[i].SetScript(func(n int, _ *http.Request) lab.Behaviour {
				b := lab.Slow(20 * time.Millisecond)
				if rand.New(rand.NewPCG(uint64(n), uint64(i))).Float64() < 0.4 {
					b.Status = 503
				}
				return b
			})
		}
		for _, i := range []int{0, 1, 2} {
			w.fakes[i].SetBehaviour(lab.Slow(20 * time.Millisecond))
		}
		w.fakes[6].Close()
		w.fakes[7].SetBehaviour(lab.Behaviour{NoResponse: true})
		var left, failures atomic.Int64
		left.Store(500)
		var workers sync.WaitGroup
		for range 32 {
			workers.Go(func() {
				for left.Add(-1) >= 0 {
					if a := w.get(); a.status != 200 {
						failures.Add(1)
						t.Log(w.getJSON("/requests/" + a.header.Get("X-Whirlpool-Request-Id")))
					}
				}
			})
		}
		workers.Wait()
		arrivals := 0
		for i, f := range w.fakes {
			if i != 6 {
				arrivals += f.Count()
			}
		}
		return arrivals - 500, int(failures.Load())
	}
	// On a loaded machine a pause of the fakes wastes attempts as well, so one good round of three is enough.
	for range 3 {
		learned, failed := run("")
		turns, failedInTurns := run(roundRobin)
		t.Logf("wasted: %d, with round_robin %d; failed requests: %d and %d", learned, turns, failed, failedInTurns)
		if 3*learned <= turns && failed <= 2 {
			return
		}
	}
	t.Fatal("the default scorer wastes more than a third of what round_robin wastes, or requests fail")
}
