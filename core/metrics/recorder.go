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
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Limits and defaults.
const (
	DefaultRetentionHours = 24
	MaxRetentionHours     = 168
	maxAttempts           = 10      // attempts of one request
	maxTransitions        = 100_000 // transitions that are kept
	maxPolicies           = 1_000   // policies with counters of their own; all other policies count as "other"
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
	rotate  sync.Mutex // held while a minute is cleared

	proxies        sync.Map       // id -> *proxy
	unusedOpenings unusedOpenings // proxies that have no entry in proxies
	failingProxies failingProxies
	reasons        *minutes.Store
	namedProxies   namedProxies
	policies       policies
	transitions    transitions
	totals         totals
	sources        sources
	exporter       *exporter
	saveState      saveState // see Save
	cost           lastCostTotal
}

// minute holds the counters of one minute.
type minute struct {
	number           atomic.Int64 // minutes since the Unix epoch
	requests         atomic.Uint64
	delivered        atomic.Uint64
	targetRefused    atomic.Uint64
	banned           atomic.Uint64
	attempts         atomic.Uint64
	retries          atomic.Uint64
	replays          atomic.Uint64
	cost             atomic.Int64 // millionths of a unit of the prices
	latency          atomic.Int64 // ns, sum over attempts
	backoffTime      atomic.Int64 // ns, sum of backoffs
	transitions      atomic.Uint64
	successByAttempt [maxAttempts]atomic.Uint64
}

func (m *minute) clear() {
	for _, c := range []*atomic.Uint64{
		&m.requests, &m.delivered, &m.targetRefused, &m.banned, &m.attempts, &m.retries, &m.replays,
		&m.transitions,
	} {
		c.Store(0)
	}
	m.cost.Store(0)
	m.latency.Store(0)
	m.backoffTime.Store(0)
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
	r.reasons = minutes.NewStore(r.retention, cfg.Now)
	r.policies.byHash.Store(&map[string]*policyCount{})
	r.namedProxies = namedProxies{max: DefaultMaxProxies, baselines: map[string]*proxyTotals{}}
	r.exporter = newExporter(r)
	return r
}

// RetentionHours returns the number of hours that the queries cover.
func (r *Recorder) RetentionHours() int { return int(r.retention / time.Hour) }

// minuteAt returns the counters of the minute that contains the time t.
func (r *Recorder) minuteAt(t time.Time) *minute {
	n := t.Unix() / 60
	m := &r.minutes[n%int64(len(r.minutes))]
	if m.number.Load() != n { // the entry has the counters of an earlier minute
		r.rotate.Lock()
		if m.number.Load() != n {
			m.clear()
			m.number.Store(n)
		}
		r.rotate.Unlock()
	}
	return m
}

// Attempt counts a finished attempt.
func (r *Recorder) Attempt(e *core.AttemptEvent) { r.CountAttempt(e, nil) }

// CountAttempt counts a finished attempt. The argument slot must be nil or the slot of the attempt's proxy (see
// proxyIn).
func (r *Recorder) CountAttempt(e *core.AttemptEvent, slot *core.Slot) {
	m := r.minuteAt(e.Ended)
	duration := e.Ended.Sub(e.Started)
	m.attempts.Add(1)
	m.latency.Add(int64(duration))
	if e.Outcome.Cause == verdict.BannedHere {
		m.banned.Add(1)
	}
	switch {
	case e.Outcome.Result == core.ResultReplay: // a replay and the attempt after it have the same number
		m.replays.Add(1)
	case e.Attempt > 0:
		m.retries.Add(1)
		m.backoffTime.Add(int64(e.Delay))
		r.totals.countRetry(e)
	}
	r.totals.countAttempt(&e.Outcome)
	p := r.proxyIn(slot, e.ProxyID)
	if p.countAttempt(e, duration) {
		r.failingProxies.update(e.ProxyID, p)
	}
	r.reasons.CountAttempt(e, &p.reasons)
}

// Request counts a finished request.
func (r *Recorder) Request(e *core.RequestEvent) {
	m := r.minuteAt(e.Ended)
	m.requests.Add(1)
	if n := e.ServedBy(); n > 0 {
		m.delivered.Add(1)
		m.successByAttempt[min(n, maxAttempts)-1].Add(1)
		if isTargetRefusal(e.Status) {
			m.targetRefused.Add(1)
			r.totals.targetRefused.Add(1)
		}
	}
	r.policies.count(e)
	r.totals.countRequest(e)
}

// Transition counts a transition of a breaker.
func (r *Recorder) Transition(t core.Transition) {
	r.minuteAt(t.At).transitions.Add(1)
	r.transitions.add(t)
	r.totals.transitions[t.To].Add(1)
	switch t.To {
	case core.Open:
		r.countOpening(t.ProxyID, t.At)
	case core.Closed: // the failures that opened the breaker are not recent any more
		r.ForgetRecentAttempts(t.ProxyID)
	}
}

