// Package metrics counts every attempt, every request and every transition of a breaker exactly once. Its
// memory does not depend on the traffic. The REST API uses the Recorder's queries, Prometheus its Handler.
// The Tracker lists the requests in flight. No other package uses tally.
//
// When no request is in flight:
//
//	attempts = first attempts + retries + replays
//	success + failure + cancelled = attempts, per proxy
//	sum of SuccessByAttempt = requests delivered
package metrics

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Limits and defaults.
const (
	DefaultRetentionHours = 24
	MaxRetentionHours     = 168
	maxAttempts           = 10      // attempts of one request
	maxTransitions        = 100_000 // transitions that are kept
	maxPolicies           = 1_000   // policies with counters of their own; all others are counted as "other"
)

// Config holds the settings of a Recorder.
type Config struct {
	RetentionHours int              // 1 to MaxRetentionHours; 0 for DefaultRetentionHours
	Now            func() time.Time // nil for time.Now
}

// Recorder counts events for the metrics. It is safe for concurrent use.
type Recorder struct {
	now       func() time.Time
	retention time.Duration

	minutes []minute   // a ring, by minute since the Unix epoch
	rotate  sync.Mutex // held while a bucket is cleared

	proxies     sync.Map // id -> *proxy
	policies    policies
	transitions transitions
	totals      totals
	sources     sources
	exporter    *exporter
	saver       saver // see Save
}

// minute holds the counters of one minute.
type minute struct {
	at               atomic.Int64 // minutes since the Unix epoch
	requests         atomic.Uint64
	delivered        atomic.Uint64
	targetRefused    atomic.Uint64
	attempts         atomic.Uint64
	retries          atomic.Uint64
	replays          atomic.Uint64
	latency          atomic.Int64 // ns, of attempts
	waited           atomic.Int64 // ns, of backoffs
	transitions      atomic.Uint64
	successByAttempt [maxAttempts]atomic.Uint64
}

func (m *minute) clear() {
	for _, c := range []*atomic.Uint64{
		&m.requests, &m.delivered, &m.targetRefused, &m.attempts, &m.retries, &m.replays, &m.transitions,
	} {
		c.Store(0)
	}
	m.latency.Store(0)
	m.waited.Store(0)
	for i := range m.successByAttempt {
		m.successByAttempt[i].Store(0)
	}
}

