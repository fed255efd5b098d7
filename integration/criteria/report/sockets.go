//go:build linux

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/chart"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/sockets"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/stats"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// Functions that return a value of a round.
func lostRequests(r *sockets.Result) float64  { return float64(len(r.Served) - r.ServedCount()) }
func extraAttempts(r *sockets.Result) float64 { return float64(r.Extra()) }
func runDuration(r *sockets.Result) float64   { return float64(r.Took) / float64(time.Millisecond) }

// peersSection returns the comparison with Envoy and HAProxy on pools that fail in several ways.
func (d *Data) peersSection() *section {
	s := &section{title: "Bad pools on sockets, beside Envoy and HAProxy", text: scenesText}
	t := &table{header: []string{"workload", "gateway", "requests that failed", "extra attempts", "p50", "p95", "p99",
		"took"}}
	for _, w := range d.Catalog.PeerWorkloads() {
		for _, g := range append(slices.Clone(d.Gateways), Direct) {
			name := w.Name
			if g == Direct {
				name = w.Control().Name
			}
			if len(d.Sockets[name][g]) == 0 {
				continue
			}
			t.addRow(w.Name, gatewayLabel(g), medianAndWorst(d.roundValues(name, g, lostRequests), formatNumber),
				medianAndWorst(d.roundValues(name, g, extraAttempts), formatNumber),
				medianAndWorst(d.roundValues(name, g, latencyQuantile(0.5)), formatMS),
				medianAndWorst(d.roundValues(name, g, latencyQuantile(0.95)), formatMS),
				medianAndWorst(d.roundValues(name, g, latencyQuantile(0.99)), formatMS),
				medianAndWorst(d.roundValues(name, g, runDuration), formatMS))
		}
	}
	s.tables = append(s.tables, t)
	d.judgeCold(s)
	d.judgeTwoDie(s)
	d.judgeFreeList(s)
	w := d.Catalog.Tunnels()
	lost := slices.Max(d.roundValues(w.Name, Whirlpool, lostRequests))
	s.judge(Criterion{ID: "bad pools", Workload: w.Name, Where: "sockets", Target: "every handshake succeeds",
		Measured: fmt.Sprintf("at most %.0f of %s fail in a round", lost, formatCount(w.Requests))}, lost == 0,
		"tunnels were closed after all attempts")
	return s
}

func gatewayLabel(gateway string) string {
	if gateway == Direct {
		return "none (control: a good proxy)"
	}
	return gateway
}

func (d *Data) median(w, gateway string, value func(*sockets.Result) float64) float64 {
	return stats.Median(d.roundValues(w, gateway, value))
}

func (d *Data) judgeCold(s *section) {
	w := d.Catalog.ColdStart()
	control := w.Control().Name
	criterion := func(target, measured string) Criterion {
		return Criterion{ID: "bad pools", Workload: w.Name, Where: "sockets", Target: target, Measured: measured}
	}
	lost := slices.Max(d.roundValues(w.Name, Whirlpool, lostRequests))
	s.judge(criterion("every request is served", fmt.Sprintf("at most %.0f fail in a round", lost)), lost == 0,
		"requests failed with all their attempts")
	// Wasted attempts are the attempts that reached bad proxies, and the extra attempts whose connection was refused.
	extra := d.median(w.Name, Whirlpool, extraAttempts)
	hung := d.median(w.Name, Whirlpool, func(r *sockets.Result) float64 { return float64(r.Hung) })
	refused := d.median(w.Name, Whirlpool, func(r *sockets.Result) float64 {
		return float64(max(r.AttemptCount()-r.Reached(), 0))
	})
	failed := d.median(w.Name, Whirlpool, func(r *sockets.Result) float64 { return float64(r.Failed) })
	why := fmt.Sprintf("medians: %.0f at the hanging proxy, %.0f at the refusing one, %.0f 503s of the two that fail "+
		"40 %%", hung, refused, failed)
	s.judge(criterion("at most 12 wasted attempts",
		medianAndWorst(d.roundValues(w.Name, Whirlpool, extraAttempts), formatNumber)),
		extra <= 12, why)
	share := extra / float64(w.Requests)
	s.judge(criterion("at most 5 % more attempts than requests", fmt.Sprintf("%.1f %%", 100*share)), share <= 0.05, why)
	ratio := d.ratios(w.Name, control, latencyQuantile(0.95))
	s.judge(criterion("p95 at most 2 times that of a good proxy", medianAndWorst(ratio, func(v float64) string {
		return fmt.Sprintf("%.2f times", v)
	})), stats.Median(ratio) <= 2, "more than 5 % of requests were retried, or went through the slow proxy: "+why)
}

// ratios returns, by round, the ratio of a value to the value of the control.
func (d *Data) ratios(w, control string, value func(*sockets.Result) float64) (ratios []float64) {
	base := d.roundValues(control, Direct, value)
	for i, v := range d.roundValues(w, Whirlpool, value) {
		ratios = append(ratios, v/base[i])
	}
	return ratios
}

