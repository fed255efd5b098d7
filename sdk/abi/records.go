package abi

// RankRequest describes the request for which a scorer ranks proxies. Times are in seconds.
type RankRequest struct {
	Count    float64 // number of candidates
	Now      float64 // seconds since the Unix epoch
	Attempt  float64 // 0 for a request's first attempt
	Turn     float64 // a number that increases by one with each first attempt
	Seed     float64 // 53 random bits, new for each call
	HostHash float64 // 53-bit hash of the target's host
	// RegionHash is the 53-bit hash of the region that the request prefers (the wanted region). If it prefers none,
	// RegionHash is 0 at the first attempt; at a retry it is the hash of the region of the proxy that failed before.
	RegionHash float64
	PoolSize   float64 // proxies in the pool, including those that are not candidates
	Idempotent float64 // 1 if the request may be repeated
	Connect    float64 // 1 if the request is a CONNECT
}

// Candidate describes one proxy to a scorer.
type Candidate struct {
	SuccessRate float64 // 0..1 over the last 100 attempts; 0.5 if there are none
	Samples     float64 // number of attempts that SuccessRate is computed from, 0..100
	LatencyMean float64 // s, over the last 100 attempts
	LatencyEWMA float64 // s, exponentially weighted (alpha 0.1)
	// NormalizedLatency is (LatencyMean + 10 ms) / (the largest LatencyMean of all candidates + 10 ms). If LatencyMean
	// is 0, NormalizedLatency is 0.5 for a proxy without attempts, 1 if no attempt succeeded, and otherwise 0.
	NormalizedLatency   float64
	InFlight            float64 // attempts in flight through the proxy
	Weight              float64 // configured, > 0, default 1
	Cost                float64 // configured, >= 0, default 0
	RegionMatch         float64 // 1 if in the wanted region, else 0
	ConsecutiveFailures float64
	SinceUse            float64 // s since the proxy was last chosen; -1 if never
	Uses                float64 // number of times that the proxy was chosen
	BreakerState        float64 // 0 closed, 1 open, 2 half open
	IDHash              float64 // 53-bit hash of the id, stable across restarts
	AffinityHash        float64 // 53-bit hash of (id, target host)
	Rotation            float64 // distance from the proxy whose turn it is in the rotation; 0 for that proxy
}

// BackoffRequest is the input of a backoff. Times are in seconds.
type BackoffRequest struct {
	Retry         float64 // 1 before the first retry
	BaseDelay     float64 // policy.base_delay
	Multiplier    float64 // policy.multiplier
	Cap           float64 // policy.max_backoff_delay
	Jitter        float64 // 1 if policy.jitter
	Random        float64 // uniform in [0, 1), a new number for each call
	PreviousDelay float64 // the wait before the previous retry; 0 before the first retry
	RetryAfter    float64 // Retry-After of the last response; 0 without one
	LastStatus    float64 // status of the last response; 0 without one
	Elapsed       float64 // seconds since the request began
	Remaining     float64 // time until the request's total timeout; -1 without one
	MaxAttempts   float64 // policy.max_attempts
	HostHash      float64 // see RankRequest.HostHash
	IDHash        float64 // hash of the proxy of the last attempt; see Candidate.IDHash
	Now           float64 // seconds since the Unix epoch
}

// Observation is a finished attempt as a plugin gets it.
type Observation struct {
	Now      float64 // s since the Unix epoch
	IDHash   float64 // see Candidate.IDHash
	HostHash float64 // see RankRequest.HostHash
	Attempt  float64 // 0 for the request's first attempt
	Success  float64 // 1 or 0
	Latency  float64 // s
	Status   float64 // 0 without a response
	Delay    float64 // s, the wait before this attempt
}

// JudgeRequest describes a response on which a judge rules. Fields and Body are addresses in guest memory. A zero
// byte follows the body; BodyLength does not include it.
type JudgeRequest struct {
	Now           float64 // s since the Unix epoch
	Attempt       float64 // 0 for the request's first attempt
	AttemptsLeft  float64 // attempts that may follow this one; 0 if the request may not be repeated
	Status        float64
	Latency       float64 // s, until the response's head
	HostHash      float64 // see RankRequest.HostHash
	IDHash        float64 // hash of the proxy; see Candidate.IDHash
	ContentLength float64 // announced length of the body; -1 if it is unknown
	Encoded       float64 // 1 if the body has a content coding other than gzip, and is not decoded
	Whole         float64 // 1 if Body is the whole body
	Fields        uint32  // address of the first Pair; the pairs are the header fields that judge_wants names
	FieldCount    uint32
	Body          uint32 // address of the beginning of the body
	BodyLength    uint32
}

// Ruling is a judge's ruling on a response.
type Ruling struct {
	Kind float64 // RulingFine or another ruling
	Rest float64 // duration of the rest, s; 0 stands for 600; only with RulingBanned
}

// Pair is a key and its value: one setting of [plugins.NAME.config], or one entry of a proxy's metadata.
// Addresses point to UTF-8 bytes in guest memory. A zero byte, which the length does not include, follows
// these bytes.
type Pair struct {
	Key         uint32
	KeyLength   uint32
	Value       uint32
	ValueLength uint32
	Number      float64 // the value as a number (true is 1, false is 0); NaN if it is not a number
}

// Proxy is one proxy of the pool, as PoolChanged receives it.
type Proxy struct {
	IDHash        float64 // see Candidate.IDHash
	RegionHash    float64 // see RankRequest.RegionHash; 0 without a region
	Weight        float64
	Cost          float64
	ID            uint32 // address of UTF-8 bytes, as in Pair
	IDLength      uint32
	Region        uint32
	RegionLength  uint32
	Metadata      uint32 // address of the first Pair of the metadata
	MetadataCount uint32
}
