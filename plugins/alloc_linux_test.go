//go:build !race

package plugins_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// The test does not run with the race detector, because sync.Pool then drops items on purpose.
func TestARequestAllocatesNothing(t *testing.T) {
	pool, s := proxies(t, 300)
	r := newRequest(t, pool, s, plugins.FallbackRetry)
	for range 2_000 { // the loop fills the tracker's list of ended requests
		require.True(t, r.run())
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() { r.run() }))

	// A refused request allocates nothing either.
	shut(t, pool, 1)
	require.False(t, r.run())
	require.Zero(t, testing.AllocsPerRun(1000, func() { r.run() }))
	require.Equal(t, core.FinalAllBreakersOpen, r.x.Result().Final)
}

func TestADelayAllocatesNothing(t *testing.T) {
	b, err := registry(t).Backoff("exponential")
	require.NoError(t, err)
	q := core.BackoffRequest{Retry: 2, BaseDelay: 1, Multiplier: 2, Cap: 30, Remaining: -1, MaxAttempts: 3}
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = b.Delay(&q) }))
}
