// Package sample makes samples: plausible and extreme inputs, for tests and measurements of plugins. The same arguments
// always give the same sample.
package sample

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Choice is a sample for scorers: a choice among invented proxies. It implements core.Candidates.
type Choice struct {
	Name    string // describes the sample
	Request core.RankRequest
	Rows    []core.Candidate
}

var _ core.Candidates = (*Choice)(nil)

// Len implements core.Candidates.
func (c *Choice) Len() int { return len(c.Rows) }

// Fill implements core.Candidates.
func (c *Choice) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = c.Request
	copy(rows, c.Rows)
}

const (
	host = "example.com"
	now  = 1.7e9 // s since the Unix epoch
)

// ID returns the id of the i-th invented proxy.
func ID(i int) string { return fmt.Sprintf("proxy-%d", i) }

// PlausibleChoice returns a choice among n proxies of different quality.
func PlausibleChoice(n int) *Choice {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	c := &Choice{Name: fmt.Sprintf("%d plausible candidates", n), Request: core.RankRequest{
		Count: float64(n), Now: now, Turn: float64(r.IntN(1e6)), Seed: float64(r.Uint64() >> 11),
		HostHash: core.Hash53(host), RegionHash: core.RegionHash("EU"), PoolSize: float64(n), Idempotent: 1,
	}, Rows: make([]core.Candidate, n)}
	slowest := 0.0
	for i := range c.Rows {
		latency := 0.02 * math.Exp(2*r.Float64())
		id := core.Hash53(ID(i))
		c.Rows[i] = core.Candidate{
			SuccessRate: r.Float64(), Samples: float64(1 + r.IntN(100)), LatencyMean: latency,
			LatencyEWMA: latency * (0.8 + 0.4*r.Float64()),
			InFlight:    float64(r.IntN(8)), Weight: float64(1 + r.IntN(4)), Cost: float64(r.IntN(5)),
			RegionMatch:         float64(r.IntN(2)),
			ConsecutiveFailures: float64(r.IntN(3)), SinceUse: 10 * r.Float64(), Uses: float64(r.IntN(10000)),
			IDHash: id, AffinityHash: core.Pair53(id, c.Request.HostHash), Rotation: float64(i),
		}
		slowest = max(slowest, latency)
	}
	for i := range c.Rows {
		c.Rows[i].NormalizedLatency = (c.Rows[i].LatencyMean + 0.01) / (slowest + 0.01)
	}
	return c
}

// ExtremeChoices returns choices with the extreme values that a host can pass.
func ExtremeChoices() []*Choice {
	edge := func(name string, change func(i int, c *core.Candidate)) *Choice {
		c := PlausibleChoice(5)
		c.Name = name
		for i := range c.Rows {
			change(i, &c.Rows[i])
		}
		return c
	}
	unused := func(c *core.Candidate) {
		*c = core.Candidate{SuccessRate: 0.5, NormalizedLatency: 0.5, Weight: 1, SinceUse: -1, IDHash: c.IDHash,
			AffinityHash: c.AffinityHash, Rotation: c.Rotation}
	}
	list := []*Choice{
		edge("a pool no request has used yet", func(_ int, c *core.Candidate) { unused(c) }),
		edge("one proxy of five without samples", func(i int, c *core.Candidate) {
			if i == 2 {
				unused(c)
			}
		}),
		edge("every breaker half open", func(_ int, c *core.Candidate) {
			c.BreakerState, c.ConsecutiveFailures,
				c.SuccessRate = 2, 5, 0
		}),
		edge("no attempt ever succeeded", func(_ int, c *core.Candidate) {
			c.SuccessRate, c.LatencyMean, c.LatencyEWMA, c.NormalizedLatency = 0, 0, 0, 1
		}),
		edge("latencies of an hour", func(_ int, c *core.Candidate) {
			c.LatencyMean, c.LatencyEWMA,
				c.NormalizedLatency = 3600, 3600, 1
		}),
		edge("latencies of a nanosecond", func(_ int, c *core.Candidate) { c.LatencyMean, c.LatencyEWMA = 1e-9, 1e-9 }),
		edge("the largest weights and costs", func(_ int, c *core.Candidate) { c.Weight, c.Cost = 1e6, 1e12 }),
		edge("the smallest weights, no costs", func(_ int, c *core.Candidate) { c.Weight, c.Cost = 1e-9, 0 }),
		edge("a million requests in flight", func(_ int, c *core.Candidate) { c.InFlight, c.Uses = 1e6, 1e15 }),
		edge("every proxy alike", func(_ int, c *core.Candidate) {
			unused(c)
			c.IDHash, c.AffinityHash, c.Rotation = 7,
				7, 0
		}),
		edge("every column zero but the weight, which never is", func(_ int,
			c *core.Candidate) {
			*c = core.Candidate{Weight: 1}
		}),
	}
	zero := PlausibleChoice(3)
	zero.Name, zero.Request = "a request of zeros", core.RankRequest{Count: 3}
	retry := PlausibleChoice(3)
	retry.Name = "the ninth retry, of a CONNECT, at the end of a turn's range"
	retry.Request.Attempt, retry.Request.Connect, retry.Request.Idempotent = 9, 1, 0
	retry.Request.Turn, retry.Request.Seed = 1<<53-1, 1<<53-1
	return append(list, zero, retry)
}

