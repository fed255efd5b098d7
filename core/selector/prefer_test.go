package selector_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Proxies that cannot be reached are chosen last, even if all other proxies have as many attempts in flight
// as their preferred number.
func TestUnreachedProxiesComeLast(t *testing.T) {
	now := time.Unix(1000, 0)
	pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: func() time.Time { return now }})
	var specs []upstream.Spec
	for i := range 10 {
		specs = append(specs, upstream.Spec{ID: fmt.Sprint("p", i), Weight: 1, Extras: &upstream.Extras{MaxInFlight: 4},
			Address: upstream.Address{Scheme: upstream.HTTP, Host: fmt.Sprintf("h%d:1", i)}})
	}
	require.NoError(t, pool.Apply(specs))
	for _, u := range pool.Snapshot().All[2:] {
		u.SetReached(false)
	}
	turn := uint64(0)
	s := selector.New(pool, func() uint64 { turn++; return turn }, 256)
	used := map[string]int{}
	for i := range 9 {
		lease, err := s.Select(&selector.Query{Idempotent: true}, coretest.Rotation{}, now)
		require.NoError(t, err)
		used[lease.Proxy.ID()]++
		if i < 8 {
			require.False(t, lease.Proxy.IsUnreached(), "%v", used)
		} else {
			require.True(t, lease.Proxy.IsUnreached(), "the others are at their max_in_flight")
		}
	}
	require.Equal(t, 4, used["p0"])
	require.Equal(t, 4, used["p1"])
}
