package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/plugins/trial"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

const (
	retries  = 9    // after the first attempt: the most that a policy allows
	requests = 1000 // that each backoff waits for
	meanDown = 5.0  // s, of an outage
)

// Backoffs is how backoffs wait, each with the default policy.
type Backoffs struct {
	Policy  retry.Policy `json:"policy"`
	Outages int          `json:"outages"`     // that each lived through
	Down    float64      `json:"mean_outage"` // s
	Results []Waits      `json:"results"`     // the plugin's, then the built-ins'
}

// Waits is how one backoff waits. Delays are clamped to the policy's cap, as
// the gateway clamps them.
type Waits struct {
	Backoff string  `json:"backoff"`
	Delays  []Delay `json:"delays"` // before each retry, had every attempt failed
	// Through outages of random length, with up to 9 retries:
	Recovered float64 `json:"recovered"`    // share of the requests that succeeded
	Retries   float64 `json:"mean_retries"` // of a request
	Late      float64 `json:"mean_late"`    // s, from the outage's end to the success
	Faults    int     `json:"faults"`       // calls that failed; exponential answered for them
	LastFault string  `json:"last_fault,omitempty"`
}

// Delay is the wait before one retry, in seconds, over many requests.
type Delay struct {
	Mean float64 `json:"mean"`
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
}

// PlayBackoff sends requests into outages, each waiting by a backoff plugin and
// by the built-ins, then asks each for the waits of requests that never
// succeed. All face the same outages; the same seed gives the same report. A
// plugin that learns is told of each attempt.
func PlayBackoff(host *wasmhost.Host, plugin Plugin, jitter bool, seed uint64) (Backoffs, error) {
	policy := retry.DefaultPolicy()
	policy.Jitter = jitter
	report := Backoffs{Policy: policy, Outages: requests, Down: meanDown}
	exponential, err := host.Load(builtIn("exponential").Code, nil)
	if err != nil {
		return Backoffs{}, fmt.Errorf("exponential: %w", err)
	}
	defer exponential.Close()
	for _, c := range []Plugin{plugin, builtIn("exponential"), builtIn("linear"), builtIn("fixed"), builtIn("decorrelated_jitter")} {
		m, err := host.Load(c.Code, c.Config)
		if err != nil {
			return Backoffs{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		w := &waiter{m: m, fallback: exponential, policy: &policy, r: rand.New(rand.NewPCG(seed, 4)), now: defaultStart, out: Waits{Backoff: c.Name}}
		err = w.play()
		m.Close()
		if err != nil {
			return Backoffs{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		report.Results = append(report.Results, w.out)
	}
	return report, nil
}

// waiter is one backoff at work.
type waiter struct {
	m, fallback *wasmhost.Module
	policy      *retry.Policy
	r           *rand.Rand
	now         float64 // s since the Unix epoch
	out         Waits
}

func (w *waiter) play() error {
	w.m.SetPool([]wasmhost.Proxy{{ID: trial.ID(0), Weight: 1}})
	recovered, used, late := 0, 0, 0.0
	for range requests {
		down := w.r.ExpFloat64() * meanDown
		n, after, err := w.request(down, nil)
		if err != nil {
			return err
		}
		used += n
		if after >= 0 {
			recovered++
			late += after
		}
	}
	w.out.Recovered, w.out.Retries = float64(recovered)/requests, float64(used)/requests
	if recovered > 0 {
		w.out.Late = late / float64(recovered)
	}
	sums := make([]Delay, retries)
	for i := range sums {
		sums[i].Min = math.Inf(1)
	}
	for range requests {
		if _, _, err := w.request(math.Inf(1), sums); err != nil {
			return err
		}
	}
	for i := range sums {
		sums[i].Mean /= requests
	}
	w.out.Delays = sums
	return nil
}

// request is one request into an outage of so many seconds, which began with
// it. It returns the retries used and how long after the outage's end it
// succeeded, -1 if it did not. Delays are added up in sums, if any.
func (w *waiter) request(down float64, sums []Delay) (used int, late float64, err error) {
	begin, previous := w.now, 0.0
	random := rand.New(rand.NewPCG(w.r.Uint64(), 5)) // so that one more call changes no later request
	defer func() { w.now = begin + 3600 }()
	for n := 0; ; n++ {
		up := w.now-begin >= down
		w.observe(n, up, previous)
		if up {
			return n, w.now - begin - down, nil
		}
		if n == retries {
			return n, -1, nil
		}
		d, err := w.wait(&core.BackoffRequest{
			Retry: float64(n + 1), BaseDelay: w.policy.BaseDelay, Multiplier: w.policy.Multiplier, Cap: w.policy.MaxBackoffDelay, Jitter: flag(w.policy.Jitter),
			Random: random.Float64(), PreviousDelay: previous, LastStatus: 503, Elapsed: w.now - begin, Remaining: -1, MaxAttempts: retries + 1,
			HostHash: core.Hash53("host-1.test"), IDHash: core.Hash53(trial.ID(0)), Now: w.now,
		})
		if err != nil {
			return 0, 0, err
		}
		if sums != nil {
			s := &sums[n]
			s.Mean += d
			s.Min, s.Max = min(s.Min, d), max(s.Max, d)
		}
		previous = d
		w.now += d
	}
}

// wait asks for a delay and clamps it, as the gateway does; exponential answers
// for a call that fails.
func (w *waiter) wait(q *core.BackoffRequest) (float64, error) {
	d, err := w.m.Delay(q)
	if err != nil {
		w.fault(err)
		if d, err = w.fallback.Delay(q); err != nil {
			return 0, err
		}
	}
	return min(max(d, 0), q.Cap), nil
}

func (w *waiter) observe(attempt int, up bool, delay float64) {
	o := core.Observation{Now: w.now, IDHash: core.Hash53(trial.ID(0)), HostHash: core.Hash53("host-1.test"), Attempt: float64(attempt), Success: flag(up), Latency: 0.05, Status: 503, Delay: delay}
	if up {
		o.Status = 200
	}
	w.fault(w.m.Observe(&o))
}

func (w *waiter) fault(err error) {
	if err != nil {
		w.out.Faults++
		w.out.LastFault = err.Error()
	}
}
