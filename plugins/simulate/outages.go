package simulate

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
)

// OutageReport is the report on requests to one target that fails from time to time. The requests have the default
// policy. The report covers only the requests whose first attempt fails. Each kind of outages has its own target and
// proxies.
type OutageReport struct {
	Kind    string         `json:"kind"`    // the kind of outages
	Results []OutageResult `json:"results"` // results of the plugin, of the built-ins, and of the best fixed delay
}

// OutageResult is the result of one backoff. The wait of a request is the time from its beginning to its success. If a
// request is not served, its wait counts as the policy's max_backoff_delay.
type OutageResult struct {
	Backoff  string  `json:"backoff"`
	Served   float64 `json:"served"`        // share of the requests that were served, 0 to 1
	Wait     float64 `json:"mean_wait"`     // mean wait of a request, s
	Attempts float64 `json:"mean_attempts"` // mean number of attempts per request
}

// bestFixed is the name of the best of many simulated fixed delays: the backoff with the shortest mean wait.
const bestFixed = "best fixed"

// outageKinds are the kinds of outages, with their lengths in seconds. A kind without lengths (nil) stands for a pool
// in which one of five proxies is dead.
var outageKinds = []struct {
	name   string
	length func(*rand.Rand) float64
}{
	{"0.4 s, nearly equal", func(r *rand.Rand) float64 { return 0.4 * math.Exp(0.2*r.NormFloat64()) }},
	{"5 s, nearly equal", func(r *rand.Rand) float64 { return 5 * math.Exp(0.2*r.NormFloat64()) }},
	{"15 s, nearly equal", func(r *rand.Rand) float64 { return 15 * math.Exp(0.2*r.NormFloat64()) }},
	{"5 s in the mean, memoryless", func(r *rand.Rand) float64 { return 5 * r.ExpFloat64() }},
	{"a dead proxy of five", nil},
}

// The times of outages and requests.
const (
	outageCount       = 200
	minOutageGap      = 20.0 // shortest time between outages, in seconds; the mean time is twice as long
	outageRequestRate = 3.0  // mean number of requests per second
)

// timeline has the outages of a target and the times of requests.
type timeline struct {
	outages      [][2]float64 // beginning and end of each outage, in seconds, ordered by time
	requests     []float64    // times of the requests, in seconds
	hasDeadProxy bool         // a fifth of the first attempts goes to a dead proxy
	host         float64      // hash of the target's host
	proxies      [2]float64   // hashes of the ids of the working proxy and the dead one
}

// newTimeline returns a timeline of outageKinds[kind].
func newTimeline(kind int, r *rand.Rand) *timeline {
	length, now := outageKinds[kind].length, 0.0
	t := &timeline{hasDeadProxy: length == nil, host: core.Hash53(fmt.Sprintf("host-%d.test", kind+2))}
	for i := range t.proxies {
		t.proxies[i] = core.Hash53(sample.ID(2*kind + 1 + i))
	}
	for range outageCount {
		now += minOutageGap * (1 + r.ExpFloat64())
		if length != nil {
			d := length(r)
			t.outages = append(t.outages, [2]float64{now, now + d})
			now += d
		}
	}
	for at := 0.0; at < now; at += r.ExpFloat64() / outageRequestRate {
		t.requests = append(t.requests, at)
	}
	return t
}

// isUp reports whether the target serves requests at the given time.
func (t *timeline) isUp(at float64) bool {
	i, isBeginning := slices.BinarySearchFunc(t.outages, at, func(o [2]float64, at float64) int {
		return cmp.Compare(o[0], at)
	})
	return !isBeginning && (i == 0 || at >= t.outages[i-1][1])
}

// pendingAttempt is an attempt that has not begun yet. The field start is the time when it will begin, and the field
// delay is the delay before it.
type pendingAttempt struct {
	start, requestStart, delay, luck float64
	number                           int
}

// attemptQueue is a heap of attempts, the earliest first.
type attemptQueue []pendingAttempt

