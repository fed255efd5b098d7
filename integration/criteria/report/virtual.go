//go:build linux

package report

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/chart"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/stats"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// The names of the variants in tables and charts.
var labels = map[string]string{
	workload.Default: "Whirlpool", workload.Single: "single attempt", workload.Rotation: "random rotation",
	workload.OracleName: "oracle",
}

func label(variant string) string {
	if l, ok := labels[variant]; ok {
		return l
	}
	return variant
}

// chartVariants lists the variants that the charts show.
var chartVariants = []string{workload.Default, workload.Single, workload.Rotation, workload.OracleName}

func point(i stats.Interval, scale float64) chart.Point {
	return chart.Point{Value: scale * i.Value, Low: scale * i.Low, High: scale * i.High}
}

// gap returns the effect of Whirlpool on a workload, as a share of the possible effect. The result is 0 if Whirlpool
// serves as many requests as a single attempt does. The result is 1 if Whirlpool serves as many requests as the oracle.
func (d *Data) gap(w string) stats.Interval { return d.gapOf(w, workload.Default) }

// gapOf is like gap, for the given variant.
func (d *Data) gapOf(w, variant string) stats.Interval {
	o := d.Virtual[w]
	return stats.Gap(o[workload.Single].Served, o[variant].Served, o[workload.OracleName].Served, d.Catalog.Seed)
}

// describeMiss returns a text about a workload whose gap is below the target: whether the gap of the variant
// workload.ObserverName is below the target, too, and which requests failed.
func (d *Data) describeMiss(w *workload.Workload) string {
	observer, verb := d.gapOf(w.Name, workload.ObserverName).Value, "reaches"
	if observer < gapTarget {
		verb = "reaches only"
	}
	why := fmt.Sprintf("the observer %s %s %%", verb, formatPercentage(100*observer))
	if losses := describeLosses(w, d.Virtual[w.Name]); losses != "" {
		why += "; " + losses
	}
	return why
}

// axisStart returns the lower end of a y axis for shares (%): a multiple of 10 below the smallest value.
func axisStart(series []chart.Series) float64 {
	smallest := 90.0
	for _, s := range series {
		for _, p := range s.Points {
			if !math.IsNaN(p.Value) {
				smallest = min(smallest, p.Value)
			}
		}
	}
	return max(math.Floor(smallest/10)*10, 0)
}

// detectionTime is the minimum time that a gateway needs to detect a change of a proxy's state.
const detectionTime = 2 * time.Second

// describeLosses returns a text about the requests that failed in the variant workload.Default: their number, by
// reason, and the number of proxies that failed when these requests began. The map runs has the outcomes of the
// workload w, by variant.
func describeLosses(w *workload.Workload, runs map[string]*workload.Outcome) string {
	o := runs[workload.Default]
	lost := len(o.Served) - o.ServedCount()
	if lost == 0 {
		return ""
	}
	maxAttempts, fewerAttempts := slices.Max(o.Attempts), 0
	for i, ok := range o.Served {
		if !ok && o.Attempts[i] < maxAttempts {
			fewerAttempts++
		}
	}
	fewerAttempts = max(fewerAttempts-o.AllBreakersOpen, 0)
	observer, oracle := runs[workload.ObserverName], runs[workload.OracleName]
	why := fmt.Sprintf("%s requests failed (the observer: %s, the oracle: %s)", formatCount(lost),
		formatCount(len(observer.Served)-observer.ServedCount()), formatCount(len(oracle.Served)-oracle.ServedCount()))
	separator := ": "
	for _, part := range []struct {
		n    int
		text string
	}{
		{o.AllBreakersOpen, "while every breaker was open"},
		{fewerAttempts, fmt.Sprintf("after fewer than %d attempts (a suspect target)", maxAttempts)},
		{lost - o.AllBreakersOpen - fewerAttempts, fmt.Sprintf("after %d attempts", maxAttempts)},
	} {
		if part.n > 0 {
			why += separator + formatCount(part.n) + " " + part.text
			separator = ", "
		}
	}
	failing, early := 0, 0
	for i, q := range w.Schedule() {
		if !o.Served[i] {
			n, since := w.Pool.CountFailing(q.Target, q.At)
			if failing += n; since < detectionTime {
				early++
			}
		}
	}
	return why + fmt.Sprintf("; at their targets %.1f of %d proxies failed in the mean, and %s of them began within "+
		"%v after a proxy had changed", float64(failing)/float64(lost), len(w.Pool), formatCount(early), detectionTime)
}

