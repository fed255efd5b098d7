package metrics

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/uber-go/tally/v4"
	tallyprom "github.com/uber-go/tally/v4/prometheus"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// ProxyState is one proxy at the time of a scrape.
type ProxyState struct {
	ID           string
	State        core.State
	InFlight     int64
	ShortTunnels uint64 // short tunnels since the proxy was added
	Up, Down     int64  // bytes to and from the proxy since it was added
	Cost         float64
}

// PluginState is one plugin at the time of a scrape.
type PluginState struct {
	Name               string
	Calls, Faults      uint64            // calls that succeeded, and calls that failed
	FaultsBy           map[string]uint64 // Faults by reason
	CallTime           time.Duration     // sum of the durations of all calls
	MissedObservations uint64            // observations that were discarded because the plugin was too slow
	Quarantined        bool
	OwnMetrics         map[string]float64 // the plugin's own metrics, by name
}

// sources are the functions that are called at each scrape.
type sources struct {
	mu         sync.Mutex // guards all fields
	proxies    func() []ProxyState
	plugins    func() []PluginState
	inFlight   func() int
	checks     func() (passed, failed uint64)
	queues     func() []QueueState
	banCounts  func() (pairs, banned int)
	cluster    func() ClusterState // nil without a cluster
	costs      func() CostStates
	rules      func(count func(rule string, applied uint64))
	logins     func(count func(listener string, failed uint64))
	reloadOK   float64
	reloadedAt time.Time
}

// SetSources sets the functions that are called at each scrape. A nil argument changes nothing.
func (r *Recorder) SetSources(proxies func() []ProxyState, plugins func() []PluginState, inFlight func() int) {
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

// SetCheckSource sets the function that returns the numbers of health checks. It is called at each scrape.
func (r *Recorder) SetCheckSource(checks func() (passed, failed uint64)) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.checks = checks
}

// SetLoginSource sets the function that reports the failed logins at each scrape. This function calls count for each
// listener, with the number of failed logins.
func (r *Recorder) SetLoginSource(logins func(count func(listener string, failed uint64))) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.logins = logins
}

// RecordReload sets the result of the last reload of the configuration.
func (r *Recorder) RecordReload(ok bool, at time.Time) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.reloadOK, r.sources.reloadedAt = 0, at
	if ok {
		r.sources.reloadOK = 1
	}
}

// exporter writes the metrics in the format of Prometheus. Most metrics go through a scope of the library tally. The
// collector has the metrics that tally does not support: those with fractions, histograms with given counts, and those
// whose time series end.
type exporter struct {
	recorder *Recorder
	registry *prometheus.Registry
	reporter tallyprom.Reporter
	handler  http.Handler

	mu   sync.Mutex
	last map[string]uint64 // guarded by mu: the last value of each counter of the scope
}

const prefix = "whirlpool"

// metric is a metric that goes through the tally scope. Its help is registered with the reporter.
type metric struct {
	name, help string
	labels     []string
}

var counters = []metric{
	{"requests_total", "requests by listener and final outcome", []string{"listener", "outcome"}},
	{"attempts_total", "attempts by result and, if they failed, by reason", []string{"outcome", "error"}},
	{"circuit_breaker_transitions_total", "transitions of circuit breakers by the new state", []string{"to"}},
	{"retries_total", "retries by the reason of the previous attempt, and hedges", []string{"reason"}},
	{"hedges_total", "attempts that began while the request's first attempt was in flight", nil},
	{"hedges_won_total", "hedges that served their request", nil},
	{"tunnel_bytes_total", "bytes of ended tunnels, up to targets or down to clients", []string{"direction"}},
	{"intercept_handshakes_total", "TLS handshakes with clients in place of targets, by outcome: success or failure",
		[]string{"outcome"}},
	{"refused_total", "requests that the gateway refused itself, by listener and reason",
		[]string{"listener", "reason"}},
	{"retry_success_total", "requests that succeeded after a retry", nil},
	{"retry_limit_exceeded_total", "requests that reached max_attempts", nil},
	{"target_refused_total", "delivered responses with status 403 or 429", nil},
	{"retry_budget_exhausted_total", "requests for which the retry budget was empty", nil},
}

var gauges = []metric{
	{"config_reload_success", "1 if the last reload of the configuration succeeded, else 0", nil},
	{"config_last_reload_timestamp_seconds", "time of the last reload, since the Unix epoch", nil},
	{"requests_in_flight", "requests and tunnels in flight", nil},
}

func newExporter(r *Recorder) *exporter {
	e := &exporter{recorder: r, registry: prometheus.NewRegistry(), last: map[string]uint64{}}
	process := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	e.registry.MustRegister(collectors.NewGoCollector(), process, (*collector)(e))
	e.reporter = tallyprom.NewReporter(tallyprom.Options{Registerer: e.registry, OnRegisterError: func(error) {}})
	for _, m := range counters {
		e.reporter.RegisterCounter(prefix+tallyprom.DefaultSeparator+m.name, m.labels, m.help)
	}
	for _, m := range gauges {
		e.reporter.RegisterGauge(prefix+tallyprom.DefaultSeparator+m.name, m.labels, m.help)
	}
	e.handler = promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
	return e
}

