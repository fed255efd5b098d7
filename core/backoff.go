package core

// BackoffRequest is what a backoff plugin is told before a retry; laid out as
// sdk/abi lays it out. Times are seconds.
type BackoffRequest struct {
	Retry         float64 // 1 before the first retry
	BaseDelay     float64 // policy.base_delay
	Multiplier    float64 // policy.multiplier
	Cap           float64 // policy.max_backoff_delay
	Jitter        float64 // 1 if policy.jitter
	Random        float64 // uniform in [0, 1), fresh for each call
	PreviousDelay float64 // what was waited before the previous retry; 0 before the first
	RetryAfter    float64 // what the last answer asked for; 0 when it did not
	LastStatus    float64 // of the last answer; 0 when none arrived
	Elapsed       float64 // since the request began
	Remaining     float64 // until its total timeout; -1 when it has none
	MaxAttempts   float64 // policy.max_attempts
	HostHash      float64 // as RankRequest.HostHash
	IDHash        float64 // of the proxy that failed last, as Candidate.IDHash
	Now           float64 // s since the Unix epoch
}

// Backoff gives the wait before a retry, in seconds. The caller raises it to
// RetryAfter and clamps it to [0, Cap]. Implementations are safe for concurrent
// use. An error means no wait was given.
type Backoff interface {
	Delay(r *BackoffRequest) (seconds float64, err error)
}