const gapTarget = 0.995

func (d *Data) sc001() *section {
	s := &section{title: "SC-001: success with retries, over a single attempt", text: sc001Text}
	t := &table{header: []string{"faults", "level", "single attempt", "random rotation", "Whirlpool", "oracle",
		"gain, points", "gain, relative", "share of the gap", "the observer's"}}
	for _, k := range workload.Kinds() {
		series := make([]chart.Series, len(chartVariants))
		var ticks []string
		worst, at, why := math.Inf(1), 0.0, ""
		for _, level := range k.Levels {
			work := k.Make(d.Catalog, level)
			w := work.Name
			o := d.Virtual[w]
			ticks = append(ticks, fmt.Sprintf("%g %%", 100*level))
			for i, v := range chartVariants {
				series[i].Name = label(v)
				series[i].Points = append(series[i].Points, point(servedShare(o[v]), 100))
			}
			single, ours := servedShare(o[workload.Single]), servedShare(o[workload.Default])
			gap := d.gap(w)
			if gap.Value < worst {
				worst, at, why = gap.Value, level, d.describeMiss(work)
			}
			t.addRow(k.Name, ticks[len(ticks)-1], formatShare(single), formatShare(servedShare(o[workload.Rotation])),
				formatShare(ours),
				formatShare(servedShare(o[workload.OracleName])), fmt.Sprintf("%+.1f", 100*(ours.Value-single.Value)),
				fmt.Sprintf("%+.1f %%", 100*(ours.Value/single.Value-1)), formatShare(gap),
				formatShare(d.gapOf(w, workload.ObserverName)))
		}
		s.figures = append(s.figures, figure{"sc001-" + slug(k.Name), "Requests served with " + k.Name + " faults",
			chart.Chart{
				Title: "SC-001, " + k.Name + ": requests served", X: k.Text, Y: "requests served, %", Ticks: ticks,
				Low: axisStart(series), High: 100, Target: math.NaN(), Series: series, Lines: true,
			}})
		s.judge(Criterion{ID: "SC-001", Workload: k.Name, Where: "virtual", Target: "99.5 % of the gap at each level",
			Measured: fmt.Sprintf("least %s %% at %g %%", formatPercentage(100*worst), 100*at)}, worst >= gapTarget,
			why)
	}
	pools := &table{header: []string{"pool of SC-005", "single attempt", "random rotation", "Whirlpool", "no breakers",
		"oracle", "share of the gap", "the observer's"}}
	for _, w := range d.Catalog.ChoiceWorkloads() {
		o, gap := d.Virtual[w.Name], d.gap(w.Name)
		pools.addRow(w.Name, formatShare(servedShare(o[workload.Single])),
			formatShare(servedShare(o[workload.Rotation])),
			formatShare(servedShare(o[workload.Default])), formatShare(servedShare(o["no breakers"])),
			formatShare(servedShare(o[workload.OracleName])), formatShare(gap),
			formatShare(d.gapOf(w.Name, workload.ObserverName)))
		s.judge(Criterion{ID: "SC-001", Workload: w.Name, Where: "virtual", Target: "99.5 % of the gap",
			Measured: formatShare(gap)}, gap.Value >= gapTarget, d.describeMiss(w))
	}
	s.tables = append(s.tables, t, pools)
	return s
}

func slug(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c == ' ' {
			b[i] = '-'
		}
	}
	return string(b)
}