// proxyIn returns the counters of the proxy with the given id. If slot is not nil, it also stores the counters in the
// slot, so that the next call needs no look-up.
func (r *Recorder) proxyIn(slot *core.Slot, id string) *proxy {
	if slot == nil {
		return r.proxyCounters(id)
	}
	if p, ok := slot.Load().(*proxy); ok && p.recorder == r && !p.isForgotten.Load() {
		return p
	}
	p := r.proxyCounters(id)
	slot.Store(p)
	return p
}

func (r *Recorder) proxyCounters(id string) *proxy {
	if p, ok := r.proxies.Load(id); ok {
		return p.(*proxy)
	}
	r.unusedOpenings.mu.Lock()
	defer r.unusedOpenings.mu.Unlock()
	return r.addProxy(id)
}

// addProxy finds or creates the counters of a proxy. The caller holds unusedOpenings.mu.
func (r *Recorder) addProxy(id string) *proxy {
	if p := r.findProxy(id); p != nil {
		return p
	}
	p := &proxy{recorder: r, keepHours: int64(r.retention / time.Hour)}
	if n, ok := r.unusedOpenings.byID[id]; ok {
		delete(r.unusedOpenings.byID, id)
		p.hours = []hour{{number: int64(n.hour), opens: uint32(n.count), saved: uint32(n.saved)}}
	}
	r.proxies.Store(id, p)
	return p
}

// proxy holds the counters of one proxy by the hour. Only hours with data take memory.
type proxy struct {
	recorder    *Recorder
	isForgotten atomic.Bool // the recorder has deleted these counters
	reasons     minutes.SeriesRef

	mu        sync.Mutex // guards the fields from hours on
	keepHours int64      // hours

	hours    []hour // in ascending order
	recent   recentResults
	bytes    int64 // total of the last CountBytes
	totals   proxyTotals
	up, down int64   // bytes of the proxy at the last scrape
	cost     float64 // of the proxy at the last scrape
	inOther  bool    // see markInOther
}

type hour struct {
	number                                      int64 // hours since the Unix epoch
	attempts, success, failed, cancelled, opens uint32
	saved                                       uint32 // sum of attempts and opens at the last Save
	latency                                     time.Duration
}

// hourAt returns the hour that contains the time t. If p does not have this hour, the method adds it, and removes all
// hours that are more than p.keepHours hours older. The caller holds mu.
func (p *proxy) hourAt(t time.Time) *hour {
	n := t.Unix() / 3600
	i := len(p.hours)
	for i > 0 && p.hours[i-1].number > n { // skips hours after n, which exist if the clock was set back
		i--
	}
	if i > 0 && p.hours[i-1].number == n {
		return &p.hours[i-1]
	}
	old := 0
	for old < i && p.hours[old].number < n-p.keepHours {
		old++
	}
	p.hours = slices.Insert(slices.Delete(p.hours, 0, old), i-old, hour{number: n})
	return &p.hours[i-old]
}

// countAttempt counts an attempt through the proxy. It reports whether RecentAttempts.IsFailing has changed.
func (p *proxy) countAttempt(e *core.AttemptEvent, duration time.Duration) (failsChanged bool) {
	p.mu.Lock() // without defer, because every attempt calls this method
	failed := p.recent.isFailing()
	p.recent.add(e)
	failsChanged = p.recent.isFailing() != failed
	p.totals.addAttempt(e.Outcome.Cause, duration)
	h := p.hourAt(e.Ended)
	h.attempts++
	h.latency += duration
	switch e.Outcome.Result {
	case core.ResultSuccess:
		h.success++
	case core.ResultCancelled, core.ResultReplay: // neither a success nor a failure of the proxy
		h.cancelled++
	default:
		h.failed++
	}
	p.mu.Unlock()
	return failsChanged
}

func (p *proxy) countOpening(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hourAt(at).opens++
}

// policies counts requests by policy.
type policies struct {
	mu     sync.Mutex                              // held while byHash is replaced
	byHash atomic.Pointer[map[string]*policyCount] // a map never changes after it is stored here
}

type policyCount struct {
	policy              any // RequestEvent.Policy; nil for otherPolicies
	requests, delivered atomic.Uint64
}

const otherPolicies = "other"

func (p *policies) count(e *core.RequestEvent) {
	c := (*p.byHash.Load())[e.PolicyHash]
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
	byHash := *p.byHash.Load()
	if len(byHash) >= maxPolicies {
		hash, policy = otherPolicies, nil
	}
	c := byHash[hash]
	if c == nil {
		c = &policyCount{policy: policy}
		byHash = maps.Clone(byHash)
		byHash[hash] = c
		p.byHash.Store(&byHash)
	}
	return c
}
