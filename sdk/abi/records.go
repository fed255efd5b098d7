package abi

// RankRequest says what a scorer is asked to choose for. Times are seconds.
type RankRequest struct {
	Count    float64 // candidates that follow
	Now      float64 // since the Unix epoch
	Attempt  float64 // 0 for a request's first attempt
	Turn     float64 // goes up by one with each first attempt
	Seed     float64 // 53 random bits, fresh for each call
	HostHash float64 // 53-bit hash of the target's host
	// 53-bit hash of the wanted region: the request's, in a retry else that of the proxy that failed; 0 for none
	RegionHash float64
	PoolSize   float64 // proxies in the pool, candidates or not
	Idempotent float64 // 1 if the request may be repeated
	Connect    float64 // 1 if the request is a CONNECT
}

// Candidate is what a scorer is told of one proxy.
type Candidate struct {
	SuccessRate float64 // 0..1 over the last 100 attempts; 0.5 without any
	Samples     float64 // attempts behind SuccessRate, 0..100
	LatencyMean float64 // s, over the last 100 attempts
	LatencyEWMA float64 // s, exponentially weighted (alpha 0.1)
	// (LatencyMean + 10 ms) / (the largest among the candidates + 10 ms); without a latency 0.5 if there were no
	// attempts, 1 if none succeeded, else 0
	NormalizedLatency   float64
	InFlight            float64 // attempts running through it now
	Weight              float64 // configured, > 0, default 1
	Cost                float64 // configured, >= 0, default 0
	RegionMatch         float64 // 1 if in the wanted region, else 0
	ConsecutiveFailures float64
	SinceUse            float64 // s since it was last chosen; -1 if never
	Uses                float64 // times chosen
	BreakerState        float64 // 0 closed, 1 open, 2 half open
	IDHash              float64 // 53-bit hash of the id, stable across restarts
	AffinityHash        float64 // 53-bit hash of (id, target host)
	Rotation            float64 // places from the rotation's turn: 0 is next
}

// BackoffRequest is what a backoff plugin is told before a retry. Times are
// seconds.
type BackoffRequest struct {
	Retry         float64 // 1 before the first retry
	BaseDelay     float64 // policy.base_delay
	Multiplier    float64 // policy.multiplier
	Cap           float64 // policy.max_backoff_delay
	Jitter        float64 // 1 if policy.jitter
	Random        float64 // uniform in [0, 1), fresh for each call
	PreviousDelay float64 // waited before the previous retry; 0 before the first
	RetryAfter    float64 // what the last answer asked for; 0 when it did not
	LastStatus    float64 // of the last answer; 0 when none arrived
	Elapsed       float64 // since the request began
	Remaining     float64 // until its total timeout; -1 when it has none
	MaxAttempts   float64 // policy.max_attempts
	HostHash      float64 // as RankRequest.HostHash
	IDHash        float64 // of the proxy that failed last, as Candidate.IDHash
	Now           float64 // since the Unix epoch
}

// Observation is one finished attempt, as a plugin that learns sees it.
type Observation struct {
	Now      float64 // s since the Unix epoch
	IDHash   float64 // as Candidate.IDHash
	HostHash float64 // as RankRequest.HostHash
	Attempt  float64 // 0 for the first
	Success  float64 // 1 or 0
	Latency  float64 // s
	Status   float64 // 0 when no answer arrived
	Delay    float64 // s waited before this attempt
}

// JudgeRequest is a response that a judge rules on. Addresses are of bytes in guest memory; a zero byte, not counted
// in the length, follows them.
type JudgeRequest struct {
	Now           float64 // s since the Unix epoch
	Attempt       float64 // 0 for the first
	AttemptsLeft  float64 // attempts that may follow this one; 0 if the request may not be repeated
	Status        float64
	Latency       float64 // s until the response's head
	HostHash      float64 // as RankRequest.HostHash
	IDHash        float64 // of the proxy, as Candidate.IDHash
	ContentLength float64 // of the body, as announced; -1 if that is unknown
	Encoded       float64 // 1 if the body has a content coding other than gzip, and is not decoded
	Whole         float64 // 1 if the body's beginning is the whole body
	Fields        uint32  // address of the first Pair: the header fields that judge_wants names
	FieldCount    uint32
	Body          uint32 // address of the body's beginning
	BodyLength    uint32
}

// Ruling is what a judge says about a response.
type Ruling struct {
	Kind float64 // RulingFine and so on
	Rest float64 // s that the proxy rests for the target's host; 0 for 600; with RulingBanned only
}

// Pair is a key and its value: one setting of [plugins.NAME.config], or one
// entry of a proxy's metadata. Addresses are of UTF-8 bytes in guest memory;
// a zero byte, not counted in the length, follows them.
type Pair struct {
	Key         uint32
	KeyLength   uint32
	Value       uint32
	ValueLength uint32
	Number      float64 // the value read as a number (true is 1, false 0); NaN if it is none
}

// Proxy is one proxy of the pool, as PoolChanged is told of it.
type Proxy struct {
	IDHash        float64 // as Candidate.IDHash
	RegionHash    float64 // as RankRequest.RegionHash; 0 without a region
	Weight        float64
	Cost          float64
	ID            uint32 // address of UTF-8 bytes, as in Pair
	IDLength      uint32
	Region        uint32
	RegionLength  uint32
	Metadata      uint32 // address of the first Pair
	MetadataCount uint32
}
