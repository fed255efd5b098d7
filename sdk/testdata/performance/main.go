// The plugin is the built-in scorer performance in Go. Benchmarks compare the two.
package main

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
)

type performance struct{}

func (performance) Score(_ *abi.RankRequest, candidates []abi.Candidate, scores []float64) {
	for i := range candidates {
		c := &candidates[i]
		scores[i] = 0.7*c.SuccessRate + 0.3*(1-c.NormalizedLatency)
		if c.RegionMatch != 0 {
			scores[i] *= 1.1
		}
	}
}

func init() { scorer.Register(performance{}) }

func main() {}
