package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/integration/lab"
)

func TestAdhocNoise(t *testing.T) {
	shipped, err := os.ReadFile("../koanf.toml")
	require.NoError(t, err)
	_ = shipped
	for _, p := range []float64{0.1, 1, 2, 10, 30} {
		for _, rate := range []int{20, 200, 1000} {
			w := start(t, 8, "")
			var mu sync.Mutex
			chance := rand.New(rand.NewPCG(uint64(p*10), uint64(rate)))
			for _, f := range w.fakes {
				f.Set(func(int, *http.Request) lab.Behaviour {
					mu.Lock()
					defer mu.Unlock()
					if chance.Float64()*100 < p {
						return lab.Status(503)
					}
					return lab.OK()
				})
			}
			var wg sync.WaitGroup
			var m sync.Mutex
			count := map[string]int{}
			n := min(rate*30, 6000)
			begin := time.Now()
			for i := range n {
				time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
				wg.Go(func() {
					a := w.get()
					m.Lock()
					count[fmt.Sprint(a.status, " ", a.outcome())]++
					m.Unlock()
				})
			}
			wg.Wait()
			fmt.Println("noise", p, "rate", rate, count, w.states(), time.Since(begin))
			w.cmd.Process.Kill()
		}
	}
}
