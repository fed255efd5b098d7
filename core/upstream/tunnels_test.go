package upstream

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// An example of each kind of tunnel end.
var (
	clientFirst = verdict.TunnelEnd{Up: 500, Down: 5000, Lasted: 200 * time.Millisecond}
	long        = verdict.TunnelEnd{Up: 500, Down: 5000, Lasted: 5 * time.Second, FarFirst: true}
	cut         = verdict.TunnelEnd{Up: 500, Down: 2000, Lasted: 200 * time.Millisecond, FarFirst: true}
	fast        = verdict.TunnelEnd{Up: 500, Down: 5000, Lasted: 200 * time.Millisecond, FarFirst: true}
	little      = verdict.TunnelEnd{Up: 500, Down: 2000, Lasted: 2 * time.Second, FarFirst: true}
)

// A proxy that cuts its tunnels opens its breaker if the tunnels of the other proxies to the same targets end
// otherwise.
func TestShortTunnels(t *testing.T) {
	for name, c := range map[string]struct {
		literal bool
		end     func(proxy, target int, chance float64) *verdict.TunnelEnd
		open    int // proxies whose breaker opens; the first ones
	}{
		"one cuts two of three": {end: func(proxy, _ int, chance float64) *verdict.TunnelEnd {
			if proxy == 0 && chance < 2.0/3 {
				return &cut
			}
			return &clientFirst
		}, open: 1},
		"one cuts, the others last": {end: func(proxy, _ int, chance float64) *verdict.TunnelEnd {
			if proxy == 0 && chance < 2.0/3 {
				return &cut
			}
			return &long
		}, open: 1},
		"one cuts by resets": {end: func(proxy, _ int, chance float64) *verdict.TunnelEnd {
			if proxy == 0 && chance < 2.0/3 {
				e := fast
				e.Reset = true
				return &e
			}
			return &long
		}, open: 1},
		"one is faster than the others": {end: func(proxy, _ int, _ float64) *verdict.TunnelEnd {
			if proxy == 0 {
				return &fast
			}
			return &long
		}},
		"one is faster, and responses differ in length": {end: func(proxy, _ int, chance float64) *verdict.TunnelEnd {
			switch {
			case chance < 0.5 && proxy == 0:
				return &cut
			case chance < 0.5:
				return &little
			case proxy == 0:
				return &fast
			}
			return &long
		}},
		"breakers count literally": {literal: true, end: func(proxy, _ int, _ float64) *verdict.TunnelEnd {
			if proxy == 0 {
				return &cut
			}
			return &clientFirst
		}},
		"all targets end their tunnels": {end: func(int, int, float64) *verdict.TunnelEnd { return &cut }},
		"one target ends its tunnels": {end: func(_, target int, _ float64) *verdict.TunnelEnd {
			if target == 0 {
				return &cut
			}
			return &clientFirst
		}},
		"targets end half of their tunnels": {end: func(_, _ int, chance float64) *verdict.TunnelEnd {
			if chance < 0.5 {
				return &cut
			}
			return &clientFirst
		}},
		"clients close at once": {end: func(int, int, float64) *verdict.TunnelEnd { return &clientFirst }},
		"all end at the same time": {end: func(_, _ int, _ float64) *verdict.TunnelEnd {
			e := cut
			e.Stopped = true
			return &e
		}},
	} {
		for seed := range uint64(5) {
			now := time.Unix(1000, 0)
			opened := map[string]bool{}
			pool := NewPool(PoolConfig{Literal: c.literal, Breaker: breaker.Default(), Memory: DefaultMemory,
				Now: func() time.Time { return now }, Notify: func(tr core.Transition) {
					if tr.To == core.Open {
						opened[tr.ProxyID] = true
						require.Contains(t, tr.Why, "short tunnels: ")
					}
				}})
			var specs []Spec
			for i := range 4 {
				specs = append(specs, Spec{ID: fmt.Sprint(i), Address: Address{Scheme: HTTP, Host: fmt.Sprint("p:", i+
					1)}})
			}
			require.NoError(t, pool.Apply(specs))
			chance, short := rand.New(rand.NewPCG(seed, 1)), uint64(0)
			for i := range 2000 {
				proxy, target := i%4, chance.IntN(3)
				e := c.end(proxy, target, chance.Float64())
				if proxy == 0 && e.Short() {
					short++
				}
				pool.Snapshot().Get(fmt.Sprint(proxy)).EndTunnel(Target(fmt.Sprintf("t%d:443", target)), e)
				now = now.Add(100 * time.Millisecond)
				if len(opened) > 0 && c.open > 0 && i > 400 {
					break
				}
			}
			require.Len(t, opened, c.open, "%s, seed %d: %v", name, seed, opened)
			require.Equal(t, c.open == 1, opened["0"], name)
			require.Equal(t, short, pool.Snapshot().Get("0").ShortTunnels(), name)
		}
	}
}