func (d *Data) judgeTwoDie(s *section) {
	w := d.Catalog.TwoDie()
	lost := slices.Max(d.roundValues(w.Name, Whirlpool, lostRequests))
	s.judge(Criterion{ID: "bad pools", Workload: w.Name, Where: "sockets", Target: "every request is served",
		Measured: fmt.Sprintf("at most %.0f fail in a round", lost)}, lost == 0,
		"requests failed with all their attempts")
	control := d.median(w.Control().Name, Direct, latencyQuantile(0.99))
	p99 := d.median(w.Name, Whirlpool, latencyQuantile(0.99))
	why := fmt.Sprintf("%.0f attempts reached the proxy that hangs after it did",
		d.median(w.Name, Whirlpool, func(r *sockets.Result) float64 { return float64(r.Hung) }))
	if control > 50 {
		why = "the machine was busy: see the control"
	}
	s.judge(Criterion{ID: "bad pools", Workload: w.Name, Where: "sockets", Target: "p99 at most 50 ms",
		Measured: fmt.Sprintf("%s (control %s)",
			medianAndWorst(d.roundValues(w.Name, Whirlpool, latencyQuantile(0.99)), formatMS),
			formatMS(control))}, p99 <= 50, why)
}

func (d *Data) judgeFreeList(s *section) {
	w := d.Catalog.FreeList()
	within := d.roundValues(w.Name, Whirlpool, func(r *sockets.Result) float64 {
		if r.Took > 10*time.Second {
			return 0
		}
		return float64(r.ServedCount())
	})
	worst := slices.Min(within)
	s.judge(Criterion{ID: "bad pools", Workload: w.Name, Where: "sockets",
		Target: fmt.Sprintf("%d of %d served in 10 s", w.Requests-1, w.Requests),
		Measured: fmt.Sprintf("%.0f in %s", worst,
			medianAndWorst(d.roundValues(w.Name, Whirlpool, runDuration), formatMS))},
		worst >= float64(w.Requests-1), "attempts went to dead entries")
}

// socketsSection returns the section that compares runs on sockets with runs in virtual time, and Whirlpool with
// Envoy and HAProxy under the same faults.
func (d *Data) socketsSection() *section {
	s := &section{title: "A point of each curve on sockets", text: pointsText}
	header := []string{"workload", "oracle", "single attempt", "Whirlpool, virtual"}
	t := &table{header: append(header, d.Gateways...)}
	var differing []string
	for _, w := range workload.SocketWorkloads(d.Catalog) {
		o := d.Virtual[w.Name]
		virtual := servedShare(o[workload.Default])
		cells := []string{w.Name, formatShare(servedShare(o[workload.OracleName])),
			formatShare(servedShare(o[workload.Single])),
			formatShare(virtual)}
		for _, g := range d.Gateways {
			cells = append(cells, formatShare(d.served(w.Name, g)))
		}
		ours := servedShare(d.Sockets[w.Name][Whirlpool][0].Outcome)
		if ours.High < virtual.Low || ours.Low > virtual.High {
			differing = append(differing, w.Name)
		}
		t.addRow(cells...)
	}
	s.tables = append(s.tables, t)
	s.figures = append(s.figures, d.overview())
	s.judge(Criterion{ID: "SC-001", Workload: "all of this table", Where: "both",
		Target:   "sockets and virtual time agree",
		Measured: fmt.Sprintf("%d of %d agree", len(t.rows)-len(differing), len(t.rows))},
		len(differing) == 0, "apart: "+strings.Join(differing, "; "))
	hang := workload.SocketWorkloads(d.Catalog)[5].Name
	p95 := retriedP95(d.Sockets[hang][Whirlpool][0].Outcome)
	s.judge(Criterion{ID: "SC-003", Workload: hang, Where: "sockets", Target: "p95 of retried requests at most 0.5 s",
		Measured: formatMSInterval(p95)}, math.IsNaN(p95.Value) || p95.Value <= 500,
		fmt.Sprintf("%d requests were retried, those at the hanging proxy after its adaptive timeout",
			len(d.Sockets[hang][Whirlpool][0].RetriedLatencies())))
	dead := d.Sockets[workload.SocketWorkloads(d.Catalog)[6].Name][Whirlpool][0]
	share := stats.Wilson(dead.ServedWithin(2), dead.ServedCount())
	s.judge(Criterion{ID: "SC-010", Workload: dead.Workload, Where: "sockets",
		Target: "99 % of the successes within one retry", Measured: formatShare(share)}, share.Value >= 0.99,
		"dead proxies were chosen twice in a row")
	return s
}

// served returns the share of requests that a gateway served in all rounds; its value is NaN
// if the gateway did not take part.
func (d *Data) served(w, gateway string) stats.Interval {
	served, all := 0, 0
	for _, r := range d.Sockets[w][gateway] {
		served += r.ServedCount()
		all += len(r.Served)
	}
	return stats.Wilson(served, all)
}

