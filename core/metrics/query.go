package metrics

import (
	"slices"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
)

// Summary has the totals over the retention, which is the time for which a Recorder keeps counters.
type Summary struct {
	Requests         uint64
	Attempts         uint64 // first attempts, retries and replays
	Retries          uint64
	Replays          uint64
	SuccessByAttempt map[string]uint64 // delivered requests by the number of their last attempt, from "0"
	TargetRefused    uint64            // delivered requests with status 403 or 429, with which targets refuse clients
	Banned           uint64            // attempts whose response a rule or the judge has called a ban
	Transitions      uint64            // transitions of all breakers
	BackoffTime      time.Duration     // sum of all backoffs
	ByPolicy         map[string]PolicyCounts
}

// PolicyCounts counts the requests with one policy since the start of the process.
type PolicyCounts struct {
	Policy    any // RequestEvent.Policy; nil for "other", the sum of all policies beyond the first 1,000
	Requests  uint64
	Successes uint64
}

// SeriesPoint has the totals of one hour or day.
type SeriesPoint struct {
	Start     time.Time // UTC
	Requests  uint64
	Delivered uint64 // requests that succeeded
	Refused   uint64 // of Delivered, with status 403 or 429
	Attempts  uint64
	Retries   uint64
	Banned    uint64        // attempts whose response a rule or the judge has called a ban
	Cost      float64       // in the unit of the proxies' prices
	Latency   time.Duration // sum over all attempts, without backoff
}

// AvgLatency returns the mean latency of the attempts; 0 without any.
func (p *SeriesPoint) AvgLatency() time.Duration { return average(p.Latency, p.Attempts) }

// ProxyStats are the attempts through one proxy.
type ProxyStats struct {
	Successes    uint64
	Failures     uint64
	Cancelled    uint64        // the client left, or the attempt was replayed
	Latency      time.Duration // sum over all attempts
	BreakerOpens uint64
}

// Attempts returns the number of attempts.
func (p *ProxyStats) Attempts() uint64 { return p.Successes + p.Failures + p.Cancelled }

// AvgLatency returns the mean latency of the attempts; 0 without any.
func (p *ProxyStats) AvgLatency() time.Duration { return average(p.Latency, p.Attempts()) }

func average(sum time.Duration, n uint64) time.Duration {
	if n == 0 {
		return 0
	}
	return sum / time.Duration(n)
}

// eachMinute calls f for each minute with data in the time d before now, the oldest first. If d is longer than the
// retention, the retention is used instead.
func (r *Recorder) eachMinute(d time.Duration, f func(start time.Time, m *minute)) {
	now := r.now()
	last := now.Unix() / 60
	first := now.Add(-min(d, r.retention)).Unix() / 60
	for n := first; n <= last; n++ {
		if m := &r.minutes[n%int64(len(r.minutes))]; m.number.Load() == n {
			f(time.Unix(n*60, 0).UTC(), m)
		}
	}
}

// Summary returns the totals of the retention.
func (r *Recorder) Summary() Summary {
	s := Summary{SuccessByAttempt: map[string]uint64{}, ByPolicy: map[string]PolicyCounts{}}
	r.eachMinute(r.retention, func(_ time.Time, m *minute) {
		s.Requests += m.requests.Load()
		s.Attempts += m.attempts.Load()
		s.Retries += m.retries.Load()
		s.Replays += m.replays.Load()
		s.TargetRefused += m.targetRefused.Load()
		s.Banned += m.banned.Load()
		s.Transitions += m.transitions.Load()
		s.BackoffTime += time.Duration(m.backoffTime.Load())
		for i := range m.successByAttempt {
			if n := m.successByAttempt[i].Load(); n > 0 {
				s.SuccessByAttempt[strconv.Itoa(i)] += n
			}
		}
	})
	for hash, c := range *r.policies.byHash.Load() {
		s.ByPolicy[hash] = PolicyCounts{Policy: c.policy, Requests: c.requests.Load(), Successes: c.delivered.Load()}
	}
	return s
}

