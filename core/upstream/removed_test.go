package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestARemovedProxyIsNotWatched(t *testing.T) {
	now := time.Unix(1000, 0)
	cfg := breaker.Default()
	cfg.FailureThreshold = 1
	pool := NewPool(PoolConfig{Literal: true, Breaker: cfg, Now: func() time.Time { return now }})
	a := Spec{ID: "a", Weight: 1, Address: Address{Scheme: HTTP, Host: "a:1"}}
	b := Spec{ID: "b", Weight: 1, Address: Address{Scheme: HTTP, Host: "b:1"}}
	require.NoError(t, pool.Apply([]Spec{a, b}))
	old := pool.Snapshot().Get("b")
	lease, ok := old.Acquire(now)
	require.True(t, ok)
	require.NoError(t, pool.Apply([]Spec{a}))
	lease.Settle(&core.Outcome{Verdict: core.Failure, Cause: verdict.ProxyUnreachable, Charge: core.ChargeProxy})
	lease.Release()
	require.Empty(t, pool.NotClosed())
	require.NoError(t, pool.Apply([]Spec{a, b}))
	require.Empty(t, pool.NotClosed())
	require.Equal(t, 1, pool.countOthers(pool.Snapshot().Get("a")))
}