func (d *Data) partsSection() *section {
	s := &section{title: "Each part turned off, hedging on", text: partsText}
	variants := append([]string{workload.Default}, workload.Parts()...)
	header := []string{"workload"}
	for _, v := range append(variants, workload.Rotation, workload.OracleName) {
		header = append(header, label(v))
	}
	shares, extra := &table{header: header}, &table{header: header}
	var names []string
	for _, k := range workload.Kinds() {
		names = append(names, k.Make(d.Catalog, workload.PartsLevel).Name)
	}
	for _, w := range d.Catalog.WaitWorkloads() {
		names = append(names, w.Name)
	}
	names = append(names, d.Catalog.DeadProxies().Name, d.twoFailing(1, workload.HotRate),
		d.twoFailing(1, workload.ColdRate))
	for _, name := range names {
		a, b := []string{name}, []string{name}
		for _, v := range append(variants, workload.Rotation, workload.OracleName) {
			o := d.Virtual[name][v]
			a = append(a, formatShare(servedShare(o)))
			b = append(b, fmt.Sprintf("%.3f; %s", float64(o.AttemptCount())/float64(len(o.Served)),
				formatMS(stats.Quantile(o.RetriedLatencies(), 0.95).Value)))
		}
		shares.addRow(a...)
		extra.addRow(b...)
	}
	s.tables = append(s.tables, shares)
	s.text += " The second table has attempts per request, and the 95th percentile of the latency of requests served " +
		"after a retry."
	s.tables = append(s.tables, extra)
	return s
}

func (d *Data) twoFailing(fails, rate float64) string {
	return d.Catalog.TwoFailing(fails, rate, 1).Name
}

func (d *Data) sc002() *section {
	s := &section{title: "SC-002: attempts on proxies that fail more than 70 %", text: sc002Text}
	t := &table{header: []string{"load", "failing", "random rotation", "breakers alone", "scorer alone", "Whirlpool",
		"change", "oracle"}}
	var series []chart.Series
	var ticks []string
	for _, f := range workload.FailingRates() {
		ticks = append(ticks, fmt.Sprintf("%g %%", 100*f))
	}
	for _, load := range []struct {
		name string
		rate float64
	}{{"hot", workload.HotRate}, {"cold", workload.ColdRate}} {
		on := chart.Series{Name: load.name + ", Whirlpool"}
		off := chart.Series{Name: load.name + ", random rotation"}
		worst, at := math.Inf(1), 0.0
		for _, fails := range workload.FailingRates() {
			o := d.Virtual[d.twoFailing(fails, load.rate)]
			with, without := o[workload.Default], o[workload.Rotation]
			n := len(with.Served)
			share := func(o *workload.Outcome) stats.Interval {
				return stats.Interval{Value: float64(o.BadAttempts) / float64(n),
					Low:  poissonBound(o.BadAttempts, -1) / float64(n),
					High: poissonBound(o.BadAttempts, 1) / float64(n)}
			}
			on.Points = append(on.Points, point(share(with), 100))
			off.Points = append(off.Points, point(share(without), 100))
			saved := 1 - float64(with.BadAttempts)/float64(without.BadAttempts)
			if saved < worst {
				worst, at = saved, fails
			}
			r := stats.Ratio(with.BadAttempts, without.BadAttempts)
			t.addRow(load.name, fmt.Sprintf("%g %%", 100*fails), formatCount(without.BadAttempts),
				formatCount(o["random scorers"].BadAttempts),
				formatCount(o["no breakers"].BadAttempts), formatCount(with.BadAttempts),
				fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", 100*(r.Value-1), 100*(r.Low-1), 100*(r.High-1)),
				formatCount(o[workload.OracleName].BadAttempts))
		}
		series = append(series, on, off)
		s.judge(Criterion{ID: "SC-002", Where: "virtual",
			Workload: "two of eight failing, " + load.name + ", beside random rotation",
			Target:   "80 % fewer attempts on them at each level",
			Measured: fmt.Sprintf("least %.1f %% fewer, at %g %%", 100*worst, 100*at)}, worst >= 0.8,
			"a breaker opens after at least 5 failures within 60 s, more than such a proxy has; and an avoided proxy "+
				"is tried again every 30 s, so that it is in use soon after it recovers")
	}
	s.tables = append(s.tables, t)
	top := 0.0
	for _, x := range series {
		for _, p := range x.Points {
			top = max(top, p.High)
		}
	}
	s.figures = append(s.figures, figure{"sc002", "Attempts on failing proxies, beside random rotation", chart.Chart{
		Title: "SC-002: attempts on two failing proxies of eight", X: "attempts that fail through these two",
		Y: "attempts on them per 100 requests", Ticks: ticks, High: math.Ceil(top/5) * 5, Target: math.NaN(),
		Series: series, Lines: true,
	}})
	lost := &table{header: []string{"random errors of all proxies", "breakers opened",
		"time that healthy proxies were not admitted", "requests served"}}
	worst := 0.0
	for _, level := range workload.NoiseLevels() {
		o := d.Virtual[d.Catalog.Noise(level, workload.NoiseRate).Name][workload.Default]
		worst = max(worst, o.HealthyExcluded)
		lost.addRow(fmt.Sprintf("%g %%", 100*level), formatCount(o.Openings),
			fmt.Sprintf("%.3f %%", 100*o.HealthyExcluded),
			formatShare(servedShare(o)))
	}
	s.tables = append(s.tables, lost)
	s.judge(Criterion{ID: "SC-002", Workload: fmt.Sprintf("healthy pool, random errors, %g/s", workload.NoiseRate),
		Where: "virtual", Target: "healthy proxies excluded for less than 0.1 % of the time",
		Measured: fmt.Sprintf("at most %.3f %%", 100*worst)}, worst < 0.001, "breakers opened because of random errors")
	return s
}

