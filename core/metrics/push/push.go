// Package push sends the metrics of /metrics at intervals to a statsd server, to an M3 collector, or to both, through
// tally's reporters. A counter is sent as its growth since the last push.
package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// Settings are the settings of a Pusher. The Pusher is off if both addresses are "".
type Settings struct {
	Interval time.Duration // from one push to the next; above 0

	Statsd       string // host:port, by UDP; "" for none
	StatsdPrefix string // prefix of all names

	M3        string // host:port of an M3 collector, by UDP; "" for none
	M3Service string // the tag service; not empty
	M3Env     string // the tag env; not empty
}

func (s *Settings) isOn() bool { return s.Statsd != "" || s.M3 != "" }

// CheckAddress returns an error unless an address has the form host:port.
func CheckAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
		return errors.New("must be host:port, such as 127.0.0.1:8125")
	}
	return nil
}

// Gather returns the metrics of the process. Metric families whose name does not begin with "whirlpool_" are not
// pushed.
type Gather func() ([]*dto.MetricFamily, error)

// Pusher sends metrics to a server in the background. It has no goroutine while it is off.
type Pusher struct {
	gather Gather
	log    *slog.Logger

	mu       sync.Mutex // guards the fields below
	settings Settings
	stop     func() // ends the goroutine with a last push; nil while the Pusher is off
}

// New returns a Pusher that is off until Configure.
func New(gather Gather, log *slog.Logger) *Pusher { return &Pusher{gather: gather, log: log} }

// Configure changes the settings. The first push with the new settings sends the growth of counters since this call.
func (p *Pusher) Configure(s Settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s == p.settings {
		return
	}
	p.stopRun()
	p.settings = s
	if !s.isOn() {
		return
	}
	r := &run{settings: s, gather: p.gather, log: p.log}
	r.push(nil) // begins to count the growth of counters
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.loop(ctx) })
	p.stop = func() {
		cancel()
		running.Wait()
	}
}

// Close pushes once more, if the Pusher is on, and ends it.
func (p *Pusher) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopRun()
	p.settings = Settings{}
}

// stopRun ends the goroutine. The caller holds mu.
func (p *Pusher) stopRun() {
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
}

// run is the state of the goroutine that pushes with one set of settings.
type run struct {
	settings Settings
	gather   Gather
	log      *slog.Logger

	hasPushed  bool
	lastValues map[string]float64 // the values of counters at the last push
}

// loop pushes until ctx ends. It opens the sinks again after each push, so that host names are resolved again and the
// reporters keep no series of proxies that have left the pool.
func (r *run) loop(ctx context.Context) {
	tick := time.NewTicker(r.settings.Interval)
	defer tick.Stop()
	sinks := r.open()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.push(sinks)
			closeAll(sinks)
			return
		}
		r.push(sinks)
		closeAll(sinks)
		sinks = r.open()
	}
}

// sink sends metrics to one server. The method close sends the metrics that are still buffered.
type sink interface {
	count(name string, labels []*dto.LabelPair, growth int64)
	gauge(name string, labels []*dto.LabelPair, value float64)
	// The method samples adds n observations to the bucket of a histogram that begins above lower and includes upper.
	// Each of these two bounds is an element of bounds, or infinite.
	samples(name string, labels []*dto.LabelPair, bounds []float64, lower, upper float64, n int64)
	close()
}

func (r *run) open() (sinks []sink) {
	add := func(kind, address string, open func(*Settings) (sink, error)) {
		if address == "" {
			return
		}
		s, err := open(&r.settings)
		if err != nil {
			r.log.Warn("metrics are not sent to "+kind, slog.String("address", address), slog.Any("error", err))
			return
		}
		sinks = append(sinks, s)
	}
	add("statsd", r.settings.Statsd, openStatsd)
	add("M3", r.settings.M3, openM3)
	return sinks
}

func closeAll(sinks []sink) {
	for _, s := range sinks {
		s.close()
	}
}

// push sends the metrics to all sinks.
func (r *run) push(sinks []sink) {
	families, err := r.gather()
	if err != nil {
		r.log.Warn("metrics are not sent", slog.Any("error", err))
		return
	}
	values := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "whirlpool_") {
			continue
		}
		for _, m := range f.GetMetric() {
			out := series{r, values, sinks, f.GetName(), m.GetLabel()}
			out.metric(m)
		}
	}
	r.hasPushed, r.lastValues = true, values
}

// series is one metric of a family.
type series struct {
	run    *run
	values map[string]float64 // of the counters, for the next push
	sinks  []sink
	name   string
	labels []*dto.LabelPair
}

func (s *series) metric(m *dto.Metric) {
	switch {
	case m.Counter != nil:
		s.counter("", m.Counter.GetValue())
	case m.Gauge != nil:
		s.gauge(m.Gauge.GetValue())
	case m.Untyped != nil:
		s.gauge(m.Untyped.GetValue())
	case m.Summary != nil:
		s.counter("_count", float64(m.Summary.GetSampleCount()))
		s.counter("_sum", m.Summary.GetSampleSum())
	case m.Histogram != nil:
		s.histogram(m.Histogram)
	}
}

func (s *series) gauge(value float64) {
	for _, sink := range s.sinks {
		sink.gauge(s.name, s.labels, value)
	}
}

// The method counter sends the integer part of a counter's growth. The fraction is sent with a later push.
func (s *series) counter(suffix string, value float64) {
	if n := s.growth(suffix, value); n != 0 {
		for _, sink := range s.sinks {
			sink.count(s.name+suffix, s.labels, n)
		}
	}
}

// The method histogram sends the growth of each bucket of a histogram. A bucket of Prometheus also counts the
// observations of all lower buckets; a bucket of tally does not.
func (s *series) histogram(h *dto.Histogram) {
	bounds := make([]float64, len(h.GetBucket()))
	for i, b := range h.GetBucket() {
		bounds[i] = b.GetUpperBound()
	}
	lower, below := math.Inf(-1), uint64(0)
	bucket := func(upper float64, total uint64) {
		n := s.growth(fmt.Sprint("\x00", upper), float64(total-below))
		if n != 0 {
			for _, sink := range s.sinks {
				sink.samples(s.name, s.labels, bounds, lower, upper, n)
			}
		}
		lower, below = upper, total
	}
	for _, b := range h.GetBucket() {
		bucket(b.GetUpperBound(), b.GetCumulativeCount())
	}
	bucket(math.Inf(1), h.GetSampleCount())
	s.counter("_sum", h.GetSampleSum())
}

// growth returns the integer part of a counter's growth since the last push. In the first push of a run, it returns 0.
// If the counter did not exist at the last push, growth returns the integer part of the counter's value.
func (s *series) growth(suffix string, value float64) int64 {
	key := s.name + suffix
	for _, l := range s.labels {
		key += "\x00" + l.GetName() + "\x00" + l.GetValue()
	}
	last := s.run.lastValues[key]
	if !s.run.hasPushed {
		last = value
	}
	if value < last { // the counter has begun again at a lower value
		last = 0
	}
	n := math.Floor(value - last)
	s.values[key] = last + n
	return int64(n)
}
