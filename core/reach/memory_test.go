package reach_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/reach"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// maxDeadSize is the largest number of bytes that a proxy takes in addition if it cannot be reached: the history of its
// breaker, the transition and the opening that the metrics keep, and its next check. Most proxies of a published list
// are dead.
const maxDeadSize = 330

func TestADeadProxyIsSmall(t *testing.T) {
	const proxies = 2000
	synctest.Test(t, func(t *testing.T) {
		recorder := metrics.New(metrics.Config{})
		pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now,
			Notify: recorder.Transition})
		require.NoError(t, pool.Apply(specs(proxies)))
		before := coretest.LiveHeap()
		refused := &verdict.Error{Cause: verdict.ProxyUnreachable}
		c := reach.New(reach.Config{Pool: pool, Now: time.Now, Parallel: 64,
			Reach: func(context.Context, *upstream.Upstream) *verdict.Error { return refused }})
		c.SetEnabled(true)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		time.Sleep(90 * time.Second) // the failures that opened the breakers have left the window
		for _, u := range pool.Snapshot().All {
			require.Equal(t, core.Open, u.State())
		}
		size := (coretest.LiveHeap() - before) / proxies
		t.Logf("%.0f bytes for each proxy that cannot be reached", size)
		require.Less(t, size, float64(maxDeadSize))
		require.Len(t, recorder.ByProxy(1), proxies)
		cancel()
		running.Wait()
	})
}
