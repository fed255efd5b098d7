//go:build linux

// Package report makes tables, charts and a verdict on each criterion from the outcomes of the runs.
package report

import (
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/sockets"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/stats"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// Data holds all measurements.
type Data struct {
	Catalog  workload.Catalog
	Virtual  map[string]map[string]*workload.Outcome // outcomes in virtual time, by workload and variant
	Sockets  map[string]map[string][]*sockets.Result // rounds on sockets, by workload and gateway
	Gateways []string                                // gateways of Sockets, Whirlpool first
	Overhead []sockets.Overhead                      // SC-006
	Queries  []Query                                 // SC-007
	Policy   *sockets.PolicyResult                   // SC-009
	Machine  Machine
}

// The names of gateways.
const (
	Whirlpool = "Whirlpool"
	HAProxy   = "HAProxy"
	Envoy     = "Envoy"
	Direct    = "direct" // the control: clients without a gateway
)

// Query is a query and its duration.
type Query struct {
	Name string
	P99  time.Duration
}

// Machine describes the machine and the time of the run.
type Machine struct {
	Kernel, Go  string
	CPUs        int
	Load        [2]float64 // load averages of one minute, before and after the run
	Nice        int        // nice value of the run; below 0, other programs had a lower priority
	Took        time.Duration
	Commit, Day string
}

// Run is the summary of one run in results.json.
type Run struct {
	Workload        string         `json:"workload"`
	Gateway         string         `json:"gateway"`
	Where           string         `json:"where"` // virtual or sockets
	Requests        int            `json:"requests"`
	Served          stats.Interval `json:"served"`
	Attempts        int            `json:"attempts"`
	P50             float64        `json:"p50_ms"`
	P95             float64        `json:"p95_ms"`
	P99             float64        `json:"p99_ms"`
	RetriedP95      *float64       `json:"retried_p95_ms,omitempty"` // nil without retries
	BadAttempts     int            `json:"attempts_on_bad_proxies"`
	AllBreakersOpen int            `json:"all_breakers_open"`
	Openings        int            `json:"breakers_opened"`
	HealthyExcluded float64        `json:"healthy_out"`
	LateAttempts    int            `json:"late_attempts"`
	Extra           int            `json:"extra_attempts"`
}

// summarize returns the summary of an outcome.
func summarize(o *workload.Outcome, where string) Run {
	latency := slices.Clone(o.Latency)
	r := Run{
		Workload: o.Workload, Gateway: o.Variant, Where: where, Requests: len(o.Served), Served: servedShare(o),
		Attempts: o.AttemptCount(), P50: stats.Quantile(latency, 0.5).Value, P95: stats.Quantile(latency, 0.95).Value,
		P99: stats.Quantile(latency, 0.99).Value, BadAttempts: o.BadAttempts, AllBreakersOpen: o.AllBreakersOpen,
		Openings:        o.Openings,
		HealthyExcluded: o.HealthyExcluded, LateAttempts: o.LateAttempts, Extra: o.AttemptCount() - len(o.Served),
	}
	if retried := o.RetriedLatencies(); len(retried) > 0 {
		p95 := stats.Quantile(retried, 0.95).Value
		r.RetriedP95 = &p95
	}
	return r
}

// Runs returns the summaries of all runs.
func (d *Data) Runs() (runs []Run) {
	for _, name := range sortedNames(d.Virtual) {
		for _, variant := range sortedNames(d.Virtual[name]) {
			runs = append(runs, summarize(d.Virtual[name][variant], "virtual"))
		}
	}
	for _, name := range sortedNames(d.Sockets) {
		for _, gateway := range sortedNames(d.Sockets[name]) {
			for _, r := range d.Sockets[name][gateway] {
				run := summarize(r.Outcome, "sockets")
				run.Extra = r.Extra()
				runs = append(runs, run)
			}
		}
	}
	return runs
}

func sortedNames[T any](m map[string]T) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// servedShare returns the share of requests that were served.
func servedShare(o *workload.Outcome) stats.Interval {
	return stats.Wilson(o.ServedCount(), len(o.Served))
}

// roundValues returns a value computed from each round of a workload through a gateway.
func (d *Data) roundValues(w, gateway string, value func(*sockets.Result) float64) (values []float64) {
	for _, r := range d.Sockets[w][gateway] {
		values = append(values, value(r))
	}
	return values
}

// latencyQuantile returns a function that computes a quantile (0 to 1) of a run's latencies, in ms.
func latencyQuantile(q float64) func(*sockets.Result) float64 {
	return func(r *sockets.Result) float64 { return stats.Quantile(slices.Clone(r.Latency), q).Value }
}
