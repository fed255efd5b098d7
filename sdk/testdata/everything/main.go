// The plugin is a scorer that uses every hook, for the tests of the SDK. Its scores show the values that it
// received.
package main

import (
	"math"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/observe"
	"github.com/whirlpool-proxy/whirlpool/sdk/pool"
	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
	"github.com/whirlpool-proxy/whirlpool/sdk/tolerance"
)

type everything struct {
	mode    string
	near    float64
	proxies map[float64]*pool.Proxy // by IDHash
	seen    float64
	kept    [][]byte
}

func (e *everything) Configure(s *configure.Settings) error {
	e.mode = s.String("mode", "pool")
	e.near = s.Float("limits.near", 0.25, 0, 1)
	s.Int("count", 1, 1, 1<<20)
	s.Bool("flag", false)
	return nil
}

func (e *everything) Tolerance() float64 { return e.near }

func (e *everything) PoolChanged(proxies []pool.Proxy) {
	e.proxies = make(map[float64]*pool.Proxy, len(proxies))
	for i := range proxies {
		e.proxies[proxies[i].IDHash] = &proxies[i]
	}
}

func (e *everything) Observe(o *abi.Observation) {
	e.seen = o.Now + 2*o.IDHash + 3*o.HostHash + 5*o.Attempt + 7*o.Success + 11*o.Latency + 13*o.Status + 17*o.Delay
}

func (e *everything) Score(req *abi.RankRequest, candidates []abi.Candidate, scores []float64) {
	for i := range candidates {
		switch e.mode {
		case "pool": // what the module received for the candidate from pool_changed
			p := e.proxies[candidates[i].IDHash]
			if p == nil {
				continue
			}
			scores[i] = float64(1000*len(p.ID)+100*len(p.Region)+10*len(p.Metadata.Get("tier"))) + p.Weight + p.Cost
		case "observe":
			scores[i] = e.seen
		case "request":
			scores[i] = float64(i) + req.Count + req.Attempt + req.Turn + req.PoolSize
		case "panic": // not in the first call, which the host makes itself
			if req.Attempt > 0 {
				panic("the dish ran away")
			}
		case "index": // an index out of range, but not in the first call
			scores[i+int(req.Attempt)*len(scores)] = 1
		case "spin":
			for req.Attempt > 0 {
			}
		case "recurse":
			scores[i] = recurse(req.Attempt)
		case "eat": // allocates until the memory is full, but not in the first call
			for req.Attempt > 0 {
				e.kept = append(e.kept, make([]byte, 1<<20))
			}
		case "garbage": // allocates in each call
			b := make([]byte, 1024)
			b[int(req.Turn)%1024] = 1
			e.kept = append(e.kept[:0], b)
		case "nan":
			scores[i] = math.NaN()
		}
	}
}

func recurse(n float64) float64 {
	if n == 0 {
		return 0
	}
	return recurse(n+1) + 1
}

func init() {
	e := &everything{}
	scorer.Register(e)
	configure.Register(e)
	observe.Register(e)
	pool.Register(e)
	tolerance.Register(e)
}

func main() {}
