package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

const (
	maxRetries   = 9    // number of retries after the first attempt: the maximum of a policy
	requestCount = 1000 // number of requests per backoff; each has its own outage
	meanOutage   = 5.0  // mean length of an outage, s
)

// BackoffReport is the report on a backoff plugin and the built-ins. All of these backoffs have the default policy.
type BackoffReport struct {
	Policy  retry.Policy    `json:"policy"`
	Outages int             `json:"outages"`     // number of outages per backoff
	Down    float64         `json:"mean_outage"` // mean length of an outage, s
	Results []BackoffResult `json:"results"`     // results of the plugin, then of the built-ins
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
	exponential, err := host.Load(builtInPlugin("exponential").Code, nil)
	if err != nil {
		return BackoffReport{}, fmt.Errorf("exponential: %w", err)
	}
	defer exponential.Close()
	backoffs := []Plugin{plugin}
	for _, name := range []string{"exponential", "linear", "fixed", "decorrelated_jitter"} {
		backoffs = append(backoffs, builtInPlugin(name))
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
			module: m, fallback: exponential, policy: &policy, random: rand.New(rand.NewPCG(seed, 4)),
			now:    defaultStart,
			result: BackoffResult{Backoff: c.Name},
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
		report.Results = append(report.Results, w.result)
	}
	for i, t := range timelines {
		report.Traffic[i].Results = append(report.Traffic[i].Results, t.bestFixedResult(&policy, seed))
	}
	return report, nil
}

// backoffRun simulates requests with one backoff.
type backoffRun struct {
	module, fallback *wasmhost.Module
	policy           *retry.Policy
	random           *rand.Rand
	now              float64 // s since the Unix epoch
	result           BackoffResult
}

func (br *backoffRun) simulateRequests() error {
	br.module.SetPool([]wasmhost.Proxy{{ID: sample.ID(0), Weight: 1}})
	recovered, retries, totalDelay := 0, 0, 0.0
	for range requestCount {
		outageLength := br.random.ExpFloat64() * meanOutage
		n, recoveryDelay, err := br.simulateRequest(outageLength, nil)
		if err != nil {
			return err
		}
		retries += n
		if recoveryDelay >= 0 {
			recovered++
			totalDelay += recoveryDelay
		}
	}
	br.result.Recovered, br.result.Retries = float64(recovered)/requestCount, float64(retries)/requestCount
	if recovered > 0 {
		br.result.Late = totalDelay / float64(recovered)
	}
	sums := make([]Delay, maxRetries)
	for i := range sums {
		sums[i].Min = math.Inf(1)
	}
	for range requestCount {
		if _, _, err := br.simulateRequest(math.Inf(1), sums); err != nil {
			return err
		}
	}
	for i := range sums {
		sums[i].Mean /= requestCount
	}
	br.result.Delays = sums
	return nil
}

// simulateRequest simulates a request in an outage that begins with the request and lasts for outageLength seconds. It
// returns the number of retries, and the seconds from the end of the outage to the success of the request, or -1 if
// the request did not succeed. If sums is not nil, the delay before retry n is added to sums[n-1].
func (br *backoffRun) simulateRequest(
	outageLength float64, sums []Delay,
) (retries int, recoveryDelay float64, err error) {
	begin, previous := br.now, 0.0
	random := rand.New(rand.NewPCG(br.random.Uint64(), 5)) // later requests do not depend on the calls of this request
	defer func() { br.now = begin + 3600 }()
	for n := 0; ; n++ {
		isUp := br.now-begin >= outageLength
		br.observe(n, isUp, previous)
		if isUp {
			return n, br.now - begin - outageLength, nil
		}
		if n == maxRetries {
			return n, -1, nil
		}
		d, err := br.wait(&core.BackoffRequest{
			Retry: float64(n + 1), BaseDelay: br.policy.BaseDelay, Multiplier: br.policy.Multiplier,
			Cap:    br.policy.MaxBackoffDelay,
			Jitter: toFloat(br.policy.Jitter), Random: random.Float64(), PreviousDelay: previous, LastStatus: 503,
			Elapsed: br.now - begin, Remaining: -1, MaxAttempts: maxRetries + 1,
			HostHash: core.Hash53("host-1.test"), IDHash: core.Hash53(sample.ID(0)), Now: br.now,
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
		br.now += d
	}
}

// wait returns the delay of the backoff, limited as in the gateway. If the plugin fails, the built-in "exponential"
// computes the delay.
func (br *backoffRun) wait(q *core.BackoffRequest) (float64, error) {
	d, err := br.module.Delay(q)
	if err != nil {
		br.countFault(err)
		if d, err = br.fallback.Delay(q); err != nil {
			return 0, err
		}
	}
	return min(max(d, 0), q.Cap), nil
}

func (br *backoffRun) observe(attempt int, isUp bool, delay float64) {
	o := core.Observation{
		Now: br.now, IDHash: core.Hash53(sample.ID(0)), HostHash: core.Hash53("host-1.test"), Attempt: float64(attempt),
		Success: toFloat(isUp), Latency: 0.05, Status: 503, Delay: delay,
	}
	if isUp {
		o.Status = 200
	}
	br.passObservation(&o)
}

func (br *backoffRun) passObservation(o *core.Observation) { br.countFault(br.module.Observe(o)) }

func (br *backoffRun) countFault(err error) {
	if err != nil {
		br.result.Faults++
		br.result.LastFault = err.Error()
	}
}
