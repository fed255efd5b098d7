package core

import (
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"
)

// RequestID identifies a request among all requests of the process. It is printed as 16 hexadecimal
// digits in X-Whirlpool-Request-Id and in the log.
type RequestID uint64

// AppendTo appends the 16 hexadecimal digits of the id to b.
func (id RequestID) AppendTo(b []byte) []byte {
	const digits = "0123456789abcdef"
	var text [16]byte
	for i := len(text) - 1; i >= 0; i-- {
		text[i] = digits[id&15]
		id >>= 4
	}
	return append(b, text[:]...)
}

// String returns the 16 hexadecimal digits of the id.
func (id RequestID) String() string { return string(id.AppendTo(make([]byte, 0, 16))) }

// InSample reports whether the request is in a sample of all requests. The rate is the share of requests in the sample,
// 0 to 1. The result depends only on the id and the rate (Fibonacci hashing: Knuth, The Art of Computer Programming,
// volume 3, section 6.4).
func (id RequestID) InSample(rate float64) bool {
	const spread = 0x9E3779B97F4A7C15
	return rate >= 1 || float64(uint64(id)*spread) < rate*math.MaxUint64
}

// ParseRequestID parses the result of RequestID.String.
func ParseRequestID(s string) (RequestID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if id := RequestID(n); err == nil && id.String() == s {
		return id, nil
	}
	return 0, fmt.Errorf("a request id has 16 hexadecimal digits, in lower case")
}

// Slot keeps the counters that one recorder of attempts has for a proxy. The proxy holds the Slot, so that the recorder
// need not look up the counters by the proxy's id. The zero value is empty.
type Slot struct{ atomic.Value }

// AttemptEvent is the record of one finished attempt.
type AttemptEvent struct {
	Request     RequestID
	ProxyID     string
	Host        string        // host of the target, without port, in lower case; "" if it is not known
	Attempt     int           // 0 for the first attempt; a replay has the number of the attempt that it replays
	Delay       time.Duration // the wait before the attempt
	RetryReason string        // Outcome.Reason of the previous attempt; "hedge" for a hedge, "" for the first attempt
	Hedge       bool          // the attempt began while the previous attempt was in flight
	Rule        string        // label of the rule that was applied to the attempt's outcome; "" for none
	RuleLimit   int           // max_attempts of this rule; 0 for max_attempts of the policy
	Started     time.Time
	Ended       time.Time
	Outcome     Outcome
}

// RuleLabels are the labels of the rules that were applied to a request, without repetitions. Unused
// elements are "".
type RuleLabels [5]string

// RequestEvent is the record of one finished request.
type RequestEvent struct {
	Request     RequestID
	PolicyHash  string // hash of the request's policy
	Policy      any    // the request's policy, in the form in which metrics show it
	Attempts    int    // number of attempts, without replays; 0 if no proxy was admissible
	BackoffTime time.Duration
	Started     time.Time
	Ended       time.Time
	Status      int // status of the response to the client; 0 if the client left before the response
	Final       Final
	Listener    Listener

	// Delivered is set if the client received a response of a target, or a tunnel. It is not set if the response
	// of a failed attempt was relayed because no attempt followed.
	Delivered bool

	// LostHedge is set if the last attempt is a hedge that lost or failed. The attempt before it may have served the
	// request.
	LostHedge bool

	// LimitReached is set if a retry was possible, but max_attempts was reached. BudgetSpent is set if a retry was
	// possible, but the retry budget was spent.
	LimitReached, BudgetSpent bool
}

// ServedBy returns the number of the attempt that served the request; the first attempt has the number 1. It returns
// 0 if Delivered is not set.
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
	ListenIntercept // a request inside of an intercepted tunnel

	NumListeners // the number of listeners
)

// String returns the listener's name in metrics.
func (l Listener) String() string {
	return [...]string{"http", "connect", "api", "socks5", "intercept"}[l]
}