// Series returns a point for each step within the given number of hours before now, the oldest first. The step is an
// hour or a day. Steps without data are left out.
func (r *Recorder) Series(hours int, step time.Duration) []SeriesPoint {
	points := []SeriesPoint{}
	r.eachMinute(time.Duration(hours)*time.Hour, func(at time.Time, m *minute) {
		if m.requests.Load() == 0 && m.attempts.Load() == 0 && m.cost.Load() == 0 { // the minute has only transitions
			return
		}
		start := at.Truncate(step)
		if len(points) == 0 || !points[len(points)-1].Start.Equal(start) {
			points = append(points, SeriesPoint{Start: start})
		}
		p := &points[len(points)-1]
		p.Requests += m.requests.Load()
		p.Delivered += m.delivered.Load()
		p.Refused += m.targetRefused.Load()
		p.Attempts += m.attempts.Load()
		p.Retries += m.retries.Load()
		p.Banned += m.banned.Load()
		p.Cost += float64(m.cost.Load()) / costUnit
		p.Latency += time.Duration(m.latency.Load())
	})
	return points
}

// ByProxy returns the counts of each proxy, by id, for the given number of hours before now. Counts are kept by the
// hour of the clock, so the result has the whole hour in which this period begins. A proxy with neither attempts nor
// openings of its breaker is left out.
func (r *Recorder) ByProxy(hours int) map[string]ProxyStats {
	now := r.now()
	first, last := now.Add(-min(time.Duration(hours)*time.Hour, r.retention)).Unix()/3600, now.Unix()/3600
	out := map[string]ProxyStats{}
	r.unusedOpenings.each(first, last, func(id string, n uint64) { out[id] = ProxyStats{BreakerOpens: n} })
	r.proxies.Range(func(id, v any) bool {
		if s := v.(*proxy).stats(first, last); s.Attempts()+s.BreakerOpens > 0 {
			out[id.(string)] = s
		}
		return true
	})
	return out
}

// Counts returns the attempts of a proxy by cause and status, for the same period as ByProxy(hours).
func (r *Recorder) Counts(proxyID string, hours int) []minutes.Count {
	since := r.now().Add(-min(time.Duration(hours)*time.Hour, r.retention))
	return r.reasons.ProxyCounts(proxyID, since.Truncate(time.Hour))
}

// stats sums up the hours from first to last, both included.
func (p *proxy) stats(first, last int64) ProxyStats {
	var s ProxyStats
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.hours {
		h := &p.hours[i]
		if h.number < first || h.number > last { // an hour is after last if the clock was set back
			continue
		}
		s.Successes += uint64(h.success)
		s.Failures += uint64(h.failed)
		s.Cancelled += uint64(h.cancelled)
		s.BreakerOpens += uint64(h.opens)
		s.Latency += h.latency
	}
	return s
}

// Prune drops proxies that are not in the pool and have no data within the retention. It is called a few times a
// minute.
func (r *Recorder) Prune(inPool func(id string) bool) {
	r.reasons.Prune(inPool)
	now := r.now()
	first, last := now.Add(-r.retention).Unix()/3600, now.Unix()/3600
	r.unusedOpenings.prune(first, last, inPool)
	r.proxies.Range(func(id, p any) bool {
		if s := p.(*proxy).stats(first, last); s.Attempts()+s.BreakerOpens == 0 && !inPool(id.(string)) {
			r.forgetProxy(id.(string))
		}
		return true
	})
}

// Transitions returns the transitions of all breakers in the given number of hours before now, the oldest first. It
// also reports whether some of them have been dropped.
func (r *Recorder) Transitions(hours int) (list []core.Transition, truncated bool) {
	from := r.now().Add(-min(time.Duration(hours)*time.Hour, r.retention))
	list, truncated = r.transitions.listSince(from)
	slices.SortStableFunc(list, func(a, b core.Transition) int { return a.At.Compare(b.At) })
	return list, truncated
}
