// Package sdktest tests a plugin natively, as ordinary Go: it makes up
// candidates, requests and observations as the gateway would send them, and
// checks what every plugin owes. It needs neither WebAssembly nor the gateway.
package sdktest

import (
	"math"
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/hash"
)

// Epoch is the moment at which everything here happens, in seconds since the
// Unix epoch.
const Epoch = 1.7e9

// Host is the target of the requests made here.
const Host = "example.com"

// Candidate is a proxy that has not been used yet, with the columns the
// gateway gives such a one. Set what the test is about.
func Candidate(id string) abi.Candidate {
	return abi.Candidate{
		SuccessRate: 0.5, NormalizedLatency: 0.5, Weight: 1, SinceUse: -1,
		IDHash: hash.Of(id), AffinityHash: hash.Pair(hash.Of(id), hash.Of(Host)),
	}
}

// Candidates are n proxies in use, proxy-1 to proxy-n: no two are alike, and
// they are the same each time. The first is the best by success rate and by
// latency, the last the worst.
func Candidates(n int) []abi.Candidate {
	list := make([]abi.Candidate, n)
	worst := 0.02 + 0.01*float64(n)
	for i := range list {
		f := float64(i)
		c := Candidate("proxy-" + strconv.Itoa(i+1))
		c.SuccessRate = 1 - 0.9*f/float64(n)
		c.Samples = 100
		c.LatencyMean = 0.03 + 0.01*f
		c.LatencyEWMA = c.LatencyMean
		c.NormalizedLatency = (c.LatencyMean + 0.01) / (worst + 0.01)
		c.InFlight = math.Mod(f, 3)
		c.Weight = 1 + math.Mod(f, 4)
		c.Cost = math.Mod(f, 5)
		c.SinceUse = f
		c.Uses = 100 + f
		c.Rotation = f
		list[i] = c
	}
	return list
}

// Request is a request for Host: a first attempt that may be repeated and
// wants no region. Score fills in Count and PoolSize.
func Request() abi.RankRequest {
	return abi.RankRequest{Now: Epoch, Turn: 7, Seed: 0x12345678abcd, HostHash: hash.Of(Host), Idempotent: 1}
}

// BackoffRequest is the question before the given retry of a request for Host,
// 1 being the first, under the gateway's default policy without jitter. proxy
// is the id of the one that failed last.
func BackoffRequest(retry int, proxy string) abi.BackoffRequest {
	return abi.BackoffRequest{
		Retry: float64(retry), BaseDelay: 1, Multiplier: 2, Cap: 30, Random: 0.5, LastStatus: 503,
		Remaining: -1, MaxAttempts: 3, HostHash: hash.Of(Host), IDHash: hash.Of(proxy), Now: Epoch,
	}
}

// Observation is one attempt for Host through a proxy: 200 after 50 ms, or,
// without success, 503 after 50 ms.
func Observation(proxy string, success bool) abi.Observation {
	o := abi.Observation{Now: Epoch, IDHash: hash.Of(proxy), HostHash: hash.Of(Host), Latency: 0.05, Status: 503}
	if success {
		o.Success, o.Status = 1, 200
	}
	return o
}

// Best is the index of the highest score, the first of equals.
func Best(scores []float64) int {
	best := 0
	for i, s := range scores {
		if s > scores[best] {
			best = i
		}
	}
	return best
}
