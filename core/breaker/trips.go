package breaker

import "time"

// Trips computes the open times of a breaker: timeout_duration after the first trip, and twice the last open time
// after each later trip, up to max_timeout. If the breaker is closed for twice the last open time, one doubling is
// undone. The last open time then counts as half as long, and the next doubling is undone after twice that half. The
// zero Trips stands for a breaker that has never opened. It is not safe for concurrent use.
//
// Envoy's outlier detection lengthens its ejections in a similar way
// (base_ejection_time, max_ejection_time).
type Trips struct {
	last time.Duration // the latest open time
	n    uint8         // number of trips, minus the doublings that were undone; at most maxTrips
}

// Next counts a trip and returns the time for which the breaker stays open. The parameter closed is the time for which
// the breaker was closed before the trip; 0 after a failed probe. If longest (max_timeout) is below timeout
// (timeout_duration), every open time is timeout.
func (t *Trips) Next(closed, timeout, longest time.Duration) time.Duration {
	longest = max(longest, timeout)
	for t.n > 0 && closed >= 2*t.last {
		closed -= 2 * t.last
		t.last = max(t.last/2, timeout)
		t.n--
	}
	open := timeout
	for range t.n {
		if open > longest/2 {
			open = longest
			break
		}
		open *= 2
	}
	t.n = min(t.n+1, maxTrips)
	t.last = open
	return open
}

// maxTrips limits Trips.n, so that the doublings of a long outage are undone within a limited time.
const maxTrips = 16
