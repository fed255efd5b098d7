// Package output keeps the output of a plugin: its last log lines and its metrics.
package output

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// The limits on the output that is kept of a plugin.
const (
	MaxLines   = 100 // the newest lines are kept
	MaxMetrics = 20  // metric names; values of any other name are dropped
)

// A plugin may write up to burst lines at once, and perSecond lines a second in the long run. Further lines are counted
// but not kept.
const (
	maxBurst       = 100
	linesPerSecond = 20
)

// Line is one line of a plugin's log.
type Line struct {
	Number uint64 // 1 for the plugin's first line; lines that are not kept have no number
	At     time.Time
	Level  wasmhost.Level
	Text   string
}

// String returns the line as commands print it: its level and its text.
func (l Line) String() string { return fmt.Sprintf("%-5s  %s", l.Level, l.Text) }

// Metric is one metric of a plugin.
type Metric struct {
	Name  string
	Kind  wasmhost.MetricKind
	Value float64
}

// Output holds the output of one plugin. The output remains when the plugin's module is replaced. Output is safe for
// concurrent use.
type Output struct {
	now    func() time.Time
	onLine func(Line) // nil for none; called for each line that is kept, under mu

	mu                sync.Mutex // guards the fields below
	lines             []Line     // the last MaxLines
	lastNumber        uint64
	tokens            float64 // number of lines that may be written now
	lastRefill        time.Time
	droppedLines      int // lines dropped since the last line that was kept
	metrics           map[string]*Metric
	metricLimitLogged bool // a metric beyond MaxMetrics has been logged
}

var _ wasmhost.Output = (*Output)(nil)

// New returns an empty output. The function onLine may be nil; it must return soon, and must not call the output.
func New(now func() time.Time, onLine func(Line)) *Output {
	return &Output{now: now, onLine: onLine, tokens: maxBurst, lastRefill: now(), metrics: map[string]*Metric{}}
}

// Log implements wasmhost.Output.
func (o *Output) Log(level wasmhost.Level, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log(level, text)
}

// The caller of log holds mu.
func (o *Output) log(level wasmhost.Level, text string) {
	now := o.now()
	o.tokens = min(maxBurst, o.tokens+linesPerSecond*now.Sub(o.lastRefill).Seconds())
	o.lastRefill = now
	if o.tokens < 1 {
		o.droppedLines++
		return
	}
	o.tokens--
	if o.droppedLines > 0 {
		o.addLine(Line{At: now, Level: wasmhost.LevelWarn,
			Text: fmt.Sprintf("%d lines were not kept: at most %d a second are", o.droppedLines, linesPerSecond)})
		o.droppedLines = 0
	}
	o.addLine(Line{At: now, Level: level, Text: text})
}

func (o *Output) addLine(l Line) {
	o.lastNumber++
	l.Number = o.lastNumber
	if len(o.lines) == MaxLines {
		o.lines = append(o.lines[:0], o.lines[1:]...)
	}
	o.lines = append(o.lines, l)
	if o.onLine != nil {
		o.onLine(l)
	}
}

// Lines returns the lines whose number is greater than the parameter afterNumber, the oldest first.
func (o *Output) Lines(afterNumber uint64) []Line {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := slices.IndexFunc(o.lines, func(l Line) bool { return l.Number > afterNumber })
	if at < 0 {
		return []Line{}
	}
	return slices.Clone(o.lines[at:])
}

// Metric implements wasmhost.Output. A metric keeps the kind of its first value.
func (o *Output) Metric(kind wasmhost.MetricKind, name []byte, value float64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := o.metrics[string(name)]
	switch {
	case m != nil:
	case len(o.metrics) < MaxMetrics:
		m = &Metric{Name: string(name), Kind: kind}
		o.metrics[m.Name] = m
	default:
		if !o.metricLimitLogged {
			o.metricLimitLogged = true
			o.log(wasmhost.LevelWarn, fmt.Sprintf("the metric %s is not taken: a plugin has at most %d", string(name),
				MaxMetrics))
		}
		return
	}
	if m.Kind == wasmhost.Counter {
		m.Value += max(value, 0)
	} else {
		m.Value = value
	}
}

// Metrics returns the metrics, sorted by name.
func (o *Output) Metrics() []Metric {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make([]Metric, 0, len(o.metrics))
	for _, name := range slices.Sorted(maps.Keys(o.metrics)) {
		all = append(all, *o.metrics[name])
	}
	return all
}
