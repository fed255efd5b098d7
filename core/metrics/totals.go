package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// totals are the counters since the start of the process, for Prometheus.
type totals struct {
	requests         [core.NumListeners][core.LastFinal + 1]atomic.Uint64
	succeeded        atomic.Uint64 // attempts that succeeded
	hedges           atomic.Uint64
	hedgesWon        atomic.Uint64
	transitions      [core.HalfOpen + 1]atomic.Uint64
	servedByRetry    atomic.Uint64 // requests that succeeded after a retry
	targetRefused    atomic.Uint64 // relayed responses with status 403 or 429
	limitReached     atomic.Uint64 // requests that reached max_attempts
	budgetSpent      atomic.Uint64 // requests for which the retry budget was spent
	backoffTime      atomic.Int64  // ns, sum of backoffs
	tunnelUp         atomic.Int64  // bytes
	tunnelDown       atomic.Int64  // bytes
	requestTime      histogram
	requestExemplars exemplars // exemplars of requestTime
	phases           [len(phases)]histogram

	intercepted, notIntercepted atomic.Uint64 // TLS handshakes with clients in place of targets: succeeded, failed

	mu      sync.Mutex               // guards the maps
	failed  map[failureLabels]uint64 // attempts that did not succeed
	retries map[string]uint64        // retries by the reason of the previous attempt
	refused map[refusalLabels]uint64
}

// refusalLabels holds the labels of a request that the gateway refused itself.
type refusalLabels struct {
	listener core.Listener
	reason   string
}

// failureLabels holds the labels of an attempt that did not succeed.
type failureLabels struct {
	result core.Result
	reason string
}

// phases are the parts of an attempt that have a histogram.
var phases = [...]string{"dial", "handshake", "ttfb"}

func (t *totals) countAttempt(o *core.Outcome) {
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
		t.failed = map[failureLabels]uint64{}
	}
	t.failed[failureLabels{o.Result, o.Reason}]++
}

func (t *totals) countRetry(e *core.AttemptEvent) {
	t.backoffTime.Add(int64(e.Delay))
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

func (t *totals) countRequest(e *core.RequestEvent) {
	t.requests[e.Listener][e.Final].Add(1)
	duration := e.Ended.Sub(e.Started)
	i := bucketIndex(duration)
	t.requestTime.add(i, duration)
	t.requestExemplars.offerRequest(i, e.Request, duration, e.Ended)
	if e.ServedBy() > 1 {
		t.servedByRetry.Add(1)
	}
	if e.LimitReached {
		t.limitReached.Add(1)
	}
	if e.BudgetSpent {
		t.budgetSpent.Add(1)
	}
}

// bucketBounds are the upper bounds of the histograms' buckets.
var bucketBounds = [...]time.Duration{
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, 1 * time.Second,
	2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

type histogram struct {
	buckets [len(bucketBounds) + 1]atomic.Uint64
	sum     atomic.Int64 // ns
}

func (h *histogram) observe(d time.Duration) { h.add(bucketIndex(d), d) }

func (h *histogram) add(bucket int, d time.Duration) {
	h.buckets[bucket].Add(1)
	h.sum.Add(int64(d))
}

// bucketIndex returns the index of the bucket for a time.
func bucketIndex(d time.Duration) (i int) {
	for i < len(bucketBounds) && d > bucketBounds[i] {
		i++
	}
	return i
}

// AddTunnelBytes counts the bytes of a tunnel that has ended: up to the target, and down to the client.
func (r *Recorder) AddTunnelBytes(up, down int64) {
	r.totals.tunnelUp.Add(up)
	r.totals.tunnelDown.Add(down)
}

// AddIntercepted counts a TLS handshake that the gateway made with a client in place of a target.
func (r *Recorder) AddIntercepted(ok bool) {
	if ok {
		r.totals.intercepted.Add(1)
		return
	}
	r.totals.notIntercepted.Add(1)
}

// AddRefused counts a request that the gateway refused itself. The parameter reason is one of the codes of error
// responses.
func (r *Recorder) AddRefused(l core.Listener, reason string) {
	t := &r.totals
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused == nil {
		t.refused = map[refusalLabels]uint64{}
	}
	t.refused[refusalLabels{l, reason}]++
}

func handshakeOutcome(ok bool) string {
	if ok {
		return core.ResultSuccess.String()
	}
	return core.ResultFailure.String()
}
