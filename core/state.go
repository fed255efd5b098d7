package core

import "time"

// State is the state of a proxy's circuit breaker.
type State uint8

// The three states; the numbers are those of the metric
// whirlpool_circuit_breaker_state and of Candidate.BreakerState.
const (
	Closed   State = 0
	Open     State = 1
	HalfOpen State = 2
)

// String returns the word used in the API: closed, open, half_open.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half_open"
	}
	return "unknown"
}

// Transition is one change of a breaker's state. From differs from To.
type Transition struct {
	ProxyID      string
	From, To     State
	At           time.Time // when it took effect: a half-opening carries the due time
	FailureCount int       // failures in the live window at that moment
	Reason       string    // threshold, timeout, probe_success, probe_failure, manual_reset
	Why          string    // of an opening by evidence: what failed where, beside the rest of the pool; else ""
}
