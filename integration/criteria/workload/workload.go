// Package workload has the workloads that the criteria are measured with, the variants of
// the gateway that are compared, and the outcome of a run.
package workload

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
)

// Workload is a stream of requests and the pool they go through. Everything about it is a
// function of its seed.
type Workload struct {
	Name        string
	Seed        uint64
	Requests    int
	Rate        float64 // mean number of requests per second (arrivals are a Poisson process)
	Targets     int     // each request is for one of them at random
	MaxAttempts int     // 0 for the configuration's
	Workers     int     // clients that each make one request after the other; 0 for requests at the Rate
	TLS         bool    // each request is for an https:// URL, on a connection of its own
	Pool        faults.Pool
}

// Request is one request: when it begins, and the number of its target.
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

// Luck returns a number in [0, 1) that decides whether the n-th attempt of a request fails
// (from 0). It does not depend on the proxy: so every gateway has the same luck with a
// request, and only its choices differ.
func (w *Workload) Luck(request, n int) float64 {
	return float64(w.mix(request, n, 1)>>11) / (1 << 53)
}

// Latency returns the time until the response of the n-th attempt of a request: log-normal
// around the median, with a sigma of 0.25.
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

// Length returns the time in which a run's requests begin, with a margin.
func (w *Workload) Length() time.Duration {
	return time.Duration(float64(w.Requests)/w.Rate*1.2*float64(time.Second)) + 10*time.Second
}

// Outcome is the outcome of one run.
type Outcome struct {
	Workload string
	Variant  string
	// By request:
	Served   []bool
	Attempts []uint8
	Latency  []float64 // ms, from the request's arrival to the end of its response
	// Attempts through proxies of which more than 70 % of attempts fail.
	OnBad int
	// Time for which breakers of healthy proxies (at most 5 % of attempts fail) were not
	// closed, as a share of these proxies' time, 0 to 1.
	HealthyOut float64
	// Requests that ended because every breaker was open.
	AllOpen int
	// Attempts that began while their proxy's breaker was open.
	Late int
	// Transitions to open.
	Opened int
	// Seconds from the moment when a proxy began to fail every attempt to the opening of its
	// breaker.
	Excluded []float64
	// Seconds from the fifth failed attempt after that moment to the opening; 0 if the breaker
	// opened earlier.
	AfterBreach []float64
	// The gateway's own counts agree with those of the proxies and the clients.
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

// Retried returns the latencies (ms) of the requests that were served after at least one
// retry.
func (o *Outcome) Retried() (ms []float64) {
	for i, ok := range o.Served {
		if ok && o.Attempts[i] > 1 {
			ms = append(ms, o.Latency[i])
		}
	}
	return ms
}

// Within returns how many requests were served with at most n attempts.
func (o *Outcome) Within(n int) (served int) {
	for i, ok := range o.Served {
		if ok && int(o.Attempts[i]) <= n {
			served++
		}
	}
	return served
}

// FirstRetries returns the number of requests with a first retry, and of those that it
// served.
func (o *Outcome) FirstRetries() (served, n int) {
	for i, attempts := range o.Attempts {
		if attempts > 1 {
			n++
			if attempts == 2 && o.Served[i] {
				served++
			}
		}
	}
	return served, n
}

// AttemptCount returns the number of attempts of all requests.
func (o *Outcome) AttemptCount() (n int) {
	for _, a := range o.Attempts {
		n += int(a)
	}
	return n
}
