package upstream

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// simAttempt is an attempt of TestCutTunnels.
type simAttempt struct {
	proxy, target int
	plain         bool // not a followed tunnel
	cut           bool
}

// The breakers of proxies that cut their tunnels open, and no other breakers. There are six proxies and three targets.
func TestCutTunnels(t *testing.T) {
	const proxies, targets, attempts, runs = 6, 3, 800, 2
	turn := func(i int, r *rand.Rand) simAttempt { return simAttempt{proxy: i % proxies, target: r.IntN(targets)} }
	for name, c := range map[string]struct {
		literal bool
		next    func(i int, r *rand.Rand, a *simAttempt)
		open    []string
	}{
		"one cuts two of three": {next: func(_ int, r *rand.Rand, a *simAttempt) {
			a.cut = a.proxy == 0 && r.IntN(3) > 0
		}, open: []string{"0"}},
		"one cuts all": {next: func(_ int, _ *rand.Rand, a *simAttempt) { a.cut = a.proxy == 0 }, open: []string{"0"}},
		"half of them cut two of three": {next: func(_ int, r *rand.Rand, a *simAttempt) {
			a.cut = a.proxy < 3 && r.IntN(3) > 0
		}, open: []string{"0", "1", "2"}},
		"one cuts, of which half is plain": {next: func(_ int, r *rand.Rand, a *simAttempt) {
			a.plain = r.IntN(4) == 0
			a.cut = a.proxy == 0 && !a.plain
		}, open: []string{"0"}},
		"breakers count":  {literal: true, next: func(_ int, _ *rand.Rand, a *simAttempt) { a.cut = a.proxy == 0 }},
		"all targets cut": {next: func(_ int, _ *rand.Rand, a *simAttempt) { a.cut = true }},
		"one target cuts": {next: func(_ int, _ *rand.Rand, a *simAttempt) { a.cut = a.target == 0 }},
		"the only target cuts two of three": {next: func(_ int, r *rand.Rand, a *simAttempt) {
			a.target, a.cut = 0, r.IntN(3) > 0
		}},
		"targets cut half":         {next: func(_ int, r *rand.Rand, a *simAttempt) { a.cut = r.IntN(2) == 0 }},
		"targets cut one in 20":    {next: func(_ int, r *rand.Rand, a *simAttempt) { a.cut = r.IntN(20) == 0 }},
		"new targets, each cuts 3": {next: func(i int, _ *rand.Rand, a *simAttempt) { a.target, a.cut = i/3, true }},
		"a target that only one proxy gets": {next: func(_ int, r *rand.Rand, a *simAttempt) {
			if r.IntN(6) == 0 {
				*a = simAttempt{target: 99, cut: true}
			}
		}},
		"a target that cuts only at half of the proxies": {next: func(_ int, r *rand.Rand, a *simAttempt) {
			a.cut = a.proxy < 3 && a.target == 0
		}},
		"five such targets, half of the attempts, the others plain": {next: func(_ int, r *rand.Rand, a *simAttempt) {
			a.target, a.plain = 10+r.IntN(20), r.IntN(2) == 0
			if !a.plain {
				a.target, a.cut = r.IntN(5), a.proxy < 3 && r.IntN(8) > 0
			}
		}},
		"a target restarts": {next: func(i int, _ *rand.Rand, a *simAttempt) {
			if i%200 < 30 {
				a.target, a.cut = 0, true
			}
		}},
	} {
		for seed := range uint64(runs) {
			now, r := time.Unix(1000, 0), rand.New(rand.NewPCG(seed, 1))
			opened := map[string]bool{}
			pool := NewPool(PoolConfig{Literal: c.literal, Breaker: breaker.Default(), Memory: DefaultMemory,
				Now: func() time.Time { return now }, Notify: func(tr core.Transition) {
					if tr.To == core.Open {
						opened[tr.ProxyID] = true
						require.Contains(t, tr.Why, "tunnel_cut")
					}
				}})
			var specs []Spec
			for i := range proxies {
				address := Address{Scheme: HTTP, Host: fmt.Sprint("p:", i+1)}
				specs = append(specs, Spec{ID: fmt.Sprint(i), Address: address})
			}
			require.NoError(t, pool.Apply(specs))
			for i := range attempts {
				a := turn(i, r)
				c.next(i, r, &a)
				lease, ok := pool.Snapshot().Get(fmt.Sprint(a.proxy)).Acquire(now)
				if !ok {
					continue
				}
				lease.Target = Target(fmt.Sprintf("t%d:443", a.target))
				end, cause := verdict.TunnelEnd{Followed: !a.plain, InRecord: a.cut}, verdict.TunnelOpen
				if a.cut {
					cause = verdict.TunnelCut
				}
				if !a.plain {
					lease.FollowTunnel()
				}
				lease.Settle(&core.Outcome{Verdict: core.Success, Cause: verdict.TunnelOpen})
				now = now.Add(50 * time.Millisecond)
				lease.EndTunnel(&end, cause, now)
				lease.Release()
				now = now.Add(50 * time.Millisecond)
			}
			require.Equal(t, c.open, slices.Sorted(maps.Keys(opened)), "%s, seed %d", name, seed)
		}
	}
}

// A cut tunnel counts if the pool has another proxy, and if the breaker has been closed since the tunnel was opened.
func TestCutTunnelsInTheBreakersWindow(t *testing.T) {
	nothing := func(*breaker.Breaker) {}
	for name, c := range map[string]struct {
		proxies int
		isProbe bool // the tunnel is the probe of a half-open breaker
		between func(*breaker.Breaker)
		counted int
	}{
		"two proxies":    {2, false, nothing, 1},
		"the only proxy": {1, false, nothing, 0},
		"reset":          {2, false, func(b *breaker.Breaker) { b.Reset() }, 0},
		"a probe":        {2, true, nothing, 1},
		"a probe, tripped": {2, true, func(b *breaker.Breaker) {
			trip(t, b)
			b.Reset()
		}, 0},
	} {
		now := time.Unix(1000, 0)
		pool := NewPool(PoolConfig{Breaker: breaker.Default(), Memory: DefaultMemory,
			Now: func() time.Time { return now }, Notify: func(core.Transition) {}})
		require.NoError(t, pool.Apply([]Spec{
			{ID: "a", Address: Address{Scheme: HTTP, Host: "a.test:1"}},
			{ID: "b", Address: Address{Scheme: HTTP, Host: "b.test:1"}},
		}[:c.proxies]))
		u := pool.Snapshot().Get("a")
		if c.isProbe {
			trip(t, u.Breaker())
			now = now.Add(time.Hour)
		}
		lease, ok := u.Acquire(now)
		require.True(t, ok)
		require.Equal(t, c.isProbe, lease.Probe())
		lease.FollowTunnel()
		lease.Settle(&core.Outcome{Verdict: core.Success})
		c.between(u.Breaker())
		end := verdict.TunnelEnd{Followed: true, ProxyEndedFirst: true, InRecord: true}
		lease.EndTunnel(&end, verdict.TunnelCut, now)
		require.Equal(t, c.counted, u.Breaker().Snapshot().FailureCount, name)
		require.EqualValues(t, 1, u.ShortTunnels(), name)
	}
}

// trip opens a closed breaker.
func trip(t *testing.T, b *breaker.Breaker) {
	for range breaker.Default().FailureThreshold {
		p, ok := b.Acquire()
		require.True(t, ok)
		p.Report(core.Failure, breaker.Evidence{IsEnough: true})
	}
	require.Equal(t, core.Open, b.Snapshot().State)
}
