// Package sdktest tests a plugin as ordinary Go code, without WebAssembly and without the gateway. It
// generates candidates, requests and observations like those of the gateway, and checks the rules that all
// plugins must follow.
package sdktest

import (
	"math"
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/hash"
)

// Epoch is the time of the inputs of this package, except for Response, in seconds since the Unix epoch.
const Epoch = 1.7e9

// Host is the target of all requests of this package.
const Host = "example.com"

// Candidate returns a proxy that has not been used yet, with the values that the gateway gives such a proxy.
// A test changes the fields that matter to it.
func Candidate(id string) abi.Candidate {
	return abi.Candidate{
		SuccessRate: 0.5, NormalizedLatency: 0.5, Weight: 1, SinceUse: -1,
		IDHash: hash.Of(id), AffinityHash: hash.Pair(hash.Of(id), hash.Of(Host)),
	}
}

// Candidates returns n proxies that have been used, proxy-1 to proxy-n. All of them differ, and each call
// returns the same candidates. The first has the best success rate and latency, and the last the worst.
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

// Request returns a request for Host: a first attempt that may be repeated, without a wanted region. The function Score
// sets the fields Count and PoolSize.
func Request() abi.RankRequest {
	return abi.RankRequest{Now: Epoch, Turn: 7, Seed: 0x12345678abcd, HostHash: hash.Of(Host), Idempotent: 1}
}

// BackoffRequest returns the input of a backoff for a request for Host, under the gateway's default policy without
// jitter. The parameter retry is the number of the retry, from 1. The parameter proxy is the id of the proxy of the
// last attempt.
func BackoffRequest(retry int, proxy string) abi.BackoffRequest {
	return abi.BackoffRequest{
		Retry: float64(retry), BaseDelay: 1, Multiplier: 2, Cap: 30, Random: 0.5, LastStatus: 503,
		Remaining: -1, MaxAttempts: 3, HostHash: hash.Of(Host), IDHash: hash.Of(proxy), Now: Epoch,
	}
}

// Observation returns an attempt for Host through a proxy. Its response arrived after 50 ms: a 200 if success
// is set, otherwise a 503.
func Observation(proxy string, success bool) abi.Observation {
	o := abi.Observation{Now: Epoch, IDHash: hash.Of(proxy), HostHash: hash.Of(Host), Latency: 0.05, Status: 503}
	if success {
		o.Success, o.Status = 1, 200
	}
	return o
}

// Best returns the index of the highest score. If several scores are the highest, it returns the first index.
func Best(scores []float64) int {
	best := 0
	for i, s := range scores {
		if s > scores[best] {
			best = i
		}
	}
	return best
}
