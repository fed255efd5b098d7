package cluster

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// countingStore counts the exchanges with a store.
type countingStore struct {
	Store
	exchanges atomic.Int32
}

func (c *countingStore) Exchange(ctx context.Context, b Batch) (Reply, error) {
	c.exchanges.Add(1)
	return c.Store.Exchange(ctx, b)
}

// Late attempts through a proxy whose breaker is open fail, but have nothing to share. Their exchanges are paced, too.
func TestUrgentExchangesWithoutOperationsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		counting := &countingStore{Store: r.store}
		r.nodes[0].stop()
		<-r.nodes[0].done
		r.nodes[0].store.Store = counting
		r.nodes[0].start()
		time.Sleep(5 * second)
		r.setDead("p", true)
		for range 20 {
			r.nodes[0].try("p", 0)
			r.nodes[1].try("p", 0)
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(second)
		require.Equal(t, core.Open, r.nodes[0].state("p"))
		before := counting.exchanges.Load()
		for range 1000 {
			r.nodes[0].node().Failed("p")
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, counting.exchanges.Load()-before, int32(2*second/minExchange))
	})
}
