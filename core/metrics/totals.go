package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// totals are the counters since the start, for Prometheus.
type totals struct {
	requests      [core.NumListeners][core.LastFinal + 1]atomic.Uint64
	succeeded     atomic.Uint64 // attempts
	hedges        atomic.Uint64
	hedgesWon     atomic.Uint64
	transitions   [core.HalfOpen + 1]atomic.Uint64
	recovered     atomic.Uint64 // requests that succeeded after a retry
	targetRefused atomic.Uint64 // relayed responses with status 403 or 429
	limited       atomic.Uint64 // requests that reached max_attempts
	overBudget    atomic.Uint64 // requests for which the retry budget was spent
	waited        atomic.Int64  // ns, of backoffs
	tunnelUp      atomic.Int64  // bytes
	tunnelDown    atomic.Int64  // bytes
	requestTime   histogram
	phases        [len(phases)]histogram

	mu      sync.Mutex         // guards the maps
	failed  map[failure]uint64 // attempts that did not succeed
	retries map[string]uint64  // retries by the reason of the previous attempt
}

// failure holds the labels of an attempt that did not succeed.
type failure struct {
	result core.Result
	reason string
}

// phases are the parts of an attempt that have a histogram.
var phases = [...]string{"dial", "handshake", "ttfb"}

func (t *totals) attempt(o *core.Outcome) {
	if o.Timing.Dial > 0 {
		t.phases[0].observe(o.Timing.Dial)
	}
	if o.Timing.Handshake > 0 {
		t.phases[1].observe(o.Timing.Handshake)
	}
	if o.Status != 0 {
		t.phases[2].observe(o.Latency - o.Timing.Dial - o.Timing.Handshake)
	}
	if o.Result == core.ResultSuccess {
		t.succeeded.Add(1)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = map[failure]uint64{}
	}
	t.failed[failure{o.Result, o.Reason}]++
}

func (t *totals) retry(e *core.AttemptEvent) {
	t.waited.Add(int64(e.Delay))
	if e.Hedge {
		t.hedges.Add(1)
		if e.Outcome.Result == core.ResultSuccess {
			t.hedgesWon.Add(1)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retries == nil {
		t.retries = map[string]uint64{}
	}
	t.retries[e.RetryReason]++
}

func (t *totals) request(e *core.RequestEvent) {
	t.requests[e.Listener][e.Final].Add(1)
	t.requestTime.observe(e.Ended.Sub(e.Started))
	if e.ServedBy() > 1 {
		t.recovered.Add(1)
	}
	if e.LimitReached {
		t.limited.Add(1)
	}
	if e.BudgetSpent {
		t.overBudget.Add(1)
	}
}

// bounds are the upper bounds of the histograms' buckets, in seconds.
var bounds = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	sum     atomic.Int64 // ns
}

func (h *histogram) observe(d time.Duration) {
	s, i := d.Seconds(), 0
	for i < len(bounds) && s > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// AddTunnelBytes counts the bytes of a tunnel that has ended. up is the number sent to the target,
// and down the number sent to the client.
func (r *Recorder) AddTunnelBytes(up, down int64) {
	r.totals.tunnelUp.Add(up)
	r.totals.tunnelDown.Add(down)
}
