package core

import (
	"fmt"
	"strconv"
	"time"
)

// RequestID identifies a request among all requests of the process. It is printed as 16 hexadecimal
// digits in X-Whirlpool-Request-Id and in the log.
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

// ParseRequestID parses the result of RequestID.String.
func ParseRequestID(s string) (RequestID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if id := RequestID(n); err == nil && id.String() == s {
		return id, nil
	}
	return 0, fmt.Errorf("a request id has 16 hexadecimal digits, in lower case")
}

// AttemptEvent is the record of one finished attempt. Each attempt has exactly one record.
type AttemptEvent struct {
	Request     RequestID
	ProxyID     string
	Attempt     int           // 0 for the first; a replay has the number of the attempt it replays
	Delay       time.Duration // the wait before the attempt
	RetryReason string        // Reason of the previous attempt; "hedge" for a hedge, "" for the first attempt
	Hedge       bool          // the attempt began while the previous attempt was in flight
	Started     time.Time
	Ended       time.Time
	Outcome     Outcome
}

// RequestEvent is the record of one finished request. Each request has exactly one record, however
// it ended.
type RequestEvent struct {
	Request    RequestID
	PolicyHash string // hash of the request's policy
	Policy     any    // the request's policy, in the form in which metrics show it
	Attempts   int    // number of attempts, without replays; 0 if no proxy was admissible
	Waited     time.Duration
	Started    time.Time
	Ended      time.Time
	Status     int // status of the response to the client; 0 if the client left before it
	Final      Final
	Listener   Listener

	// Delivered is set if the client received a response of a target, or a tunnel. It is not set if the response
	// of a failed attempt was relayed because no attempt followed.
	Delivered bool

	// LostHedge is set if the last attempt is a hedge that lost or failed. If the request was served, the
	// attempt before the hedge has served it.
	LostHedge bool

	// A retry was possible after the last attempt, but max_attempts was reached (LimitReached) or the retry
	// budget was spent (BudgetSpent).
	LimitReached, BudgetSpent bool
}

// ServedBy returns the number of the attempt that served the request, from 1; 0 if Delivered is not set.
func (e *RequestEvent) ServedBy() int {
	switch {
	case !e.Delivered:
		return 0
	case e.LostHedge:
		return e.Attempts - 1
	}
	return e.Attempts
}

// Listener is the way in which a request arrived.
type Listener uint8

// The listeners. ListenHTTP is for a request in absolute form, ListenConnect for a CONNECT and ListenSOCKS5
// for a SOCKS5 request, all on the gateway's port. ListenAPI is for a POST /request or a call of the engine's
// Transport.
const (
	ListenHTTP Listener = iota
	ListenConnect
	ListenAPI
	ListenSOCKS5

	NumListeners // the number of listeners
)

// String returns the name used in metrics.
func (l Listener) String() string { return [...]string{"http", "connect", "api", "socks5"}[l] }