// Handler serves the metrics in the text format of Prometheus or, if the client accepts it, in the format of
// OpenMetrics, which has exemplars.
func (r *Recorder) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.exporter.flush()
		r.exporter.handler.ServeHTTP(w, q)
	})
}

// Gather returns the metrics that Handler serves.
func (r *Recorder) Gather() ([]*dto.MetricFamily, error) {
	r.exporter.flush()
	return r.exporter.registry.Gather()
}

// flush passes the current values to the reporter. A scope of tally reports its metrics when it is closed, so each
// scrape has a new scope.
func (e *exporter) flush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	scope, closer := tally.NewRootScope(tally.ScopeOptions{
		Prefix: prefix, CachedReporter: e.reporter, Separator: tallyprom.DefaultSeparator, OmitCardinalityMetrics: true,
		SanitizeOptions: &tallyprom.DefaultSanitizerOpts,
	}, 0)
	defer closer.Close()
	e.recorder.totals.report(func(name string, value uint64, tags ...string) {
		labels, key := map[string]string{}, name
		for i := 0; i < len(tags); i += 2 {
			labels[tags[i]] = tags[i+1]
			key += "\x00" + tags[i+1]
		}
		scope.Tagged(labels).Counter(name).Inc(int64(value - e.last[key]))
		e.last[key] = value
	})
	r := e.recorder
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

// report calls the function count for each counter. The tags are the labels of the counter, each followed by its value.
func (t *totals) report(count func(name string, value uint64, tags ...string)) {
	for l := core.ListenHTTP; l < core.NumListeners; l++ {
		for f := core.FinalSuccess; f <= core.LastFinal; f++ {
			n := t.requests[l][f].Load()
			if l == core.ListenIntercept && n == 0 { // most gateways do not intercept
				continue
			}
			count("requests_total", n, "listener", l.String(), "outcome", f.String())
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
	for by, n := range t.refused {
		count("refused_total", n, "listener", by.listener.String(), "reason", by.reason)
	}
	t.mu.Unlock()
	count("hedges_total", t.hedges.Load())
	count("hedges_won_total", t.hedgesWon.Load())
	count("tunnel_bytes_total", uint64(t.tunnelUp.Load()), "direction", "up")
	count("tunnel_bytes_total", uint64(t.tunnelDown.Load()), "direction", "down")
	for ok, n := range map[bool]uint64{true: t.intercepted.Load(), false: t.notIntercepted.Load()} {
		if n > 0 { // most gateways do not intercept
			count("intercept_handshakes_total", n, "outcome", handshakeOutcome(ok))
		}
	}
	count("retry_success_total", t.servedByRetry.Load())
	count("retry_limit_exceeded_total", t.limitReached.Load())
	count("target_refused_total", t.targetRefused.Load())
	count("retry_budget_exhausted_total", t.budgetSpent.Load())
}

// collector collects the metrics that do not go through tally.
type collector exporter

var _ prometheus.Collector = (*collector)(nil)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+"_"+name, help, labels, nil)
}

var (
	breakerDesc  = newDesc("circuit_breaker_state", "0 closed, 1 open, 2 half-open", "proxy_id")
	opensDesc    = newDesc("circuit_breaker_opens", "openings within the retention", "proxy_id")
	shortDesc    = newDesc("proxy_short_tunnels_total", "tunnels that the proxy's side ended early", "proxy_id")
	inFlightDesc = newDesc("proxy_in_flight", "attempts and tunnels in flight", "proxy_id")
	proxiesDesc  = newDesc("proxies", "proxies by the state of their breaker", "state")
	loginsDesc   = newDesc("auth_failures_total", "failed logins by listener: gateway, socks5 or api", "listener")
	checksDesc   = newDesc("health_checks_total", "health checks by result", "result")
	callsDesc    = newDesc("plugin_calls_total", "plugin calls by result", "plugin", "result")
	faultsDesc   = newDesc("plugin_faults_total", "plugin calls that failed, by reason; a built-in took their place",
		"plugin", "reason")
	missedDesc = newDesc("plugin_observations_missed_total", "observations dropped because the plugin was too slow",
		"plugin")
	quarantineDesc = newDesc("plugin_quarantined", "1 while a plugin is quarantined", "plugin")
	pluginTimeDesc = newDesc("plugin_duration_seconds",
		"time in plugin calls, estimated from one call in 17", "plugin")
	ownDesc     = newDesc("plugin_metric", "a plugin's own counters and gauges", "plugin", "name")
	waitedDesc  = newDesc("retry_wait_seconds_total", "time in backoffs, all together")
	requestDesc = newDesc("request_duration_seconds", "time from the head of a request to the end of its response")
	attemptDesc = newDesc("attempt_duration_seconds", "time of an attempt by phase: TCP connection (dial), "+
		"TLS and proxy login (handshake), request to head of the response (ttfb)", "phase")
)

