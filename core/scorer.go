package core

// Candidate describes one proxy to a scorer: a row of float64 columns. Its memory layout
// is that of sdk/abi (a test in plugins/wasmhost compares the two), so columns are only
// ever appended. Times are in seconds.
type Candidate struct {
	// SuccessRate is the share of successes, 0 to 1, among the last 100 attempts that are not older
	// than selection.memory; 0.5 if there are none.
	SuccessRate float64
	Samples     float64 // number of attempts from which SuccessRate is computed, 0 to 100
	LatencyMean float64 // mean latency of those attempts; 0 if none has a latency
	LatencyEWMA float64 // exponentially weighted mean (alpha 0.1); 0 if none has a latency

	// NormalizedLatency is (LatencyMean + 10 ms) / (the largest LatencyMean among the candidates +
	// 10 ms). If no attempt has a latency, it is 0.5 if there were no attempts, 1 if none of them
	// succeeded, and otherwise 0.
	NormalizedLatency float64

	InFlight            float64 // attempts in flight through the proxy
	Weight              float64 // configured, above 0, default 1
	Cost                float64 // configured, at least 0, default 0
	RegionMatch         float64 // 1 if the proxy is in the wanted region, else 0
	ConsecutiveFailures float64 // failures since the last success, without those older than selection.memory
	SinceUse            float64 // time since the proxy was last chosen; -1 if never
	Uses                float64 // number of times the proxy was chosen
	BreakerState        float64 // State as a number
	IDHash              float64 // 53-bit hash of the id, the same in every process
	AffinityHash        float64 // 53-bit hash of id and target host together, for rendezvous hashing
	Rotation            float64 // distance from the proxy whose turn it is in the rotation: 0 is next
}

// RankRequest describes the choice to a scorer. Its memory layout is that of sdk/abi.
type RankRequest struct {
	Count    float64 // number of candidates
	Now      float64 // seconds since the Unix epoch
	Attempt  float64 // 0 for a request's first attempt
	Turn     float64 // increases by one with each first attempt
	Seed     float64 // 53 random bits, new for each call
	HostHash float64 // 53-bit hash of the target's host, in lower case and without port

	// RegionHash is the 53-bit hash of the region that the request asks for. In a retry of a
	// request that asks for no region, it is the hash of the region of the proxy that failed. 0
	// stands for no region.
	RegionHash float64

	PoolSize   float64 // number of proxies in the pool, including those that are no candidates
	Idempotent float64 // 1 if the request may be repeated without retry_non_idempotent
	Connect    float64 // 1 if the request is a CONNECT
}

// Candidates are the proxies that a scorer ranks.
type Candidates interface {
	// Len returns the number of candidates, at least 1.
	Len() int
	// Fill writes the request and one row per candidate. It sets every column and does
	// not retain its arguments, which may be a plugin's memory. len(rows) is Len().
	Fill(req *RankRequest, rows []Candidate)
}

// Scorer ranks candidates: it sets scores[i] for candidate i, and the highest score is best. len(scores) is
// c.Len(). Among equal scores the caller chooses the candidate with the fewest attempts in flight.
// Implementations are safe for concurrent use and do not retain their arguments. If the error is not nil, the
// scores are not used.
type Scorer interface {
	Score(c Candidates, scores []float64) error
}

// Tolerance is an optional interface of a Scorer: scores within this fraction of the best score
// count as equal (0.02 is two percent). Without the interface, only identical scores are equal.
type Tolerance interface {
	Tolerance() float64
}

// Observation describes one finished attempt to a plugin that learns. Attempts whose
// verdict is Excluded have none. Its memory layout is that of sdk/abi.
type Observation struct {
	Now      float64 // seconds since the Unix epoch
	IDHash   float64 // as Candidate.IDHash
	HostHash float64 // as RankRequest.HostHash
	Attempt  float64 // 0 for the first
	Success  float64 // 1 or 0
	Latency  float64 // seconds
	Status   float64 // of the response; 0 without one
	Delay    float64 // the wait before the attempt, in seconds
}

// Hash53 computes IDHash, HostHash and RegionHash: FNV-1a 64 of s
// (http://www.isthe.com/chongo/tech/comp/fnv/) followed by the finalizer of MurmurHash3,
// shifted right by 11 bits so that a float64 holds it exactly.
func Hash53(s string) float64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h ^= uint64(s[i])
		h *= 1099511628211
	}
	return mix53(h)
}

// Pair53 combines two hashes into one. AffinityHash combines the hashes of a proxy's id and of the
// target's host.
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