// BackoffSample is a sample for backoffs.
type BackoffSample struct {
	Name    string
	Request core.BackoffRequest
}

// BackoffSamples returns samples for backoffs: the retries of plausible policies, and extreme values.
func BackoffSamples() []BackoffSample {
	plain := core.BackoffRequest{
		Retry: 1, BaseDelay: 1, Multiplier: 2, Cap: 30, Random: 0.5, LastStatus: 503, Elapsed: 0.2, Remaining: -1,
		MaxAttempts: 3,
		HostHash:    core.Hash53(host), IDHash: core.Hash53(ID(0)), Now: now,
	}
	var list []BackoffSample
	for n := 1; n <= 10; n++ {
		q := plain
		q.Retry, q.MaxAttempts, q.PreviousDelay = float64(n), 10, float64(n-1)
		list = append(list, BackoffSample{fmt.Sprintf("retry %d", n), q})
	}
	edge := func(name string, change func(*core.BackoffRequest)) {
		q := plain
		change(&q)
		list = append(list, BackoffSample{name, q})
	}
	edge("random 0 with jitter", func(q *core.BackoffRequest) { q.Random, q.Jitter = 0, 1 })
	edge("random just below 1 with jitter", func(q *core.BackoffRequest) { q.Random, q.Jitter = 1-1.0/(1<<53), 1 })
	edge("the smallest policy", func(q *core.BackoffRequest) { q.BaseDelay, q.Multiplier, q.Cap = 0.1, 1.1, 1 })
	edge("the largest policy, tenth retry", func(q *core.BackoffRequest) {
		q.Retry, q.BaseDelay, q.Multiplier, q.Cap, q.PreviousDelay, q.MaxAttempts = 10, 60, 10, 300, 300, 10
	})
	edge("a base above the cap", func(q *core.BackoffRequest) { q.BaseDelay, q.Cap = 60, 1 })
	edge("no answer arrived", func(q *core.BackoffRequest) { q.LastStatus = 0 })
	edge("retry-after of an hour", func(q *core.BackoffRequest) { q.RetryAfter, q.LastStatus = 3600, 429 })
	edge("no time remains", func(q *core.BackoffRequest) { q.Elapsed, q.Remaining = 60, 0 })
	return list
}

// Observations returns n observations of attempts through the proxies of PlausibleChoice.
func Observations(n int) []core.Observation {
	r := rand.New(rand.NewPCG(uint64(n), 2))
	list := make([]core.Observation, n)
	for i := range list {
		o := core.Observation{
			Now: now + float64(i)/100, IDHash: core.Hash53(ID(r.IntN(20))), HostHash: core.Hash53(host),
			Attempt: float64(r.IntN(3)),
			Success: 1, Latency: 0.02 + 0.2*r.Float64(), Status: 200,
		}
		switch r.IntN(4) {
		case 0:
			o.Success, o.Status = 0, 503
		case 1:
			o.Success, o.Status, o.Latency = 0, 0, 10
		}
		if o.Attempt > 0 {
			o.Delay = r.Float64()
		}
		list[i] = o
	}
	return list
}
