package selector

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// In every state of breakers, limits and attempts, the proxy of the next attempt is of the lowest tier that has a
// candidate and in which the request has an attempt left.
func TestTheLowestTierIsUsed(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "proxies")
		f := newFixture(outer, n, rapid.IntRange(1, 12).Draw(t, "candidates"))
		attempts := rapid.IntRange(1, 3).Draw(t, "attempts in a tier")
		f.s.SetTierAttempts(attempts)
		tiers := map[string]int{}
		for i := range n {
			tier := rapid.IntRange(0, 2).Draw(t, "tier")
			tiers[fmt.Sprintf("p%d", i)] = tier
			extras := &upstream.Extras{MinInterval: time.Second}
			f.change(t, i, func(s *upstream.Spec) { s.Tier, s.Extras = 3*tier, extras })
		}
		q := &Query{Idempotent: true}
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) { f.settle(f.get(rapid.IntRange(0, n-1).Draw(t, "i")), core.Failure) },
			"wait": func(t *rapid.T) {
				f.now = f.now.Add(time.Duration(rapid.IntRange(0, 1_500).Draw(t, "ms")) * time.Millisecond)
				f.pool.Sweep()
			},
			"limit": func(t *rapid.T) {
				if held, ok := limit.Reserve(f.get(rapid.IntRange(0, n-1).Draw(t, "i")).Usage(), nil, f.now); ok {
					held.EndAttempt()
				}
			},
			"next request": func(*rapid.T) { q = &Query{Idempotent: true} },
			"select": func(t *rapid.T) {
				tried, best := map[int]int{}, -1
				for _, p := range q.Tried {
					tried[tiers[p.Proxy.ID()]]++
				}
				rank := func(tier int) int { // the lower, the better
					if tried[tier] >= attempts {
						return 10 + tier
					}
					return tier
				}
				for i := range n {
					u := f.get(i)
					_, admits := u.Usage().Check(f.now)
					if !admits || q.hasTried(u) || !u.Breaker().Admissible() {
						continue
					}
					if r := rank(tiers[u.ID()]); best < 0 || r < best {
						best = r
					}
				}
				lease, err := f.s.Select(q, rotation, f.now)
				if best < 0 {
					return // a proxy that was tried, or none
				}
				require.NoError(t, err)
				require.Equal(t, best, rank(tiers[lease.Proxy.ID()]), "%s", lease.Proxy.ID())
				q.Tried = append(q.Tried, TriedProxy{Proxy: lease.Proxy})
				q.Attempt++
				lease.Release()
			},
		})
	})
}

// A retry does not probe a lower tier while a higher one has a closed breaker. A first attempt does, so that the lower
// tier is used again when it has recovered.
func TestProbesOfALowerTier(t *testing.T) {
	f := newFixture(t, 3, 8)
	f.change(t, 1, func(s *upstream.Spec) { s.Tier = 1 })
	f.change(t, 2, func(s *upstream.Spec) { s.Tier = 1 })
	f.settle(f.get(0), core.Failure)
	require.NotEqual(t, "p0", f.must(t, &Query{Idempotent: true}))
	f.now = f.now.Add(2 * time.Second) // its breaker is half-open
	f.pool.Sweep()
	f.pool.SetLiteral(false)
	require.Equal(t, "p2", f.must(t, &Query{Idempotent: true, Attempt: 1, Tried: []TriedProxy{{Proxy: f.get(1)}}}))
	require.Equal(t, "p0", f.must(t, &Query{Idempotent: true}))
	lease, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	require.NoError(t, err)
	lease.Settle(&core.Outcome{Verdict: core.Success})
	lease.Release()
	require.Equal(t, "p0", f.must(t, &Query{Idempotent: true, Attempt: 1, Tried: []TriedProxy{{Proxy: f.get(1)}}}))
}

func (f *fixture) must(t *testing.T, q *Query) string {
	lease, err := f.s.Select(q, rotation, f.now)
	require.NoError(t, err)
	defer lease.Release()
	return lease.Proxy.ID()
}

func TestSessionsAndTiers(t *testing.T) {
	f := newFixture(t, 4, 8)
	for i := range 3 {
		f.change(t, i, func(s *upstream.Spec) { s.Tier = 2 - i/2 })
	}
	f.change(t, 3, func(s *upstream.Spec) { s.Tier = 2 })
	lease, err := f.s.Select(&Query{Idempotent: true, Session: unbound{}}, rotation, f.now)
	require.NoError(t, err)
	require.Equal(t, "p2", lease.Proxy.ID())
	lease.Release()
}

type unbound struct{ stuck }

func (unbound) StartProxy() string { return "" }

func TestPoolsWithoutTiers(t *testing.T) {
	f := newFixture(t, 2, 8)
	require.Nil(t, f.pool.Snapshot().Tiers())
	f.change(t, 0, func(s *upstream.Spec) { s.Tier = 1 })
	require.Len(t, f.pool.Snapshot().Tiers(), 2)
	f.change(t, 1, func(s *upstream.Spec) { s.Tier = 1 })
	require.Nil(t, f.pool.Snapshot().Tiers())
}
