package metrics

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/uber-go/tally/v4"
	tallyprom "github.com/uber-go/tally/v4/prometheus"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// totals count since the start, for Prometheus.
type totals struct {
	requests    [core.ListenAPI + 1][core.FinalNoProxyInRegion + 1]atomic.Uint64
	succeeded   atomic.Uint64 // attempts
	transitions [core.HalfOpen + 1]atomic.Uint64
	recovered   atomic.Uint64 // requests that a retry saved
	limited     atomic.Uint64 // requests whose attempts were spent
	overBudget  atomic.Uint64 // requests for which the retry budget had nothing left
	waited      atomic.Int64  // ns
	tunnelUp    atomic.Int64
	tunnelDown  atomic.Int64
	requestTime histogram
	phases      [len(phases)]histogram

	mu      sync.Mutex
	failed  map[failure]uint64 // attempts that did not succeed
	retries map[string]uint64  // by the reason of the attempt before
}

// failure is what an attempt that did not succeed is counted under.
type failure struct {
	result core.Result
	reason string
}

// phases are the parts of an attempt that are timed.
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
	if e.Delivered && e.Attempts > 1 {
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

// AddTunnelBytes counts what went through a finished tunnel.
func (r *Recorder) AddTunnelBytes(up, down int64) {
	r.totals.tunnelUp.Add(up)
	r.totals.tunnelDown.Add(down)
}

// ProxyState is one proxy as a scrape sees it.
type ProxyState struct {
	ID       string
	State    core.State
	InFlight int64
}

// PluginState is one plugin as a scrape sees it.
type PluginState struct {
	Name          string
	Calls, Faults uint64
	FaultsBy      map[string]uint64 // by reason; together Faults
	Spent         time.Duration     // in calls, all together
	Missed        uint64            // observations that the plugin was too slow for
	Quarantined   bool
}

// sources are asked at each scrape.
type sources struct {
	mu         sync.Mutex
	proxies    func() []ProxyState
	plugins    func() []PluginState
	inFlight   func() int
	reloadOK   float64
	reloadedAt time.Time
}

// Observe sets the functions that are called at each scrape; a nil one leaves the
// one that is set.
func (r *Recorder) Observe(proxies func() []ProxyState, plugins func() []PluginState, inFlight func() int) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	if proxies != nil {
		r.sources.proxies = proxies
	}
	if plugins != nil {
		r.sources.plugins = plugins
	}
	if inFlight != nil {
		r.sources.inFlight = inFlight
	}
}

// Reloaded records how the last reload of the configuration went.
func (r *Recorder) Reloaded(ok bool, at time.Time) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.reloadOK, r.sources.reloadedAt = 0, at
	if ok {
		r.sources.reloadOK = 1
	}
}

// exporter turns the totals into Prometheus text. Counters and gauges go
// through a tally scope; seconds, histograms and what is labelled by proxy are a
// collector of their own, since tally counts whole numbers, does not take a
// histogram's buckets whole, and never forgets a label.
type exporter struct {
	recorder *Recorder
	registry *prometheus.Registry
	reporter tallyprom.Reporter
	handler  http.Handler

	mu   sync.Mutex
	last map[string]uint64 // what the scope has been told of each counter
}

const prefix = "whirlpool"

// described is a metric of the scope: to tally, which has no room for what it
// means, it is described beforehand.
type described struct {
	name, help string
	labels     []string
}

var counters = []described{
	{"requests_total", "requests by where they came in and how they ended", []string{"listener", "outcome"}},
	{"attempts_total", "attempts by how they ended and, of those that failed, why", []string{"outcome", "error"}},
	{"circuit_breaker_transitions_total", "transitions of circuit breakers by the state they led to", []string{"to"}},
	{"retries_total", "retries by why the attempt before had failed", []string{"reason"}},
	{"tunnel_bytes_total", "bytes through finished tunnels, up to the target or down to the client",
		[]string{"direction"}},
	{"retry_success_total", "requests that a retry saved", nil},
	{"retry_limit_exceeded_total", "requests whose attempts were spent", nil},
	{"retry_budget_exhausted_total", "requests for which the retry budget had nothing left", nil},
}

var gauges = []described{
	{"config_reload_success", "1 if the last reload of the configuration took effect, else 0", nil},
	{"config_last_reload_timestamp_seconds", "when that was, since the Unix epoch", nil},
	{"requests_in_flight", "requests and tunnels running", nil},
}

