package core

// BackoffRequest is the input of a backoff: the policy, and data about the attempts so far. Package sdk/abi defines its
// memory layout. Times are in seconds.
type BackoffRequest struct {
	Retry         float64 // number of the retry; 1 for the first retry
	BaseDelay     float64 // policy.base_delay
	Multiplier    float64 // policy.multiplier
	Cap           float64 // policy.max_backoff_delay
	Jitter        float64 // 1 if policy.jitter is set, else 0
	Random        float64 // uniform in [0, 1), new for each call
	PreviousDelay float64 // the wait before the previous retry; 0 if this is the first retry
	RetryAfter    float64 // Retry-After of the last response; 0 without this field
	LastStatus    float64 // status of the last response; 0 without a response
	Elapsed       float64 // time since the request began
	Remaining     float64 // time until the request's total timeout; -1 without a total timeout
	MaxAttempts   float64 // policy.max_attempts
	HostHash      float64 // as RankRequest.HostHash
	IDHash        float64 // Candidate.IDHash of the proxy of the last attempt
	Now           float64 // seconds since the Unix epoch
}

// Backoff computes the wait before a retry. The caller waits for the larger of this wait and RetryAfter, limited to the
// range from 0 to Cap. Implementations are safe for concurrent use.
type Backoff interface {
	Delay(r *BackoffRequest) (seconds float64, err error)
}
