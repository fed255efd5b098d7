package engine

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// sweepInterval is the interval at which open breakers whose time has passed become half-open. So the transition is
// reported soon, even if the proxy gets no attempt. (Code that reads a breaker's state gets the correct state at any
// time.)
const sweepInterval = 100 * time.Millisecond

// countBytesInterval is the interval at which the bytes of proxies are counted for the metrics.
const countBytesInterval = 5 * time.Second

// tidyInterval is the interval at which expired connections are closed, targets without a recent failure are forgotten,
// and the time series of removed proxies are removed from the metrics.
const tidyInterval = 30 * time.Second

func (e *Engine) runSweeps() {
	tick, tidy, surplus := time.NewTicker(sweepInterval), time.NewTicker(tidyInterval), time.NewTicker(time.Second)
	bytes := time.NewTicker(countBytesInterval)
	defer bytes.Stop()
	defer surplus.Stop()
	defer tick.Stop()
	defer tidy.Stop()
	for {
		select {
		case <-tick.C:
			e.pool.Sweep()
			e.executor.ServeQueues()
		case <-surplus.C:
			e.transport.CloseSurplus()
		case <-bytes.C:
			e.pool.EachBytes(e.metrics.CountBytes)
			e.metrics.CountCost(e.pool.Cost())
		case <-tidy.C:
			e.transport.CloseExpired()
			e.pool.ForgetTargets()
			snap := e.pool.Snapshot()
			e.metrics.Prune(func(id string) bool { return id == upstream.DirectID || snap.Get(id) != nil })
		case <-e.stop:
			return
		}
	}
}
