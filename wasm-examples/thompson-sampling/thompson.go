package main

import (
	"math"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/lru"
	"github.com/whirlpool-proxy/whirlpool/sdk/random"
)

// thompson scores a proxy with a random sample of its possible success rates, whose distribution is Beta(1 +
// successes, 1 + failures). The more attempts a proxy has, the narrower is its distribution. A proxy with few
// attempts sometimes gets a high sample, and with it another attempt.
type thompson struct {
	halfLife float64 // s; after this time an attempt has half its weight
	limit    float64 // the attempts of a proxy have at most this weight
	arms     *lru.Map[arm]
}

// arm has the attempts of one proxy.
type arm struct {
	successes, failures float64 // numbers of attempts, weighted by their age
	at                  float64 // time at which the weights were computed, s since the Unix epoch
	failedAt            float64 // time of the last failure, s since the Unix epoch
	inARow              int     // successes since the last failure
}

// A proxy has recovered after recoveredSuccesses successes in a row, if the last of them is at least recoveredAfter
// seconds after its last failure. The gateway's own statistics of a proxy begin anew under the same condition.
const (
	recoveredSuccesses = 4
	recoveredAfter     = 30 // s
)

func (t *thompson) Configure(s *configure.Settings) error {
	t.halfLife = s.Float("half_life", 60, 0.1, 86400)
	t.limit = s.Float("max_attempts", 50, 1, 1e6)
	t.arms = lru.New[arm](s.Int("max_proxies", 4096, 1, 65536))
	return nil
}

func (t *thompson) Observe(o *abi.Observation) {
	a := t.arms.Put(o.IDHash)
	*a = t.faded(*a, o.Now)
	a.successes += o.Success
	a.failures += 1 - o.Success
	if o.Success == 0 {
		a.failedAt, a.inARow = o.Now, 0
	} else if a.inARow++; a.inARow >= recoveredSuccesses && o.Now-a.failedAt >= recoveredAfter {
		a.failures = 0
	}
	if n := a.successes + a.failures; n > t.limit {
		a.successes *= t.limit / n
		a.failures *= t.limit / n
	}
}

func (t *thompson) Score(req *abi.RankRequest, candidates []abi.Candidate, scores []float64) {
	for i := range candidates {
		id := candidates[i].IDHash
		var a arm
		if seen := t.arms.Get(id); seen != nil {
			a = t.faded(*seen, req.Now)
		}
		r := random.From(req.Seed, id)
		scores[i] = beta(&r, 1+a.successes, 1+a.failures)
	}
}

// faded returns an arm whose attempts are weighted by their age at the given time.
func (t *thompson) faded(a arm, now float64) arm {
	if age := now - a.at; age > 0 {
		weight := math.Exp2(-age / t.halfLife)
		a.successes, a.failures, a.at = a.successes*weight, a.failures*weight, now
	}
	return a
}

// beta returns a sample of Beta(a, b).
func beta(r *random.Source, a, b float64) float64 {
	x, y := r.Normals()
	g, h := gamma(r, a, x), gamma(r, b, y)
	return g / (g + h)
}

// gamma returns a sample of Gamma(shape, 1) by the method of Marsaglia and Tsang. The shape is at least 1. The method
// needs random numbers with the standard normal distribution: x is the first, and in most cases the only one.
func gamma(r *random.Source, shape, x float64) float64 {
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		v := 1 + c*x
		v = v * v * v
		if u := r.Float64(); v > 0 && (u < 1-0.0331*x*x*x*x || math.Log(u) < x*x/2+d*(1-v+math.Log(v))) {
			return d * v
		}
		x, _ = r.Normals()
	}
}
