// Package workload defines the workloads with which the success criteria (docs/criteria.md) are measured, the
// variants of the gateway that are compared, and the outcome of a run.
package workload

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
)

// Workload is a stream of requests and the pool of proxies that serves them. All its random choices are functions of
// its seed.
type Workload struct {
	Name        string
	Seed        uint64
	Requests    int
	Rate        float64 // mean number of requests per second (arrivals are a Poisson process)
	Targets     int     // number of targets; each request is for a random one of them
	MaxAttempts int     // 0 for the value in the configuration
	Workers     int     // clients that make one request after the other; 0 for requests at the Rate
	TLS         bool    // each request is for an https:// URL, on its own connection
	Pool        faults.Pool
}

// Request is one request. The field At is the time from the beginning of the run to the beginning of the request. The
// field Target is the number of the target.
type Request struct {
	At     time.Duration
	Target int
}

// Schedule returns the requests in the order of time.
func (w *Workload) Schedule() []Request {
	rng := rand.New(rand.NewPCG(w.Seed, 0x61727269))
	list := make([]Request, w.Requests)
	at := 0.0
	for i := range list {
		at += rng.ExpFloat64() / w.Rate
		list[i] = Request{time.Duration(at * float64(time.Second)), rng.IntN(w.Targets)}
	}
	return list
}

// Luck returns a random number in [0, 1). An attempt fails if this number is less than the proxy's probability of
// failure. The parameter n is the number of the attempt of the request, from 0. The luck does not depend on the proxy.
// So all gateways have the same luck with a request, and only their choices differ.
func (w *Workload) Luck(request, n int) float64 {
	return float64(w.mix(request, n, 1)>>11) / (1 << 53)
}

// Latency returns the time until the response of an attempt of a request: a log-normal distribution around the median,
// with a sigma of 0.25. The parameter n is the number of the attempt, from 0.
func (w *Workload) Latency(request, n int, median time.Duration) time.Duration {
	rng := rand.New(rand.NewPCG(w.mix(request, n, 2), 0))
	return time.Duration(float64(median) * math.Exp(0.25*rng.NormFloat64()))
}

// mix hashes the seed, a request, an attempt and a purpose (splitmix64: Steele, Lea, Flood
// 2014).
func (w *Workload) mix(request, n, purpose int) uint64 {
	z := w.Seed
	for _, v := range []int{request, n, purpose} {
		z += uint64(v+1) * 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
	}
	return z
}

// Duration returns the time within which all requests of a run begin, plus a margin.
func (w *Workload) Duration() time.Duration {
	return time.Duration(float64(w.Requests)/w.Rate*1.2*float64(time.Second)) + 10*time.Second
}

// Outcome is the outcome of one run.
type Outcome struct {
	Workload string
	Variant  string
	// Served, Attempts and Latency have one element per request.
	Served   []bool
	Attempts []uint8
	Latency  []float64 // ms, from the request's arrival to the end of its response
	// BadAttempts is the number of attempts through bad proxies (faults.State.Bad).
	BadAttempts int
	// HealthyExcluded is the share of time, 0 to 1, in which the breakers of healthy proxies were not closed.
	// Healthy proxies fail at most 5 % of their attempts.
	HealthyExcluded float64
	// AllBreakersOpen is the number of requests that ended because every breaker was open.
	AllBreakersOpen int
	// LateAttempts is the number of attempts that began while their proxy's breaker was open.
	LateAttempts int
	// Openings is the number of transitions to open.
	Openings int
	// ExclusionTimes has the times, in seconds, from the moment when a proxy began to fail every attempt to the opening
	// of its breaker. If the proxy recovered first, there is no element.
	ExclusionTimes []float64
	// BreachDelays has the times, in seconds, from the proxy's fifth failed attempt to the same openings as in
	// ExclusionTimes. A time is 0 if the breaker opened before this attempt.
	BreachDelays []float64
	// Reconciled is set if the gateway's counts agree with the counts of the proxies and the clients.
	Reconciled bool
}

// ServedCount returns the number of requests that were served.
func (o *Outcome) ServedCount() (n int) {
	for _, ok := range o.Served {
		if ok {
			n++
		}
	}
	return n
}

// RetriedLatencies returns the latencies (ms) of the requests that were served after at least one
// retry.
func (o *Outcome) RetriedLatencies() (ms []float64) {
	for i, ok := range o.Served {
		if ok && o.Attempts[i] > 1 {
			ms = append(ms, o.Latency[i])
		}
	}
	return ms
}

// ServedWithin returns the number of requests that were served with at most n attempts.
func (o *Outcome) ServedWithin(n int) (served int) {
	for i, ok := range o.Served {
		if ok && int(o.Attempts[i]) <= n {
			served++
		}
	}
	return served
}

// FirstRetries returns two numbers of requests: those that were served at their first retry, and those with at least
// one retry.
func (o *Outcome) FirstRetries() (servedRequests, retriedRequests int) {
	for i, attempts := range o.Attempts {
		if attempts > 1 {
			retriedRequests++
			if attempts == 2 && o.Served[i] {
				servedRequests++
			}
		}
	}
	return servedRequests, retriedRequests
}

// AttemptCount returns the number of attempts of all requests.
func (o *Outcome) AttemptCount() (n int) {
	for _, a := range o.Attempts {
		n += int(a)
	}
	return n
}