// overview returns a figure that compares each gateway, a single attempt and the oracle by the share of requests that
// they served. The figure covers all kinds of faults and two of the bad pools.
func (d *Data) overview() figure {
	list := append(workload.SocketWorkloads(d.Catalog)[:len(workload.Kinds())], d.Catalog.ColdStart(),
		d.Catalog.Tunnels())
	var series []chart.Series
	for _, g := range d.Gateways {
		x := chart.Series{Name: g}
		for _, w := range list {
			x.Points = append(x.Points, point(d.served(w.Name, g), 100))
		}
		series = append(series, x)
	}
	for _, v := range []string{workload.Single, workload.OracleName} {
		x := chart.Series{Name: label(v)}
		for _, w := range list {
			share := stats.Wilson(0, 0) // empty for a workload that runs on sockets only
			if o := d.Virtual[w.Name][v]; o != nil {
				share = servedShare(o)
			}
			x.Points = append(x.Points, point(share, 100))
		}
		series = append(series, x)
	}
	var ticks []string
	for _, k := range workload.Kinds() {
		ticks = append(ticks, k.Name)
	}
	c := chart.Chart{
		Title: "Requests served, on the same faults", X: "faults", Y: "requests served, %",
		Ticks: append(ticks, "cold start", "cut tunnels"), Low: axisStart(series), High: 100, Target: math.NaN(),
		Series: series,
	}
	return figure{"overview", "Requests served by Whirlpool, Envoy, HAProxy, a single attempt and an oracle", c}
}

func (d *Data) sc006() *section {
	s := &section{title: "SC-006: overhead at 1,000 connections", text: sc006Text}
	t := &table{header: []string{"on : off", "median", "least", "greatest"}}
	row := func(name string, value func(sockets.Overhead) float64) float64 {
		var v []float64
		for _, o := range d.Overhead {
			v = append(v, value(o))
		}
		m := stats.Median(v)
		t.addRow(name, fmt.Sprintf("%.3f", m), fmt.Sprintf("%.3f", slices.Min(v)), fmt.Sprintf("%.3f", slices.Max(v)))
		return m
	}
	cpu := row("CPU time of a request", func(o sockets.Overhead) float64 { return o.CPU })
	row("requests per second", func(o sockets.Overhead) float64 { return o.Rate })
	s.tables = append(s.tables, t)
	s.judge(Criterion{ID: "SC-006", Workload: "1,000 connections", Where: "sockets",
		Target: "less than 5 % more CPU time",
		Measured: fmt.Sprintf("%+.1f %% (median of %d pairs, %.1f %% to %.1f %%)",
			append([]any{100 * (cpu - 1), len(d.Overhead)}, cpuDifferences(d.Overhead)...)...)}, cpu < 1.05,
		fmt.Sprintf("what these parts add to each attempt; the pairs differ by %.1f %% to %.1f %%",
			cpuDifferences(d.Overhead)...))
	return s
}

// cpuDifferences returns the smallest and the largest difference of CPU time, in percent.
func cpuDifferences(pairs []sockets.Overhead) []any {
	smallest, largest := math.Inf(1), math.Inf(-1)
	for _, o := range pairs {
		smallest, largest = min(smallest, 100*(o.CPU-1)), max(largest, 100*(o.CPU-1))
	}
	return []any{smallest, largest}
}

func (d *Data) sc007() *section {
	s := &section{title: "SC-007: queries over 24 hours", text: sc007Text}
	t := &table{header: []string{"query", "p99"}}
	worst := time.Duration(0)
	for _, q := range d.Queries {
		t.addRow(q.Name, formatMS(float64(q.P99)/float64(time.Millisecond)))
		worst = max(worst, q.P99)
	}
	s.tables = append(s.tables, t)
	s.judge(Criterion{ID: "SC-007", Workload: "24 h, 100 proxies", Where: "in process", Target: "p99 below 100 ms",
		Measured: "at most " + formatMS(float64(worst)/float64(time.Millisecond))}, worst < 100*time.Millisecond, "")
	return s
}

func (d *Data) sc009() *section {
	p := d.Policy
	s := &section{title: "SC-009: a changed policy is in force at once", text: sc009Text}
	t := &table{header: []string{"changes", "requests after a change", "under the policy before", "slowest change"}}
	t.addRow(formatCount(p.Changes), formatCount(p.Requests), formatCount(p.OldPolicy),
		formatMS(float64(p.Slowest)/float64(time.Millisecond)))
	s.tables = append(s.tables, t)
	s.judge(Criterion{ID: "SC-009", Workload: formatCount(p.Changes) + " changes", Where: "sockets",
		Target:   "no request under the policy before",
		Measured: fmt.Sprintf("%d of %s", p.OldPolicy, formatCount(p.Requests))}, p.OldPolicy == 0,
		"the policy took effect late")
	return s
}
