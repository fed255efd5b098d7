package breaker

import "time"

// Trips makes a breaker that opens again and again stay open longer: for
// timeout_duration the first time, then twice as long each time, up to
// max_timeout. A breaker that has stayed closed for twice its last open time
// loses one step, and so on for each further step. The zero Trips is a
// breaker that has never opened. It is not safe for concurrent use.
//
// Envoy's outlier detection lengthens its ejections in the same way
// (base_ejection_time, max_ejection_time).
type Trips struct {
	n    int           // steps: 0 before the first trip
	last time.Duration // the last open time
}

// Next counts a trip and returns how long the breaker stays open. closed is how
// long it had been closed: 0 after a failed probe. A longest below timeout
// stands for timeout: every trip lasts equally long.
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
	t.n = min(t.n+1, maxSteps)
	t.last = open
	return open
}

// maxSteps bounds the steps that a breaker has to lose.
const maxSteps = 16
