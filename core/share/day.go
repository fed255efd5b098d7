package share

import (
	"sync/atomic"
	"time"
)

// DayClock returns the day (UTC) for daily limits. It uses the gateway's clock until Set is called. A nil DayClock
// always uses the gateway's clock. A DayClock is safe for concurrent use.
type DayClock struct{ synced atomic.Pointer[clockPair] }

// clockPair holds the times that two clocks showed at the same moment.
type clockPair struct{ local, store time.Time }

const secondsPerDay = 24 * 60 * 60

// Set makes c use the clock of a cluster's store, which showed the time store when the gateway's clock showed local.
// From then on, c counts by the monotonic clock that the times of the gateway's clock carry, so it does not follow a
// change of the gateway's clock. On Linux the monotonic clock stands still while the machine is suspended.
func (c *DayClock) Set(local, store time.Time) { c.synced.Store(&clockPair{local, store}) }

// Time converts a time of the gateway's clock to a time of the clock that c uses.
func (c *DayClock) Time(now time.Time) time.Time {
	if c == nil {
		return now
	}
	if p := c.synced.Load(); p != nil {
		return p.store.Add(now.Sub(p.local))
	}
	return now
}

// Day returns the day, in days since the Unix epoch. The parameter now is a time of the gateway's clock.
func (c *DayClock) Day(now time.Time) int64 { return c.Time(now).Unix() / secondsPerDay }

// UntilNextDay returns the time until the next day begins.
func (c *DayClock) UntilNextDay(now time.Time) time.Duration {
	now = c.Time(now)
	return time.Unix((now.Unix()/secondsPerDay+1)*secondsPerDay, 0).Sub(now)
}