// poissonBound returns one end of the 95 % interval of a count (side is -1 or 1). It uses the square root
// transform.
func poissonBound(n, side int) float64 {
	root := max(math.Sqrt(float64(n))+float64(side)*0.98, 0)
	return root * root
}

// waitWorkloads returns the names of the workloads of SC-003.
func (d *Data) waitWorkloads() (names []string) {
	for _, w := range d.Catalog.WaitWorkloads() {
		names = append(names, w.Name)
	}
	return append(names, workload.Kinds()[3].Make(d.Catalog, workload.PartsLevel).Name)
}

func retriedP95(o *workload.Outcome) stats.Interval {
	return stats.Quantile(o.RetriedLatencies(), 0.95)
}

func (d *Data) sc003() *section {
	s := &section{title: "SC-003: latency of requests that were served after a retry", text: sc003Text}
	variants := []string{workload.Default, "no adaptive timeout", workload.Rotation, workload.OracleName}
	header := []string{"workload", "requests with a retry"}
	series := make([]chart.Series, len(variants))
	for i, v := range variants {
		header = append(header, label(v))
		series[i].Name = label(v)
	}
	t := &table{header: append(header, "Whirlpool, all requests, p99")}
	top := 0.0
	for _, name := range d.waitWorkloads() {
		o := d.Virtual[name]
		retried := len(o[workload.Default].RetriedLatencies())
		cells := []string{name, formatCount(retried)}
		for i, v := range variants {
			p95 := retriedP95(o[v])
			cells = append(cells, formatMSInterval(p95))
			series[i].Points = append(series[i].Points, point(p95, 0.001))
			if p95.High > 0 {
				top = max(top, p95.High/1000)
			}
		}
		all := stats.Quantile(slices.Clone(o[workload.Default].Latency), 0.99)
		t.addRow(append(cells, formatMSInterval(all))...)
		p95 := retriedP95(o[workload.Default])
		c := Criterion{ID: "SC-003", Workload: name, Where: "virtual", Target: "p95 below 5 s",
			Measured: formatMSInterval(p95)}
		limit := 5000.0
		if name == d.Catalog.WaitWorkloads()[0].Name {
			c.Target, limit = "p95 at most 0.5 s", 500
		}
		s.judge(c, p95.Value <= limit, fmt.Sprintf("%s of %s retried requests waited for a proxy that hung, or for a "+
			"backoff", formatCount(countAbove(o[workload.Default].RetriedLatencies(), limit)), formatCount(retried)))
	}
	s.tables = append(s.tables, t)
	s.figures = append(s.figures, figure{"sc003", "95th percentile of the latency of retried requests", chart.Chart{
		Title: "SC-003: latency of requests served after a retry", X: "", Y: "95th percentile, s",
		Ticks: d.waitWorkloads(), High: math.Ceil(top), Target: 0.5, Series: series,
	}})
	return s
}

