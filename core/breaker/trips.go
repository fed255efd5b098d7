package breaker

import "time"

// Trips computes the open times of a breaker. The first one is timeout_duration, and each later one is twice the
// previous one, up to max_timeout. If a breaker stays closed for twice the last open time, one doubling is undone, then
// the next. Envoy's outlier detection works in a similar way (base_ejection_time, max_ejection_time).
type Trips struct {
	lastOpenTime time.Duration
	doublings    uint8 // how often the next open time doubles timeout_duration; limited by max_timeout
}

// CountTrip counts a trip and returns the open time that follows. The caller passes the time for which the breaker was
// closed before the trip (0 after a failed probe), timeout_duration and max_timeout. The open time is at least
// timeout_duration and at most max_timeout.
func (t *Trips) CountTrip(closedFor, timeout, longest time.Duration) time.Duration {
	longest = max(longest, timeout)
	for t.doublings > 0 && closedFor >= 2*t.lastOpenTime {
		closedFor -= 2 * t.lastOpenTime
		t.lastOpenTime = max(t.lastOpenTime/2, timeout)
		t.doublings--
	}
	open := timeout
	for i := range t.doublings {
		if open > longest/2 {
			open, t.doublings = longest, i+1 // fewer doublings if max_timeout has become shorter
			break
		}
		open *= 2
	}
	if open < longest {
		t.doublings++
	}
	t.lastOpenTime = open
	return open
}
