package workload

import (
	"math"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// Variant is a change of the gateway's configuration.
type Variant struct {
	Name   string
	Change func(*engine.Config)
}

// The names of the variants to which the report compares the other variants.
const (
	Default  = "default"
	Single   = "single attempt"
	Rotation = "random rotation"
)

// Variants returns the variants of the gateway: first the default configuration, and then variants that each turn one
// part off, or on if it is off by default. The last two are Single, which makes no retries, and Rotation, which turns
// off all these parts together.
func Variants() []Variant {
	breakers := func(c *engine.Config) { c.Breaker.FailureThreshold = math.MaxInt32 }
	adaptive := func(c *engine.Config) { c.Adaptive = false }
	reachability := func(c *engine.Config) { c.Reachability = false }
	slowStart := func(c *engine.Config) { c.NoSlowStart = true }
	random := func(c *engine.Config) { c.FirstScorer, c.RetryScorer = "random", "random" }
	return []Variant{
		{Default, func(*engine.Config) {}},
		{"no breakers", breakers},
		{"no adaptive timeout", adaptive},
		{"no reachability checks", reachability},
		{"no slow start", slowStart},
		{"random scorers", random},
		{"hedging on", func(c *engine.Config) { c.Retry.Hedge = retry.Hedge{P95: true} }},
		{Single, func(c *engine.Config) { c.Retry.MaxAttempts = 1 }},
		{Rotation, func(c *engine.Config) {
			for _, off := range []func(*engine.Config){breakers, adaptive, reachability, slowStart, random} {
				off(c)
			}
		}},
	}
}

// Parts returns the names of the variants that turn one part off or on (see Variants).
func Parts() (names []string) {
	for _, v := range Variants() {
		if v.Name == Single {
			return names
		}
		if v.Name != Default {
			names = append(names, v.Name)
		}
	}
	return names
}
