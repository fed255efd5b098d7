package core

// Candidate is what a scorer is told of one proxy: a row of float64 columns,
// laid out exactly as sdk/abi lays it out in guest memory (plugins/wasmhost
// asserts that). Times are seconds. Append only: a column never moves.
type Candidate struct {
	SuccessRate         float64 // 0..1 over the last 100 attempts that are not older than selection.memory; 0.5 without any
	Samples             float64 // attempts behind SuccessRate, 0..100
	LatencyMean         float64 // s, mean over those of these attempts that measured one; 0 without any
	LatencyEWMA         float64 // s, exponentially weighted (alpha 0.1); 0 without any
	NormalizedLatency   float64 // (LatencyMean + 10 ms) / (the largest among the candidates + 10 ms); without a latency 0.5 if there were no attempts, 1 if none succeeded, else 0
	InFlight            float64 // attempts running through it now
	Weight              float64 // configured, > 0, default 1
	Cost                float64 // configured, >= 0, default 0
	RegionMatch         float64 // 1 if in the wanted region, else 0
	ConsecutiveFailures float64 // the latest attempts that all failed, without forgotten ones
	SinceUse            float64 // s since it was last chosen; -1 if never
	Uses                float64 // times chosen
	BreakerState        float64 // State as a number
	IDHash              float64 // 53-bit hash of the id, stable across restarts
	AffinityHash        float64 // 53-bit hash of (id, target host): rendezvous hashing needs no hash in the guest
	Rotation            float64 // places from the rotation's turn: 0 is next
}

// RankRequest is what a scorer is told of the choice at hand; laid out as
// sdk/abi lays it out.
type RankRequest struct {
	Count      float64 // candidates that follow
	Now        float64 // s since the Unix epoch
	Attempt    float64 // 0 for a request's first attempt
	Turn       float64 // goes up by one with each first attempt
	Seed       float64 // 53 random bits, fresh for each call
	HostHash   float64 // 53-bit hash of the target's host, lower case, without port
	RegionHash float64 // 53-bit hash of the wanted region: the request's, in a retry else that of the proxy that failed; 0 for none
	PoolSize   float64 // proxies in the pool, candidates or not
	Idempotent float64 // 1 if the request may be repeated without opting in
	Connect    float64 // 1 if the request is a CONNECT
}

// Candidates is the side of a choice that knows the proxies.
type Candidates interface {
	// Len is the number of candidates, at least 1.
	Len() int
	// Fill writes the request and one row per candidate, every column of it;
	// len(rows) is Len(). The memory is the guest's own: Fill keeps neither.
	Fill(req *RankRequest, rows []Candidate)
}

// Scorer ranks candidates: it sets scores[i] for candidate i, higher is
// better. len(scores) == c.Len(). Equal scores are for the caller to settle
// (fewest in flight first). Implementations are safe for concurrent use and
// keep neither argument. An error means no score was given.
type Scorer interface {
	Score(c Candidates, scores []float64) error
}

// Tolerance is an optional side of a Scorer: scores within this fraction of
// the best count as equal (0.02 is two percent). Without it, scores are equal
// only if they are the same number.
type Tolerance interface {
	Tolerance() float64
}

// Observation is one finished attempt as a learning plugin sees it, if it said
// something about its proxy; laid out as sdk/abi lays it out.
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

// Hash53 is the hash of IDHash, HostHash and RegionHash: FNV-1a 64 of s
// (http://www.isthe.com/chongo/tech/comp/fnv/) followed by the finalizer of
// MurmurHash3, shifted right 11 bits so that a float64 holds it exactly.
func Hash53(s string) float64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h ^= uint64(s[i])
		h *= 1099511628211
	}
	return mix53(h)
}

// Pair53 combines two hashes into one, as AffinityHash does with a proxy's id
// and a host.
func Pair53(a, b float64) float64 {
	return mix53(uint64(a)*0x9e3779b97f4a7c15 + uint64(b))
}

func mix53(h uint64) float64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return float64(h >> 11)
}
