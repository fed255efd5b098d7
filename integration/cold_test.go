package integration

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A cold start: 500 GETs by 32 workers through 3 good proxies, a slow one, 2 that fail in 40 %, one that refuses
// connections and one that hangs. The default scorer wastes at most a third of the attempts that round_robin wastes.
func TestAColdStartLearnsFromTheFirstAttempts(t *testing.T) {
	wasted := func(config string) int {
		w := start(t, 8, config)
		w.fakes[3].Do(lab.Slow(300 * time.Millisecond))
		for _, i := range []int{4, 5} {
			w.fakes[i].Set(func(n int, _ *http.Request) lab.Behaviour {
				b := lab.Slow(20 * time.Millisecond)
				if rand.New(rand.NewPCG(uint64(n), uint64(i))).Float64() < 0.4 {
					b.Status = 503
				}
				return b
			})
		}
		for _, i := range []int{0, 1, 2} {
			w.fakes[i].Do(lab.Slow(20 * time.Millisecond))
		}
		w.fakes[6].Close()
		w.fakes[7].Do(lab.Behaviour{Hole: true})
		var left, failed atomic.Int64
		left.Store(500)
		var workers sync.WaitGroup
		for range 32 {
			workers.Go(func() {
				for left.Add(-1) >= 0 {
					if w.get().status != 200 {
						failed.Add(1)
					}
				}
			})
		}
		workers.Wait()
		require.Zero(t, failed.Load())
		arrivals := 0
		for i, f := range w.fakes {
			if i != 6 {
				arrivals += f.Count()
			}
		}
		return arrivals - 500
	}
	learned, turns := wasted(""), wasted(byTurns)
	t.Logf("wasted attempts: %d, with round_robin %d", learned, turns)
	require.LessOrEqual(t, 3*learned, turns)
}
