// Package metrics counts: every attempt, every request and every breaker
// transition exactly once, in buckets whose memory does not depend on traffic.
// Its queries are what the REST API answers; its tally scope is what
// Prometheus scrapes. (tally stops at this package.)
//
// These identities hold at any quiescent moment:
//
//	attempts = first tries + retries + replays = requests sent to proxies
//	success + failure + cancelled = attempts, per proxy
//	sum of success_by_attempt = requests delivered
package metrics

import (
	"math"
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
	maxAttempts           = 10      // a policy allows no more
	maxEvents             = 100_000 // kept transitions
	maxPolicies           = 1_000   // policies told apart; the rest is "other"
)

// Config is what a Recorder is built from; zero values mean defaults.
type Config struct {
	RetentionHours int
	Now            func() time.Time
}

// Recorder is safe for concurrent use.
type Recorder struct {
	now       func() time.Time
	start     time.Time
	retention time.Duration

	minutes []minute // a ring, by minute since the Unix epoch
	rotate  sync.Mutex

	proxies  sync.Map // id -> *proxy
	policies policies
	events   events
	totals   totals
	sources  sources
	exporter *exporter
}

// minute is one bucket. Its counters are added to without a lock; at is the
// minute they belong to.
type minute struct {
	at               atomic.Int64
	requests         atomic.Uint64
	delivered        atomic.Uint64
	attempts         atomic.Uint64
	retries          atomic.Uint64
	replays          atomic.Uint64
	latency          atomic.Int64 // ns, of attempts
	waited           atomic.Int64 // ns, in backoffs
	events           atomic.Uint64
	successByAttempt [maxAttempts]atomic.Uint64
}

func (m *minute) clear() {
	for _, c := range []*atomic.Uint64{&m.requests, &m.delivered, &m.attempts, &m.retries, &m.replays, &m.events} {
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
	r := &Recorder{now: cfg.Now, start: cfg.Now(), retention: time.Duration(cfg.RetentionHours) * time.Hour}
	r.minutes = make([]minute, cfg.RetentionHours*60+1)
	r.policies.byHash = map[string]*policyCount{}
	r.exporter = newExporter(r)
	return r
}

// RetentionHours is how far back the queries reach.
func (r *Recorder) RetentionHours() int { return int(r.retention / time.Hour) }

// at returns the bucket of a moment, cleared if it held another minute.
func (r *Recorder) at(t time.Time) *minute {
	n := t.Unix() / 60
	m := &r.minutes[n%int64(len(r.minutes))]
	if m.at.Load() != n {
		r.rotate.Lock()
		if m.at.Load() != n { // older, or the clock was set back by as much
			m.clear()
			m.at.Store(n)
		}
		r.rotate.Unlock()
	}
	return m
}

// Attempt records a finished attempt.
func (r *Recorder) Attempt(e *core.AttemptEvent) {
	m := r.at(e.Ended)
	took := e.Ended.Sub(e.Started)
	m.attempts.Add(1)
	m.latency.Add(int64(took))
	switch {
	case e.Outcome.Result == core.ResultReplay: // the same try goes on
		m.replays.Add(1)
	case e.Attempt > 0:
		m.retries.Add(1)
		m.waited.Add(int64(e.Delay))
		r.totals.retry(e)
	}
	r.totals.attempt(&e.Outcome)
	r.proxy(e.ProxyID).attempt(e.Ended, e.Outcome.Result, took)
}

// Request records a finished request.
func (r *Recorder) Request(e *core.RequestEvent) {
	m := r.at(e.Ended)
	m.requests.Add(1)
	if e.Delivered && e.Attempts > 0 {
		m.delivered.Add(1)
		m.successByAttempt[min(e.Attempts, maxAttempts)-1].Add(1)
	}
	r.policies.count(e)
	r.totals.request(e)
}

// Transition records a change of a breaker's state.
func (r *Recorder) Transition(t core.Transition) {
	r.at(t.At).events.Add(1)
	r.events.add(t)
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

// proxy counts for one proxy, by the hour. It holds only hours with data: where the
// list of proxies changes often, there are many that were used for one hour.
type proxy struct {
	mu    sync.Mutex
	keep  int64  // hours
	hours []hour // ascending
}

type hour struct {
	at                                          int64 // hours since the Unix epoch
	attempts, success, failed, cancelled, opens uint32
	latency                                     time.Duration
}

// hour returns the bucket of a moment. Requires mu.
func (p *proxy) hour(t time.Time) *hour {
	n := t.Unix() / 3600
	i := len(p.hours)
	for i > 0 && p.hours[i-1].at > n { // a clock that was set back
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
	case core.ResultCancelled, core.ResultReplay: // neither says anything of the proxy
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

// policies counts requests by the policy they ran under.
type policies struct {
	mu     sync.RWMutex
	byHash map[string]*policyCount
}

type policyCount struct {
	policy              any // what the hash stands for; nil for the others
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

// events keeps the latest transitions, oldest first.
type events struct {
	mu      sync.Mutex
	ring    []core.Transition
	next    int
	dropped time.Time // the latest that had to go to make room
}

func (e *events) add(t core.Transition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ring) < maxEvents {
		e.ring = append(e.ring, t)
		return
	}
	e.dropped = e.ring[e.next].At
	e.ring[e.next] = t
	e.next = (e.next + 1) % maxEvents
}

// since returns the events after a moment, oldest first, and whether some are
// missing.
func (e *events) since(from time.Time) (list []core.Transition, truncated bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.ring {
		if t := e.ring[(e.next+i)%len(e.ring)]; !t.At.Before(from) {
			list = append(list, t)
		}
	}
	return list, !e.dropped.IsZero() && !e.dropped.Before(from)
}

func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

func round6(f float64) float64 { return math.Round(f*1e6) / 1e6 }
