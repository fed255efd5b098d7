package core

import "time"

// RequestID names one client request for the life of the process. It is
// printed as 16 hexadecimal digits, in X-Whirlpool-Request-Id and in logs.
type RequestID uint64

// AppendTo appends the 16 digits to b.
func (id RequestID) AppendTo(b []byte) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[id>>shift&15])
	}
	return b
}

// String returns the 16 digits.
func (id RequestID) String() string { return string(id.AppendTo(make([]byte, 0, 16))) }

// AttemptEvent is one finished attempt, recorded exactly once.
type AttemptEvent struct {
	Request     RequestID
	ProxyID     string
	Attempt     int           // 0 for the first; a replay carries the number it repeats
	Delay       time.Duration // waited before it
	RetryReason string        // of a retry: the Reason of the attempt before it
	Started     time.Time
	Ended       time.Time
	Outcome     Outcome
}

// RequestEvent is one finished request, recorded exactly once, however it
// ended.
type RequestEvent struct {
	Request    RequestID
	PolicyHash string // of the policy it ran under
	Policy     any    // that policy, as metrics show it
	Attempts   int    // tries made, replays not counted; 0 when none was admissible
	Waited     time.Duration
	Started    time.Time
	Ended      time.Time
	Status     int // given to the client; 0 when it was gone
	Final      Final
	Delivered  bool // an answer of an origin (or a tunnel) reached the client and was not an exhausted failure
	Listener   Listener

	// The last outcome could have been retried, but max_attempts was reached, or
	// the retry budget was empty.
	LimitReached, BudgetSpent bool
}

// Listener is where a request came in.
type Listener uint8

// The listeners. ListenHTTP are absolute-form requests to the gateway's port,
// ListenConnect its tunnels, ListenAPI what came by POST /request or by the
// engine's Transport.
const (
	ListenHTTP Listener = iota
	ListenConnect
	ListenAPI
)

// String returns the word used in metrics.
func (l Listener) String() string { return [...]string{"http", "connect", "api"}[l] }
