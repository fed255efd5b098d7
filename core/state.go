package core

import "time"

// State is the state of a proxy's circuit breaker.
type State uint8

// The states. The numbers are the values of the metric whirlpool_circuit_breaker_state
// and of Candidate.BreakerState.
const (
	Closed   State = 0
	Open     State = 1
	HalfOpen State = 2
)

// String returns the name used in the API: closed, open or half_open.
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
	At           time.Time // time of the change; for a change to half-open, the time at which the breaker was due
	FailureCount int       // number of failures in the breaker's window at the time At
	Reason       string    // a Reason of package breaker, or restart (docs/verdicts.md)
	Why          string    // the evidence that opened the breaker, in words; "" for other transitions
}
