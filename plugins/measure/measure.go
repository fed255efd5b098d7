// Package measure measures how long the calls of a plugin and of a built-in of the same kind take. A run calls both
// alternately, so that other load on the machine slows down both. `whirlpool plugin bench` uses it.
package measure

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Options are the options of a run.
type Options struct {
	Config    map[string]any // settings of the plugin
	Now       func() time.Time
	RoundTime time.Duration     // duration of one measurement; each figure is the median of Rounds measurements
	Rounds    int               // >= 1
	Progress  func(step string) // called before each step; may be nil
}

// The defaults of Options.RoundTime and Options.Rounds. With these defaults, a run takes less than ten seconds.
const (
	DefaultRounds = 5
	DefaultRound  = 150 * time.Millisecond
)

// Report is the result of a run.
type Report struct {
	Kind       wasmhost.Kind `json:"kind"`
	Builtin    string        `json:"builtin"`      // the built-in that the plugin is compared with
	LoadMillis float64       `json:"load_ms"`      // time to load the module, up to its first call
	Pages      uint32        `json:"memory_pages"` // memory of an instance after the largest call, in pages of 64 KiB
	Rows       []Row         `json:"calls"`
	// FuelPerCandidate is the fuel for each candidate after the first. It is set only for scorers.
	FuelPerCandidate float64 `json:"fuel_per_candidate,omitempty"`
}

// Row is the result of calls with a certain number of candidates. A backoff or a judge has one row, with 0 candidates.
type Row struct {
	Candidates int     `json:"candidates,omitempty"`
	Nanos      float64 `json:"ns_per_call"`
	Builtin    float64 `json:"builtin_ns_per_call"`
	Ratio      float64 `json:"ratio"`      // Nanos / Builtin
	Fuel       int64   `json:"fuel"`       // fuel that one call uses
	FuelLimit  int64   `json:"fuel_limit"` // fuel limit of one call
	Error      string  `json:"error,omitempty"`
}

// candidateCounts are the numbers of candidates for which a scorer is timed.
var candidateCounts = []int{1, 10, 100, 1000}

type measuredModule struct {
	module *wasmhost.Module
	probe  *wasmhost.Probe
}

// Run measures a module. The error is a *wasmhost.CheckError if the module does not load.
func Run(host *wasmhost.Host, code []byte, o Options) (Report, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	o.Progress("load")
	start := o.Now()
	plugin, err := loadModule(host, code, o.Config)
	if err != nil {
		return Report{}, err
	}
	defer plugin.close()
	r := Report{Kind: plugin.module.Description().Kind, LoadMillis: float64(o.Now().Sub(start)) / 1e6,
		Builtin: "performance"}
	var config map[string]any // settings of the built-in; nil for none
	switch r.Kind {
	case wasmhost.Backoff:
		r.Builtin = "exponential"
	case wasmhost.Judge:
		r.Builtin, config = "ban_like", map[string]any{"body": "captcha"}
	}
	builtIn, err := loadModule(host, builtin.Modules()[r.Builtin], config)
	if err != nil {
		return Report{}, fmt.Errorf("built-in %s: %w", r.Builtin, err)
	}
	defer builtIn.close()
	switch r.Kind {
	case wasmhost.Backoff:
		o.Progress("backoff")
		r.Rows = append(r.Rows, measureRow(o, plugin, builtIn, 0, backoffCall()))
	case wasmhost.Judge:
		o.Progress("judge")
		r.Rows = append(r.Rows, measureRow(o, plugin, builtIn, 0, judgeCall()))
	default:
		for _, n := range candidateCounts {
			o.Progress(fmt.Sprintf("%d candidates", n))
			r.Rows = append(r.Rows, measureRow(o, plugin, builtIn, n, scorerCall(n)))
		}
		first := r.Rows[0]
		for _, last := range r.Rows[1:] {
			if first.Error == "" && last.Error == "" {
				r.FuelPerCandidate = float64(last.Fuel-first.Fuel) / float64(last.Candidates-first.Candidates)
			}
		}
	}
	r.Pages = plugin.probe.Pages()
	return r, nil
}

func loadModule(host *wasmhost.Host, code []byte, config map[string]any) (*measuredModule, error) {
	m, err := host.Load(code, config)
	if err != nil {
		return nil, err
	}
	p, err := m.Probe()
	if err != nil {
		m.Close()
		return nil, err
	}
	return &measuredModule{m, p}, nil
}

