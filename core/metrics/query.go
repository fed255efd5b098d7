package metrics

import (
	"slices"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Summary is the retry metrics of the whole retention.
type Summary struct {
	TotalRequests             uint64                  `json:"total_requests"`
	TotalAttempts             uint64                  `json:"total_attempts"`
	TotalRetries              uint64                  `json:"total_retries"`
	Replays                   uint64                  `json:"replays"`
	SuccessByAttempt          map[string]uint64       `json:"success_by_attempt"` // "0" is the first attempt
	CircuitBreakerEventsCount uint64                  `json:"circuit_breaker_events_count"`
	RetryLatencySecondsTotal  float64                 `json:"retry_latency_seconds_total"` // waited before retries
	ByPolicy                  map[string]PolicyCounts `json:"by_policy"`                   // by the policy's hash, since the start
	RetentionHours            int                     `json:"retention_hours"`
}

// PolicyCounts are the requests that ran under one policy.
type PolicyCounts struct {
	Policy      any     `json:"policy,omitempty"` // absent for "other": those beyond the first so many
	Requests    uint64  `json:"requests"`
	Successes   uint64  `json:"successes"`
	SuccessRate float64 `json:"success_rate"`
}

// Point is one hour or day.
type Point struct {
	Timestamp     time.Time `json:"timestamp"` // its beginning, UTC
	TotalRequests uint64    `json:"total_requests"`
	TotalRetries  uint64    `json:"total_retries"`
	SuccessRate   float64   `json:"success_rate"` // of requests; 1 when only attempts fell into it, since none has failed
	AvgLatency    float64   `json:"avg_latency"`  // s, of attempts, without backoff
}

// ProxyStats are one proxy's attempts.
type ProxyStats struct {
	ProxyID             string  `json:"proxy_id"`
	TotalAttempts       uint64  `json:"total_attempts"` // success + failure + cancelled
	SuccessCount        uint64  `json:"success_count"`
	FailureCount        uint64  `json:"failure_count"`
	CancelledCount      uint64  `json:"cancelled_count"` // the client left, or a kept connection had died and was replayed
	AvgLatency          float64 `json:"avg_latency"`     // s
	CircuitBreakerOpens uint64  `json:"circuit_breaker_opens"`
}

// Event is one breaker transition.
type Event struct {
	ProxyID      string    `json:"proxy_id"`
	FromState    string    `json:"from_state"`
	ToState      string    `json:"to_state"`
	Timestamp    time.Time `json:"timestamp"`
	FailureCount int       `json:"failure_count"`
	Reason       string    `json:"reason"`
	Why          string    `json:"why"`
}

// Events are the transitions of a window, oldest first.
type Events struct {
	Events    []Event                      `json:"events"`
	Counts    map[string]map[string]uint64 `json:"counts"`    // proxy -> state entered -> times
	Truncated bool                         `json:"truncated"` // older ones of the window are gone
}

// each calls f for each minute of the last d that holds something, oldest
// first. d is clipped to the retention.
func (r *Recorder) each(d time.Duration, f func(start time.Time, m *minute)) {
	now := r.now()
	last := now.Unix() / 60
	first := now.Add(-min(d, r.retention)).Unix() / 60
	for n := first; n <= last; n++ {
		if m := &r.minutes[n%int64(len(r.minutes))]; m.at.Load() == n {
			f(time.Unix(n*60, 0).UTC(), m)
		}
	}
}

// Summary returns the totals of the retention.
func (r *Recorder) Summary() Summary {
	s := Summary{SuccessByAttempt: map[string]uint64{}, ByPolicy: map[string]PolicyCounts{}, RetentionHours: r.RetentionHours()}
	waited := time.Duration(0)
	r.each(r.retention, func(_ time.Time, m *minute) {
		s.TotalRequests += m.requests.Load()
		s.TotalAttempts += m.attempts.Load()
		s.TotalRetries += m.retries.Load()
		s.Replays += m.replays.Load()
		s.CircuitBreakerEventsCount += m.events.Load()
		waited += time.Duration(m.waited.Load())
		for i := range m.successByAttempt {
			if n := m.successByAttempt[i].Load(); n > 0 {
				s.SuccessByAttempt[strconv.Itoa(i)] += n
			}
		}
	})
	s.RetryLatencySecondsTotal = round6(waited.Seconds())
	r.policies.mu.RLock()
	defer r.policies.mu.RUnlock()
	for hash, c := range r.policies.byHash {
		n, ok := c.requests.Load(), c.delivered.Load()
		s.ByPolicy[hash] = PolicyCounts{c.policy, n, ok, ratio(ok, n)}
	}
	return s
}

// Series returns one point for each hour (or, with step 24 h, day) of the last
// hours that has data, ascending.
func (r *Recorder) Series(hours int, step time.Duration) []Point {
	type sum struct {
		requests, delivered, retries, attempts uint64
		latency                                time.Duration
	}
	points := []Point{}
	var cur sum
	var start time.Time
	flush := func() {
		if cur != (sum{}) {
			p := Point{Timestamp: start, TotalRequests: cur.requests, TotalRetries: cur.retries, SuccessRate: 1, AvgLatency: average(cur.latency, cur.attempts)}
			if cur.requests > 0 {
				p.SuccessRate = ratio(cur.delivered, cur.requests)
			}
			points = append(points, p)
		}
		cur = sum{}
	}
	r.each(time.Duration(hours)*time.Hour, func(at time.Time, m *minute) {
		if t := at.Truncate(step); !t.Equal(start) {
			flush()
			start = t
		}
		cur.requests += m.requests.Load()
		cur.delivered += m.delivered.Load()
		cur.retries += m.retries.Load()
		cur.attempts += m.attempts.Load()
		cur.latency += time.Duration(m.latency.Load())
	})
	flush()
	return points
}

// ByProxy returns the proxies with attempts or openings in the last hours. The
// window reaches back to the beginning of its oldest hour.
func (r *Recorder) ByProxy(hours int) map[string]ProxyStats {
	now := r.now()
	first, last := now.Add(-min(time.Duration(hours)*time.Hour, r.retention)).Unix()/3600, now.Unix()/3600
	out := map[string]ProxyStats{}
	r.proxies.Range(func(id, v any) bool {
		p := v.(*proxy)
		s := ProxyStats{ProxyID: id.(string)}
		latency := time.Duration(0)
		p.mu.Lock()
		for i := range p.hours {
			h := &p.hours[i]
			if h.at < first || h.at > last { // later if the clock was set back
				continue
			}
			s.TotalAttempts += uint64(h.attempts)
			s.SuccessCount += uint64(h.success)
			s.FailureCount += uint64(h.failed)
			s.CancelledCount += uint64(h.cancelled)
			s.CircuitBreakerOpens += uint64(h.opens)
			latency += h.latency
		}
		p.mu.Unlock()
		if s.TotalAttempts+s.CircuitBreakerOpens > 0 {
			s.AvgLatency = average(latency, s.TotalAttempts)
			out[s.ProxyID] = s
		}
		return true
	})
	return out
}

// Prune forgets proxies that are not in the pool and have no data within the
// retention; the engine calls it now and then.
func (r *Recorder) Prune(inPool func(id string) bool) {
	recent := r.ByProxy(r.RetentionHours())
	r.proxies.Range(func(id, _ any) bool {
		if _, ok := recent[id.(string)]; !ok && !inPool(id.(string)) {
			r.proxies.Delete(id)
		}
		return true
	})
}

// Events returns the transitions of the last hours.
func (r *Recorder) Events(hours int) Events {
	from := r.now().Add(-min(time.Duration(hours)*time.Hour, r.retention))
	list, truncated := r.events.since(from)
	slices.SortStableFunc(list, func(a, b core.Transition) int { return a.At.Compare(b.At) })
	out := Events{Events: make([]Event, 0, len(list)), Counts: map[string]map[string]uint64{}, Truncated: truncated}
	for _, t := range list {
		out.Events = append(out.Events, Event{t.ProxyID, t.From.String(), t.To.String(), t.At.UTC(), t.FailureCount, t.Reason, t.Why})
		if out.Counts[t.ProxyID] == nil {
			out.Counts[t.ProxyID] = map[string]uint64{}
		}
		out.Counts[t.ProxyID][t.To.String()]++
	}
	return out
}

func average(sum time.Duration, n uint64) float64 {
	if n == 0 {
		return 0
	}
	return round6(sum.Seconds() / float64(n))
}
