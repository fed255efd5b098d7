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
	maxRetries   = 9    // number of retries after the first attempt: the maximum of a policy
	requestCount = 1000 // per backoff, each with an outage of its own
	meanOutage   = 5.0  // mean length of an outage, s
)

// BackoffReport is the report on a backoff plugin and the built-ins. All of these backoffs have the default policy.
type BackoffReport struct {
	Policy  retry.Policy    `json:"policy"`
	Outages int             `json:"outages"`     // per backoff
	Down    float64         `json:"mean_outage"` // mean length of an outage, s
	Results []BackoffResult `json:"results"`     // of the plugin, then of the built-ins
	Traffic []OutageReport  `json:"traffic"`
}

// BackoffResult is the result of one backoff. Delays are limited to the policy's max_backoff_delay, as in the gateway.
type BackoffResult struct {
	Backoff string  `json:"backoff"`
	Delays  []Delay `json:"delays"` // waits before each retry of requests that never succeed
	// The following fields are about requests in outages of random length, with up to 9 retries.
	Recovered float64 `json:"recovered"`    // share of the requests that succeeded, 0 to 1
	Retries   float64 `json:"mean_retries"` // mean number of retries per request
	Late      float64 `json:"mean_late"`    // mean time from the end of the outage to the success, s
	Faults    int     `json:"faults"`       // plugin faults: calls in which exponential replaced the plugin
	LastFault string  `json:"last_fault,omitempty"`
}

// Delay is the wait before one retry, in seconds, over many requests.
type Delay struct {
	Mean float64 `json:"mean"`
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
}

// SimulateBackoff simulates requests with a backoff plugin and with the built-ins: requests in outages, and requests
// that never succeed. All backoffs get the same outages. The same seed gives the same report.
func SimulateBackoff(host *wasmhost.Host, plugin Plugin, jitter bool, seed uint64) (BackoffReport, error) {
	policy := retry.DefaultPolicy()
	policy.Jitter = jitter
	report := BackoffReport{Policy: policy, Outages: requestCount, Down: meanOutage}
	exponential, err := host.Load(builtIn("exponential").Code, nil)
	if err != nil {
		return BackoffReport{}, fmt.Errorf("exponential: %w", err)
	}
	defer exponential.Close()
	backoffs := []Plugin{plugin}
	for _, name := range []string{"exponential", "linear", "fixed", "decorrelated_jitter"} {
		backoffs = append(backoffs, builtIn(name))
	}
	timelines := make([]*timeline, len(outageKinds))
	for i, k := range outageKinds {
		timelines[i] = newTimeline(i, rand.New(rand.NewPCG(seed, uint64(10+i))))
		report.Traffic = append(report.Traffic, OutageReport{Kind: k.name})
	}
	for _, c := range backoffs {
		m, err := host.Load(c.Code, c.Config)
		if err != nil {
			return BackoffReport{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		w := &backoffRun{
			m: m, fallback: exponential, policy: &policy, r: rand.New(rand.NewPCG(seed, 4)), now: defaultStart,
			out: BackoffResult{Backoff: c.Name},
		}
		for i, t := range timelines {
			if err != nil {
				break
			}
			var x OutageResult
			// The seed 6 is also used in bestFixedResult, so that the same attempts go to the dead proxy in both
			// simulations.
			x, err = t.simulate(&policy, rand.New(rand.NewPCG(seed, 6)), w.wait, w.passObservation)
			x.Backoff = c.Name
			report.Traffic[i].Results = append(report.Traffic[i].Results, x)
		}
		if err == nil {
			err = w.simulateRequests()
		}
		m.Close()
		if err != nil {
			return BackoffReport{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		report.Results = append(report.Results, w.out)
	}
	for i, t := range timelines {
		report.Traffic[i].Results = append(report.Traffic[i].Results, t.bestFixedResult(&policy, seed))
	}
	return report, nil
}

// backoffRun simulates requests with one backoff.
type backoffRun struct {
	m, fallback *wasmhost.Module
	policy      *retry.Policy
	r           *rand.Rand
	now         float64 // s since the Unix epoch
	out         BackoffResult
}

func (w *backoffRun) simulateRequests() error {
	w.m.SetPool([]wasmhost.Proxy{{ID: trial.ID(0), Weight: 1}})
	recovered, used, late := 0, 0, 0.0
	for range requestCount {
		down := w.r.ExpFloat64() * meanOutage
		n, after, err := w.simulateRequest(down, nil)
		if err != nil {
			return err
		}
		used += n
		if after >= 0 {
			recovered++
			late += after
		}
	}
	w.out.Recovered, w.out.Retries = float64(recovered)/requestCount, float64(used)/requestCount
	if recovered > 0 {
		w.out.Late = late / float64(recovered)
	}
	sums := make([]Delay, maxRetries)
	for i := range sums {
		sums[i].Min = math.Inf(1)
	}
	for range requestCount {
		if _, _, err := w.simulateRequest(math.Inf(1), sums); err != nil {
			return err
		}
	}
	for i := range sums {
		sums[i].Mean /= requestCount
	}
	w.out.Delays = sums
	return nil
}

// simulateRequest simulates a request in an outage that begins with the request and lasts for down seconds. It returns
// the number of retries, and how many seconds after the end of the outage the request succeeded; -1 if it did not
// succeed. If sums is not nil, the delay before retry n is added to sums[n-1].
func (w *backoffRun) simulateRequest(down float64, sums []Delay) (retries int, late float64, err error) {
	begin, previous := w.now, 0.0
	random := rand.New(rand.NewPCG(w.r.Uint64(), 5)) // later requests do not depend on the calls of this request
	defer func() { w.now = begin + 3600 }()
	for n := 0; ; n++ {
		isUp := w.now-begin >= down
		w.observe(n, isUp, previous)
		if isUp {
			return n, w.now - begin - down, nil
		}
		if n == maxRetries {
			return n, -1, nil
		}
		d, err := w.wait(&core.BackoffRequest{
			Retry: float64(n + 1), BaseDelay: w.policy.BaseDelay, Multiplier: w.policy.Multiplier,
			Cap:    w.policy.MaxBackoffDelay,
			Jitter: toFloat(w.policy.Jitter), Random: random.Float64(), PreviousDelay: previous, LastStatus: 503,
			Elapsed: w.now - begin, Remaining: -1, MaxAttempts: maxRetries + 1,
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

// wait returns the delay of the backoff, limited as in the gateway. If the plugin fails, the built-in "exponential"
// computes the delay.
func (w *backoffRun) wait(q *core.BackoffRequest) (float64, error) {
	d, err := w.m.Delay(q)
	if err != nil {
		w.countFault(err)
		if d, err = w.fallback.Delay(q); err != nil {
			return 0, err
		}
	}
	return min(max(d, 0), q.Cap), nil
}

func (w *backoffRun) observe(attempt int, up bool, delay float64) {
	o := core.Observation{
		Now: w.now, IDHash: core.Hash53(trial.ID(0)), HostHash: core.Hash53("host-1.test"), Attempt: float64(attempt),
		Success: toFloat(up), Latency: 0.05, Status: 503, Delay: delay,
	}
	if up {
		o.Status = 200
	}
	w.passObservation(&o)
}

func (w *backoffRun) passObservation(o *core.Observation) { w.countFault(w.m.Observe(o)) }

func (w *backoffRun) countFault(err error) {
	if err != nil {
		w.out.Faults++
		w.out.LastFault = err.Error()
	}
}