// Describe sends no descriptions, because the time series of the metrics differ from scrape to scrape.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the metrics of a scrape.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	r := c.recorder
	emit(out, waitedDesc, prometheus.CounterValue, time.Duration(r.totals.backoffTime.Load()).Seconds())
	out <- r.totals.requestExemplars.withExemplars(r.totals.requestTime.metric(requestDesc))
	for i, phase := range phases {
		out <- r.totals.phases[i].metric(attemptDesc, phase)
	}
	r.sources.mu.Lock()
	proxies, plugins, queues := r.sources.proxies, r.sources.plugins, r.sources.queues
	banCounts, logins := r.sources.banCounts, r.sources.logins
	checks, costs, rules := r.sources.checks, r.sources.costs, r.sources.rules
	cluster := r.sources.cluster
	r.sources.mu.Unlock()
	collectRules(out, rules)
	if logins != nil {
		logins(func(listener string, failed uint64) {
			emit(out, loginsDesc, prometheus.CounterValue, float64(failed), listener)
		})
	}
	if checks != nil {
		passed, failed := checks()
		emit(out, checksDesc, prometheus.CounterValue, float64(passed), "passed")
		emit(out, checksDesc, prometheus.CounterValue, float64(failed), "failed")
	}
	if proxies != nil {
		r.collectProxies(out, proxies())
	}
	if plugins != nil {
		for _, p := range plugins() {
			p.collect(out)
		}
	}
	if costs != nil {
		all := costs()
		all.collect(out)
	}
	if cluster != nil {
		state := cluster()
		state.collect(out)
	}
	if banCounts != nil {
		pairs, banned := banCounts()
		emit(out, bannedPairsDesc, prometheus.GaugeValue, float64(pairs))
		emit(out, bannedDesc, prometheus.GaugeValue, float64(banned))
	}
	if queues != nil {
		for _, s := range queues() {
			s.collect(out)
		}
	}
}

func emit(
	out chan<- prometheus.Metric, desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string,
) {
	out <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
}

func (r *Recorder) collectProxies(out chan<- prometheus.Metric, proxies []ProxyState) {
	byState := map[core.State]float64{core.Closed: 0, core.Open: 0, core.HalfOpen: 0}
	stats := r.ByProxy(r.RetentionHours())
	named, inFlight := r.collectNamedProxies(out, proxies), int64(0)
	for _, p := range proxies {
		byState[p.State]++
		if !named[p.ID] {
			inFlight += p.InFlight
		} else {
			emit(out, breakerDesc, prometheus.GaugeValue, float64(p.State), p.ID)
			emit(out, inFlightDesc, prometheus.GaugeValue, float64(p.InFlight), p.ID)
			emit(out, shortDesc, prometheus.CounterValue, float64(p.ShortTunnels), p.ID)
			emit(out, opensDesc, prometheus.GaugeValue, float64(stats[p.ID].BreakerOpens), p.ID)
		}
	}
	if len(proxies) > len(named) {
		emit(out, inFlightDesc, prometheus.GaugeValue, float64(inFlight), otherProxies)
	}
	for s, n := range byState {
		emit(out, proxiesDesc, prometheus.GaugeValue, n, s.String())
	}
}

func (p *PluginState) collect(out chan<- prometheus.Metric) {
	emit(out, callsDesc, prometheus.CounterValue, float64(p.Calls), p.Name, "ok")
	emit(out, callsDesc, prometheus.CounterValue, float64(p.Faults), p.Name, "fault")
	for reason, n := range p.FaultsBy {
		emit(out, faultsDesc, prometheus.CounterValue, float64(n), p.Name, reason)
	}
	emit(out, missedDesc, prometheus.CounterValue, float64(p.MissedObservations), p.Name)
	out <- prometheus.MustNewConstSummary(pluginTimeDesc, p.Calls+p.Faults, p.CallTime.Seconds(), nil, p.Name)
	quarantined := 0.0
	if p.Quarantined {
		quarantined = 1
	}
	emit(out, quarantineDesc, prometheus.GaugeValue, quarantined, p.Name)
	for name, value := range p.OwnMetrics { // without a type, because some are counters and others gauges
		emit(out, ownDesc, prometheus.UntypedValue, value, p.Name, name)
	}
}

func (h *histogram) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(bucketBounds))
	total := uint64(0)
	for i, bound := range bucketBounds {
		total += h.buckets[i].Load()
		buckets[bound.Seconds()] = total
	}
	total += h.buckets[len(bucketBounds)].Load()
	return prometheus.MustNewConstHistogram(desc, total, time.Duration(h.sum.Load()).Seconds(), buckets, labels...)
}
