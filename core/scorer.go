package core

// Candidate describes one proxy to a scorer: a row of float64 columns. Package sdk/abi defines its memory layout (a
// test in plugins/wasmhost compares the two). Plugins depend on this layout, so a new column may be added only at the
// end. Times are in seconds.
//
// In a cluster, SuccessRate, Samples and ConsecutiveFailures include the latest failures of the proxy at other gateways
// (docs/cluster.md), until an attempt through it succeeds here. The other columns are of this gateway.
type Candidate struct {
	// SuccessRate is the share of successes, 0 to 1, among the last 100 attempts. Attempts older than
	// selection.memory do not count. It is 0.5 if there are no attempts.
	SuccessRate float64
	Samples     float64 // number of attempts from which SuccessRate is computed, 0 to 100
	LatencyMean float64 // mean latency of the successes among these attempts; 0 without a success
	LatencyEWMA float64 // moving average (alpha 0.1) of the latencies of successes; 0 without a success

	// NormalizedLatency is (LatencyMean + 10 ms) / (the largest LatencyMean among the candidates + 10 ms). If
	// LatencyMean is 0, then NormalizedLatency is 0.5 without attempts, 1 if all attempts failed, and otherwise 0.
	NormalizedLatency float64

	InFlight            float64 // attempts in flight through the proxy
	Weight              float64 // configured, above 0, default 1
	Cost                float64 // configured, at least 0, default 0
	RegionMatch         float64 // 1 if the proxy is in the wanted region, else 0
	ConsecutiveFailures float64 // failures since the last success; failures older than selection.memory do not count
	SinceUse            float64 // time since the proxy was last chosen; -1 if it was never chosen
	Uses                float64 // number of times the proxy was chosen
	BreakerState        float64 // State as a number
	IDHash              float64 // 53-bit hash of the id, the same in every process
	AffinityHash        float64 // 53-bit hash of id and target host together, for rendezvous hashing
	Rotation            float64 // number of proxies before this one in the rotation; 0 if it is this proxy's turn
}

// RankRequest describes to a scorer the request for which it ranks the candidates. Package sdk/abi defines its memory
// layout.
type RankRequest struct {
	Count    float64 // number of candidates
	Now      float64 // seconds since the Unix epoch
	Attempt  float64 // 0 for a request's first attempt
	Turn     float64 // increases by one with each first attempt
	Seed     float64 // 53 random bits, new for each call
	HostHash float64 // 53-bit hash of the target's host, in lower case and without port

	// RegionHash is the 53-bit hash of the wanted region. In a retry of a request without a wanted region, it is the
	// hash of the region of the proxy that failed. 0 stands for no region.
	RegionHash float64

	PoolSize   float64 // number of proxies in the pool, including those that are not candidates
	Idempotent float64 // 1 if the request may be repeated without retry_non_idempotent
	Connect    float64 // 1 if the request is a CONNECT
}

// Candidates are the proxies that a scorer ranks.
type Candidates interface {
	// Len returns the number of candidates, at least 1.
	Len() int
	// Fill writes the request to req and one row per candidate to rows. It sets every column. It does not use its
	// arguments after it has returned, because they may be in a plugin's memory. The length of rows is the result of
	// Len.
	Fill(req *RankRequest, rows []Candidate)
}

// Scorer ranks candidates: it sets scores[i] for candidate i, and the highest score is best. The length of scores is
// the number of candidates. Among candidates with equal scores, the caller chooses the one with the fewest attempts
// in flight. Implementations are safe for concurrent use and do not use their arguments after they have returned. If
// the error is not nil, the scores are not used.
type Scorer interface {
	Score(c Candidates, scores []float64) error
}

// Tolerance is an optional interface of a Scorer. Its method returns a fraction (0.02 is two percent). Scores within
// this fraction of the best score count as equal to the best score. If a Scorer does not implement Tolerance, only
// identical scores are equal.
type Tolerance interface {
	Tolerance() float64
}

// Observation describes one finished attempt to a plugin that learns. There is no observation of an attempt whose
// verdict is Excluded. Package sdk/abi defines its memory layout.
type Observation struct {
	Now      float64 // seconds since the Unix epoch
	IDHash   float64 // as Candidate.IDHash
	HostHash float64 // as RankRequest.HostHash
	Attempt  float64 // 0 for the first attempt
	Success  float64 // 1 if the attempt has succeeded, else 0
	Latency  float64 // seconds
	Status   float64 // status of the response; 0 without a response
	Delay    float64 // the wait before the attempt, in seconds
}

// Hash53 returns the hash of s that is used as IDHash and HostHash and, for a name in lower case, as RegionHash. It
// applies FNV-1a 64 (http://www.isthe.com/chongo/tech/comp/fnv/) to s, and then the finalizer of MurmurHash3. The
// result is shifted right by 11 bits, so that a float64 holds it exactly.
func Hash53(s string) float64 {
	hash := fnvOffset
	for i := range len(s) {
		hash = fnv(hash, s[i])
	}
	return mix53(hash)
}

const fnvOffset = uint64(14695981039346656037)

// fnv returns the FNV-1a hash of a text followed by the byte c. The parameter h is the hash of the text without c.
func fnv(h uint64, c byte) uint64 { return (h ^ uint64(c)) * 1099511628211 }

// Pair53 combines two hashes into one. AffinityHash is the result for the hashes of a proxy's id and of the target's
// host.
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
