package breaker

import "time"

// Trips computes the open times of a breaker. The first one is timeout_duration, and each later one is twice the last
// one, up to max_timeout. A breaker that stays closed for twice the last open time undoes one doubling, then the next.
// Envoy's outlier detection works in a similar way (base_ejection_time, max_ejection_time).
type Trips struct {
	lastOpenTime time.Duration
	doublings    uint8 // of the next open time; at most maxDoublings
}

// Next counts a trip and returns its open time, which is at least timeout (timeout_duration) and at most longest
// (max_timeout). The breaker was closed for the time closed before the trip, or not at all after a failed probe.
func (t *Trips) Next(closed, timeout, longest time.Duration) time.Duration {
	longest = max(longest, timeout)
	for t.doublings > 0 && closed >= 2*t.lastOpenTime {
		closed -= 2 * t.lastOpenTime
		t.lastOpenTime = max(t.lastOpenTime/2, timeout)
		t.doublings--
	}
	open := timeout
	for range t.doublings {
		if open > longest/2 {
			open = longest
			break
		}
		open *= 2
	}
	t.doublings = min(t.doublings+1, maxDoublings)
	t.lastOpenTime = open
	return open
}

// maxDoublings limits the time after which the doublings of a long outage are undone.
const maxDoublings = 16