func (q attemptQueue) Len() int           { return len(q) }
func (q attemptQueue) Less(i, j int) bool { return q[i].start < q[j].start }
func (q attemptQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *attemptQueue) Push(x any)        { *q = append(*q, x.(pendingAttempt)) }
func (q *attemptQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// simulate simulates the requests of the timeline. The function wait returns the backoff before a retry. The function
// observe receives each attempt.
func (t *timeline) simulate(policy *retry.Policy, r *rand.Rand, wait func(*core.BackoffRequest) (float64, error),
	observe func(*core.Observation)) (out OutageResult, err error) {
	q := make(attemptQueue, len(t.requests))
	for i, at := range t.requests { // requests is ordered by time, so the queue is a heap
		q[i] = pendingAttempt{start: at, requestStart: at, luck: r.Float64()}
	}
	failed, total, attempts := 0, 0.0, 0
	end := func(a *pendingAttempt, served bool) {
		attempts += a.number + 1
		if served {
			out.Served++
			total += a.start - a.requestStart
		} else {
			total += policy.MaxBackoffDelay
		}
	}
	for len(q) > 0 {
		a := heap.Pop(&q).(pendingAttempt)
		proxy, ok := 0, t.isUp(a.start)
		if t.hasDeadProxy && a.number == 0 && a.luck < 0.2 {
			proxy, ok = 1, false
		}
		id := t.proxies[proxy]
		o := core.Observation{
			Now: defaultStart + a.start, IDHash: id, HostHash: t.host, Attempt: float64(a.number),
			Success: toFloat(ok), Latency: 0.05, Status: 503, Delay: a.delay,
		}
		if ok {
			o.Status = 200
		}
		observe(&o)
		switch {
		case ok && a.number > 0:
			end(&a, true)
		case ok:
		case a.number+1 == policy.MaxAttempts:
			end(&a, false)
		default:
			if a.number == 0 {
				failed++
			}
			d, err := wait(&core.BackoffRequest{
				Retry: float64(a.number + 1), BaseDelay: policy.BaseDelay, Multiplier: policy.Multiplier,
				Cap: policy.MaxBackoffDelay, Jitter: toFloat(policy.Jitter), Random: r.Float64(),
				PreviousDelay: a.delay,
				LastStatus:    503, Elapsed: a.start - a.requestStart, Remaining: -1,
				MaxAttempts: float64(policy.MaxAttempts),
				HostHash:    o.HostHash, IDHash: id, Now: o.Now,
			})
			if err != nil {
				return out, err
			}
			a.number, a.delay = a.number+1, d
			a.start += d
			heap.Push(&q, a)
		}
	}
	n := float64(max(failed, 1))
	out.Served, out.Wait, out.Attempts = out.Served/n, total/n, float64(attempts)/n
	return out, nil
}

// simulateFixed is like simulate, but waits for the given delay before each retry. It simulates one request after the
// other.
func (t *timeline) simulateFixed(policy *retry.Policy, r *rand.Rand, delay float64) (out OutageResult) {
	failed, total, attempts := 0.0, 0.0, 0
	for _, requestStart := range t.requests {
		isDead := r.Float64() < 0.2 && t.hasDeadProxy
		if t.isUp(requestStart) && !isDead {
			continue
		}
		failed++
		n, now := 1, requestStart
		for n < policy.MaxAttempts {
			n++
			if now += delay; t.isUp(now) {
				break
			}
		}
		attempts += n
		if t.isUp(now) {
			out.Served++
			total += now - requestStart
		} else {
			total += policy.MaxBackoffDelay
		}
	}
	failed = max(failed, 1)
	out.Served, out.Wait, out.Attempts = out.Served/failed, total/failed, float64(attempts)/failed
	return out
}

// shortestFixed is the shortest fixed delay, in seconds. It equals the minimum of base_delay.
const shortestFixed = 0.1

func (t *timeline) bestFixedResult(policy *retry.Policy, seed uint64) OutageResult {
	best := OutageResult{Wait: math.Inf(1)}
	for d := shortestFixed; d <= policy.MaxBackoffDelay; d *= 1.02 {
		if r := t.simulateFixed(policy, rand.New(rand.NewPCG(seed, 6)), d); r.Wait < best.Wait {
			best = r
			best.Backoff = fmt.Sprintf("%s: %.2f s", bestFixed, d)
		}
	}
	return best
}