// New returns an empty recorder.
func New(cfg Config) *Recorder {
	if cfg.RetentionHours == 0 {
		cfg.RetentionHours = DefaultRetentionHours
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Recorder{now: cfg.Now, retention: time.Duration(cfg.RetentionHours) * time.Hour}
	r.minutes = make([]minute, cfg.RetentionHours*60+1)
	r.policies.byHash = map[string]*policyCount{}
	r.exporter = newExporter(r)
	return r
}

// RetentionHours returns the number of hours that the queries cover.
func (r *Recorder) RetentionHours() int { return int(r.retention / time.Hour) }

// at returns the bucket for the time t. It clears the bucket if that holds the counters of an earlier
// minute.
func (r *Recorder) at(t time.Time) *minute {
	n := t.Unix() / 60
	m := &r.minutes[n%int64(len(r.minutes))]
	if m.at.Load() != n {
		r.rotate.Lock()
		if m.at.Load() != n {
			m.clear()
			m.at.Store(n)
		}
		r.rotate.Unlock()
	}
	return m
}

// Attempt counts a finished attempt.
func (r *Recorder) Attempt(e *core.AttemptEvent) {
	m := r.at(e.Ended)
	took := e.Ended.Sub(e.Started)
	m.attempts.Add(1)
	m.latency.Add(int64(took))
	switch {
	case e.Outcome.Result == core.ResultReplay: // the next attempt has the same number
		m.replays.Add(1)
	case e.Attempt > 0:
		m.retries.Add(1)
		m.waited.Add(int64(e.Delay))
		r.totals.retry(e)
	}
	r.totals.attempt(&e.Outcome)
	r.proxy(e.ProxyID).attempt(e.Ended, e.Outcome.Result, took)
}

// Request counts a finished request.
func (r *Recorder) Request(e *core.RequestEvent) {
	m := r.at(e.Ended)
	m.requests.Add(1)
	if n := e.ServedBy(); n > 0 {
		m.delivered.Add(1)
		m.successByAttempt[min(n, maxAttempts)-1].Add(1)
		if e.Status == http.StatusForbidden || e.Status == http.StatusTooManyRequests {
			m.targetRefused.Add(1)
			r.totals.targetRefused.Add(1)
		}
	}
	r.policies.count(e)
	r.totals.request(e)
}

// Transition counts a transition of a breaker.
func (r *Recorder) Transition(t core.Transition) {
	r.at(t.At).transitions.Add(1)
	r.transitions.add(t)
	r.totals.transitions[t.To].Add(1)
	if t.To == core.Open {
		r.proxy(t.ProxyID).opened(t.At)
	}
}

func (r *Recorder) proxy(id string) *proxy {
	if p, ok := r.proxies.Load(id); ok {
		return p.(*proxy)
	}
	p, _ := r.proxies.LoadOrStore(id, &proxy{keep: int64(r.retention / time.Hour)})
	return p.(*proxy)
}

// proxy holds the counters of one proxy by the hour. Only hours with data take memory, because many
// proxies are used in one hour only if the pool changes often.
type proxy struct {
	mu    sync.Mutex
	keep  int64  // hours
	hours []hour // guarded by mu; ascending
}

type hour struct {
	at                                          int64 // hours since the Unix epoch
	attempts, success, failed, cancelled, opens uint32
	saved                                       uint32 // attempts and opens at the last Save
	latency                                     time.Duration
}

// hour returns the bucket for the time t. The caller holds mu.
func (p *proxy) hour(t time.Time) *hour {
	n := t.Unix() / 3600
	i := len(p.hours)
	for i > 0 && p.hours[i-1].at > n { // skips hours after n, which exist if the clock was set back
		i--
	}
	if i > 0 && p.hours[i-1].at == n {
		return &p.hours[i-1]
	}
	old := 0
	for old < i && p.hours[old].at < n-p.keep {
		old++
	}
	p.hours = slices.Insert(slices.Delete(p.hours, 0, old), i-old, hour{at: n})
	return &p.hours[i-old]
}

func (p *proxy) attempt(at time.Time, result core.Result, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hour(at)
	h.attempts++
	h.latency += took
	switch result {
	case core.ResultSuccess:
		h.success++
	case core.ResultCancelled, core.ResultReplay: // neither a success nor a failure of the proxy
		h.cancelled++
	default:
		h.failed++
	}
}

func (p *proxy) opened(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hour(at).opens++
}

// policies counts requests by policy.
type policies struct {
	mu     sync.RWMutex
	byHash map[string]*policyCount // guarded by mu
}

type policyCount struct {
	policy              any // RequestEvent.Policy; nil for otherPolicies
	requests, delivered atomic.Uint64
}

const otherPolicies = "other"

func (p *policies) count(e *core.RequestEvent) {
	p.mu.RLock()
	c := p.byHash[e.PolicyHash]
	p.mu.RUnlock()
	if c == nil {
		c = p.add(e.PolicyHash, e.Policy)
	}
	c.requests.Add(1)
	if e.Delivered {
		c.delivered.Add(1)
	}
}

func (p *policies) add(hash string, policy any) *policyCount {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byHash) >= maxPolicies {
		hash, policy = otherPolicies, nil
	}
	c := p.byHash[hash]
	if c == nil {
		c = &policyCount{policy: policy}
		p.byHash[hash] = c
	}
	return c
}

// transitions holds the latest transitions of all breakers.
type transitions struct {
	mu      sync.Mutex // guards all fields
	ring    []core.Transition
	next    int       // index of the next transition when the ring is full
	added   uint64    // number of transitions since the start
	dropped time.Time // time of the latest overwritten transition; zero if there is none
}

func (l *transitions) add(t core.Transition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.added++
	if len(l.ring) < maxTransitions {
		l.ring = append(l.ring, t)
		return
	}
	l.dropped = l.ring[l.next].At
	l.ring[l.next] = t
	l.next = (l.next + 1) % maxTransitions
}

// since returns the transitions at the time from or later, in the order in which they were added. truncated
// is set if some of them were overwritten.
func (l *transitions) since(from time.Time) (list []core.Transition, truncated bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.ring {
		if t := l.ring[(l.next+i)%len(l.ring)]; !t.At.Before(from) {
			list = append(list, t)
		}
	}
	return list, !l.dropped.IsZero() && !l.dropped.Before(from)
}

// after returns the transitions that were added after the first n, as far as they are kept. total is the number of
// all transitions that were added.
func (l *transitions) after(n uint64) (list []core.Transition, total uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.ring) - int(min(l.added-n, uint64(len(l.ring)))); i < len(l.ring); i++ {
		list = append(list, l.ring[(l.next+i)%len(l.ring)])
	}
	return list, l.added
}