func (m *measuredModule) close() {
	m.probe.Close()
	m.module.Close()
}

// callUnderTest makes one call in two ways: as the gateway makes it, and through a probe, which measures the fuel.
type callUnderTest struct {
	callModule func(*wasmhost.Module) error
	callProbe  func(*wasmhost.Probe) error
}

func scorerCall(n int) callUnderTest {
	c, scores := sample.PlausibleChoice(n), make([]float64, n)
	return callUnderTest{
		func(m *wasmhost.Module) error { return m.Score(c, scores) },
		func(p *wasmhost.Probe) error { return p.Score(c, scores) },
	}
}

// backoffCall returns a call that asks for the delay before the third retry under a plausible policy.
func backoffCall() callUnderTest {
	q := sample.BackoffSamples()[2].Request
	return callUnderTest{
		func(m *wasmhost.Module) error { _, err := m.Delay(&q); return err },
		func(p *wasmhost.Probe) error { _, err := p.Delay(&q); return err },
	}
}

// judgeCall returns a call that asks for the ruling on a response with a long body.
func judgeCall() callUnderTest {
	r := sample.Responses()[0]
	return callUnderTest{
		func(m *wasmhost.Module) error { _, err := m.Rule(r.ForJudge(m.ExcerptSpec())); return err },
		func(p *wasmhost.Probe) error { _, err := p.Rule(r.ForJudge(p.ExcerptSpec())); return err },
	}
}

func measureRow(o Options, plugin, builtIn *measuredModule, n int, call callUnderTest) Row {
	r := Row{Candidates: n, FuelLimit: plugin.module.Limits().Fuel + int64(n)*wasmhost.FuelPerCandidate}
	fail := func(err error) Row {
		return Row{Candidates: n, FuelLimit: r.FuelLimit, Error: err.Error()}
	}
	for range 2 { // the first call may have to reserve memory
		if err := call.callProbe(plugin.probe); err != nil {
			return fail(err)
		}
	}
	r.Fuel = r.FuelLimit - plugin.probe.Fuel()
	var pluginTimes, builtInTimes []float64
	for range o.Rounds {
		t, err := timePerCall(o, func() error { return call.callModule(plugin.module) })
		if err != nil {
			return fail(err)
		}
		u, err := timePerCall(o, func() error { return call.callModule(builtIn.module) })
		if err != nil {
			return fail(err)
		}
		pluginTimes, builtInTimes = append(pluginTimes, t), append(builtInTimes, u)
	}
	r.Nanos, r.Builtin = median(pluginTimes), median(builtInTimes)
	if r.Builtin > 0 {
		r.Ratio = r.Nanos / r.Builtin
	}
	return r
}

// timePerCall calls f again and again for one round, and returns the time of one call in ns. It reads the clock once
// for many calls, so that the readings take little of the measured time.
func timePerCall(o Options, f func() error) (float64, error) {
	batch, calls := 1, 0
	begin := o.Now()
	for {
		for range batch {
			if err := f(); err != nil {
				return 0, err
			}
		}
		calls += batch
		spent := o.Now().Sub(begin)
		if spent >= o.RoundTime {
			return float64(spent) / float64(calls), nil
		}
		if spent < o.RoundTime/20 {
			batch *= 2
		}
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// Write writes the report as text.
func (r Report) Write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "candidates\tns/call\t%s\tratio\tfuel\tof its limit\t\n", r.Builtin)
	for _, row := range r.Rows {
		n := "-"
		if row.Candidates > 0 {
			n = fmt.Sprint(row.Candidates)
		}
		if row.Error != "" {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\t  %s\n", n, row.Error)
			continue
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t%d\t%.2f %%\t\n", n, row.Nanos, row.Builtin, row.Ratio, row.Fuel,
			100*float64(row.Fuel)/float64(row.FuelLimit))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	last := ""
	if r.Kind == wasmhost.Scorer {
		last = fmt.Sprintf("%.1f fuel a candidate; ", r.FuelPerCandidate)
	}
	_, err := fmt.Fprintf(out, "%sloaded in %.1f ms; %d pages of memory an instance\n", last, r.LoadMillis, r.Pages)
	return err
}