func newExporter(r *Recorder) *exporter {
	e := &exporter{recorder: r, registry: prometheus.NewRegistry(), last: map[string]uint64{}}
	e.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), (*collector)(e))
	e.reporter = tallyprom.NewReporter(tallyprom.Options{Registerer: e.registry, OnRegisterError: func(error) {}})
	for _, m := range counters {
		e.reporter.RegisterCounter(prefix+tallyprom.DefaultSeparator+m.name, m.labels, m.help)
	}
	for _, m := range gauges {
		e.reporter.RegisterGauge(prefix+tallyprom.DefaultSeparator+m.name, m.labels, m.help)
	}
	e.handler = promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{})
	return e
}

// Handler serves the Prometheus text format, as of the moment of the request.
func (r *Recorder) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.exporter.flush()
		r.exporter.handler.ServeHTTP(w, q)
	})
}

// flush brings the reporter up to date: a scope that lives for one scrape and
// reports when it is closed.
func (e *exporter) flush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	scope, closer := tally.NewRootScope(tally.ScopeOptions{
		Prefix: prefix, CachedReporter: e.reporter, Separator: tallyprom.DefaultSeparator, OmitCardinalityMetrics: true,
		SanitizeOptions: &tallyprom.DefaultSanitizerOpts,
	}, 0)
	defer closer.Close()
	count := func(name string, value uint64, tags ...string) {
		labels, key := map[string]string{}, name
		for i := 0; i < len(tags); i += 2 {
			labels[tags[i]] = tags[i+1]
			key += "\x00" + tags[i+1]
		}
		scope.Tagged(labels).Counter(name).Inc(int64(value - e.last[key]))
		e.last[key] = value
	}
	r := e.recorder
	t := &r.totals
	for l := core.ListenHTTP; l <= core.ListenAPI; l++ {
		for f := core.FinalSuccess; f <= core.FinalNoProxyInRegion; f++ {
			count("requests_total", t.requests[l][f].Load(), "listener", l.String(), "outcome", f.String())
		}
	}
	count("attempts_total", t.succeeded.Load(), "outcome", core.ResultSuccess.String(), "error", "")
	for s := core.Closed; s <= core.HalfOpen; s++ {
		count("circuit_breaker_transitions_total", t.transitions[s].Load(), "to", s.String())
	}
	t.mu.Lock()
	for f, n := range t.failed {
		count("attempts_total", n, "outcome", f.result.String(), "error", f.reason)
	}
	for reason, n := range t.retries {
		count("retries_total", n, "reason", reason)
	}
	t.mu.Unlock()
	count("tunnel_bytes_total", uint64(t.tunnelUp.Load()), "direction", "up")
	count("tunnel_bytes_total", uint64(t.tunnelDown.Load()), "direction", "down")
	count("retry_success_total", t.recovered.Load())
	count("retry_limit_exceeded_total", t.limited.Load())
	count("retry_budget_exhausted_total", t.overBudget.Load())
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	if !r.sources.reloadedAt.IsZero() {
		scope.Gauge("config_reload_success").Update(r.sources.reloadOK)
		scope.Gauge("config_last_reload_timestamp_seconds").Update(float64(r.sources.reloadedAt.UnixNano()) / 1e9)
	}
	if r.sources.inFlight != nil {
		scope.Gauge("requests_in_flight").Update(float64(r.sources.inFlight()))
	}
}

// collector is the exporter's own side of a scrape.
type collector exporter

// maxLabelled bounds the proxies that get series of their own.
const maxLabelled = 1_000