func countAbove(values []float64, limit float64) (n int) {
	for _, v := range values {
		if v > limit {
			n++
		}
	}
	return n
}

func (d *Data) sc004() *section {
	name := d.Catalog.FailingInTurn().Name
	o := d.Virtual[name]
	s := &section{title: "SC-004: from a breach of the threshold to the exclusion", text: sc004Text}
	t := &table{header: []string{"", "deaths with an opening", "from death to opening, median", "p95",
		"from the fifth failure to opening, median", "p95", "attempts while open"}}
	late := 0
	for _, v := range []string{workload.Default, "no reachability checks"} {
		x, breach := slices.Clone(o[v].ExclusionTimes), slices.Clone(o[v].BreachDelays)
		late += o[v].LateAttempts
		t.addRow(label(v), formatCount(len(x)), formatMS(1000*stats.Quantile(x, 0.5).Value),
			formatMS(1000*stats.Quantile(x, 0.95).Value),
			formatMS(1000*stats.Quantile(breach, 0.5).Value), formatMS(1000*stats.Quantile(breach, 0.95).Value),
			formatCount(o[v].LateAttempts))
	}
	for _, o := range d.Virtual {
		for v, run := range o {
			if v != workload.ObserverName && v != workload.OracleName && run.Workload != name {
				late += run.LateAttempts
			}
		}
	}
	s.tables = append(s.tables, t)
	s.judge(Criterion{ID: "SC-004", Workload: "all runs in virtual time", Where: "virtual",
		Target: "no attempt begins while its breaker is open", Measured: formatCount(late) + " attempts"}, late == 0,
		"attempts were admitted by open breakers")
	p95 := 1000 * stats.Quantile(slices.Clone(o[workload.Default].BreachDelays), 0.95).Value
	s.judge(Criterion{ID: "SC-004", Workload: name, Where: "virtual",
		Target: "excluded within 1 s of the fifth failure", Measured: "p95 " + formatMS(p95)}, p95 <= 1000,
		"evidence grows with failures that other proxies do not have: some deaths needed more than five")
	return s
}

func firstRetryShare(o *workload.Outcome) stats.Interval { return stats.Wilson(o.FirstRetries()) }

