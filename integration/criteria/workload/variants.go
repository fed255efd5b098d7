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

// Variants returns the variants of the gateway. The first variant is the default configuration. Between the first
// variant and Single, each variant has one part turned off, or turned on if the part is off by default. Rotation has
// all parts turned off.
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

// Parts returns the names of the variants with one part turned off or on.
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