var (
	breakerDesc = prometheus.NewDesc("whirlpool_circuit_breaker_state", "0 closed, 1 open, 2 half-open",
		[]string{"proxy_id"}, nil)
	opensDesc = prometheus.NewDesc("whirlpool_circuit_breaker_opens", "openings within the retention",
		[]string{"proxy_id"}, nil)
	inFlightDesc = prometheus.NewDesc("whirlpool_proxy_in_flight", "attempts and tunnels running", []string{"proxy_id"},
		nil)
	proxiesDesc = prometheus.NewDesc("whirlpool_proxies", "proxies by breaker state", []string{"state"}, nil)
	pluginDesc  = prometheus.NewDesc("whirlpool_plugin_calls_total", "plugin calls by result",
		[]string{"plugin", "result"}, nil)
	pluginFaults = prometheus.NewDesc("whirlpool_plugin_faults_total",
		"plugin calls that failed and were answered by the built-in, by reason", []string{"plugin", "reason"}, nil)
	pluginMissed = prometheus.NewDesc("whirlpool_plugin_observations_missed_total",
		"observations that came faster than the plugin took them", []string{"plugin"}, nil)
	quarantine = prometheus.NewDesc("whirlpool_plugin_quarantined", "1 while a plugin is quarantined",
		[]string{"plugin"}, nil)
	waitedDesc = prometheus.NewDesc("whirlpool_retry_wait_seconds_total", "waited before retries, all together", nil,
		nil)
	requestDesc = prometheus.NewDesc("whirlpool_request_duration_seconds", "from a request's head to its answer's end",
		nil, nil)
	attemptDesc = prometheus.NewDesc("whirlpool_attempt_duration_seconds",
		"of an attempt: connecting, logging in, and from the request to the answer's head", []string{"phase"}, nil)
	pluginTime = prometheus.NewDesc("whirlpool_plugin_duration_seconds",
		"time in plugin calls, of which one in 17 is measured and stands for all", []string{"plugin"}, nil)
)

// Describe implements prometheus.Collector; the series vary, so it says nothing.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	r := c.recorder
	out <- prometheus.MustNewConstMetric(waitedDesc, prometheus.CounterValue,
		time.Duration(r.totals.waited.Load()).Seconds())
	r.totals.requestTime.collect(out, requestDesc)
	for i, phase := range phases {
		r.totals.phases[i].collect(out, attemptDesc, phase)
	}
	r.sources.mu.Lock()
	proxies, plugins := r.sources.proxies, r.sources.plugins
	r.sources.mu.Unlock()
	if proxies != nil {
		byState := map[core.State]float64{core.Closed: 0, core.Open: 0, core.HalfOpen: 0}
		stats := r.ByProxy(r.RetentionHours())
		for i, p := range proxies() {
			byState[p.State]++
			if i < maxLabelled {
				out <- prometheus.MustNewConstMetric(breakerDesc, prometheus.GaugeValue, float64(p.State), p.ID)
				out <- prometheus.MustNewConstMetric(inFlightDesc, prometheus.GaugeValue, float64(p.InFlight), p.ID)
				out <- prometheus.MustNewConstMetric(opensDesc, prometheus.GaugeValue,
					float64(stats[p.ID].BreakerOpens), p.ID)
			}
		}
		for s, n := range byState {
			out <- prometheus.MustNewConstMetric(proxiesDesc, prometheus.GaugeValue, n, s.String())
		}
	}
	if plugins != nil {
		for _, p := range plugins() {
			out <- prometheus.MustNewConstMetric(pluginDesc, prometheus.CounterValue, float64(p.Calls), p.Name, "ok")
			out <- prometheus.MustNewConstMetric(pluginDesc, prometheus.CounterValue, float64(p.Faults), p.Name,
				"fault")
			for reason, n := range p.FaultsBy {
				out <- prometheus.MustNewConstMetric(pluginFaults, prometheus.CounterValue, float64(n), p.Name, reason)
			}
			out <- prometheus.MustNewConstMetric(pluginMissed, prometheus.CounterValue, float64(p.Missed), p.Name)
			out <- prometheus.MustNewConstSummary(pluginTime, p.Calls+p.Faults, p.Spent.Seconds(), nil, p.Name)
			q := 0.0
			if p.Quarantined {
				q = 1
			}
			out <- prometheus.MustNewConstMetric(quarantine, prometheus.GaugeValue, q, p.Name)
		}
	}
}

func (h *histogram) collect(out chan<- prometheus.Metric, desc *prometheus.Desc, labels ...string) {
	buckets := make(map[float64]uint64, len(bounds))
	total := uint64(0)
	for i, bound := range bounds {
		total += h.buckets[i].Load()
		buckets[bound] = total
	}
	total += h.buckets[len(bounds)].Load()
	out <- prometheus.MustNewConstHistogram(desc, total, time.Duration(h.sum.Load()).Seconds(), buckets, labels...)
}