func (d *Data) sc005() *section {
	s := &section{title: "SC-005: success of the first retry, over a random choice", text: sc005Text}
	variants := []string{workload.Default, "no breakers", "random scorers", workload.Rotation, workload.OracleName}
	header := []string{"pool"}
	series := make([]chart.Series, len(variants))
	for i, v := range variants {
		header = append(header, label(v))
		series[i].Name = label(v)
	}
	t := &table{header: append(header, "over random, relative", "all requests served: Whirlpool", "oracle")}
	var ticks []string
	for _, w := range d.Catalog.ChoiceWorkloads() {
		o := d.Virtual[w.Name]
		ticks = append(ticks, w.Name)
		cells := []string{w.Name}
		for i, v := range variants {
			share := firstRetryShare(o[v])
			cells = append(cells, formatShare(share))
			series[i].Points = append(series[i].Points, point(share, 100))
		}
		ours, random := firstRetryShare(o[workload.Default]), firstRetryShare(o[workload.Rotation])
		best := firstRetryShare(o[workload.OracleName])
		gain := ours.Value/random.Value - 1
		t.addRow(append(cells, fmt.Sprintf("%+.1f %%", 100*gain), formatShare(servedShare(o[workload.Default])),
			formatShare(servedShare(o[workload.OracleName])))...)
		if w.Name == "equal" {
			s.judge(Criterion{ID: "SC-005", Workload: w.Name, Where: "virtual", Target: "not below a random choice",
				Measured: fmt.Sprintf("%+.1f %%", 100*gain)}, ours.High >= random.Low, "")
			continue
		}
		s.judge(Criterion{ID: "SC-005", Workload: w.Name, Where: "virtual",
			Target:   "20 % over a random choice, or 95 % of the oracle's",
			Measured: fmt.Sprintf("%+.1f %%: %s, the oracle %s", 100*gain, formatShare(ours), formatShare(best))},
			gain >= 0.2 || ours.Value >= 0.95*best.Value,
			"right after each swap the statistics are those of the roles before")
	}
	s.tables = append(s.tables, t)
	s.figures = append(s.figures, figure{"sc005", "First retries that succeed, by pool", chart.Chart{
		Title: "SC-005: first retries that succeed", X: "pool", Y: "first retries that succeed, %", Ticks: ticks,
		Low: axisStart(series), High: 100, Target: math.NaN(), Series: series,
	}})
	return s
}

func (d *Data) sc010() *section {
	s := &section{title: "SC-010: successes within one and two retries", text: sc010Text}
	t := &table{header: []string{"workload", "gateway", "served", "within one retry, of those", "within two"}}
	var series []chart.Series
	for _, w := range []*workload.Workload{d.Catalog.DeadProxies(), d.Catalog.EqualProxies(0.5)} {
		for _, v := range []string{workload.Default, workload.Rotation, workload.OracleName} {
			o := d.Virtual[w.Name][v]
			within := func(n int) stats.Interval { return stats.Wilson(o.ServedWithin(n), o.ServedCount()) }
			t.addRow(w.Name, label(v), formatShare(servedShare(o)), formatShare(within(2)), formatShare(within(3)))
			if w.Name == d.Catalog.DeadProxies().Name {
				x := chart.Series{Name: label(v)}
				for n := 1; n <= 5; n++ {
					x.Points = append(x.Points, point(within(n), 100))
				}
				series = append(series, x)
			}
		}
	}
	o := d.Virtual[d.Catalog.DeadProxies().Name][workload.Default]
	share := stats.Wilson(o.ServedWithin(2), o.ServedCount())
	s.judge(Criterion{ID: "SC-010", Workload: d.Catalog.DeadProxies().Name, Where: "virtual",
		Target: "99 % of the successes within one retry", Measured: formatShare(share)}, share.Value >= 0.99,
		"dead proxies were chosen twice in a row")
	s.tables = append(s.tables, t)
	s.figures = append(s.figures, figure{"sc010", "Requests served by number of attempts", chart.Chart{
		Title: "SC-010: three of ten proxies are dead", X: "attempts", Y: "of the successes, %",
		Ticks: []string{"1", "2", "3", "4", "5"}, Low: axisStart(series), High: 100, Target: 99,
		Series: series, Lines: true,
	}})
	return s
}

func (d *Data) sc008() *section {
	o := d.Virtual[d.Catalog.AllInFlight().Name][workload.Default]
	s := &section{title: "SC-008: 10,000 requests at once", text: sc008Text}
	t := &table{header: []string{"in flight", "served", "attempts", "counts agree"}}
	t.addRow(formatCount(len(o.Served)), formatShare(servedShare(o)), formatCount(o.AttemptCount()),
		yesOrNo(o.Reconciled))
	s.tables = append(s.tables, t)
	s.judge(Criterion{ID: "SC-008", Workload: formatCount(len(o.Served)) + " in flight", Where: "virtual",
		Target: "every request ends, counts agree", Measured: formatShare(servedShare(o)) + " served, counts agree: " +
			yesOrNo(o.Reconciled)}, o.Reconciled, "the gateway's counts differ from the clients'")
	return s
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
