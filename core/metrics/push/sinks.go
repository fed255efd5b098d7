package push

import (
	"math"
	"strings"
	"time"

	"github.com/cactus/go-statsd-client/v5/statsd"
	dto "github.com/prometheus/client_model/go"
	"github.com/uber-go/tally/v4"
	"github.com/uber-go/tally/v4/m3"
	tallystatsd "github.com/uber-go/tally/v4/statsd"
)

// maxPacket is the maximum payload of a packet, in bytes. It is the value in tally's documentation; such a packet
// fits into one Ethernet frame.
const maxPacket = 1440

// statsdSink appends the values of the labels to the name of a metric, since statsd has no labels:
// whirlpool.requests_total.http.success.
type statsdSink struct {
	reporter tally.StatsReporter
	client   statsd.Statter
}

func openStatsd(s *Settings) (sink, error) {
	client, err := statsd.NewClientWithConfig(&statsd.ClientConfig{
		Address: s.Statsd, Prefix: s.StatsdPrefix, UseBuffered: true, FlushInterval: time.Second, FlushBytes: maxPacket,
	})
	if err != nil {
		return nil, err
	}
	return &statsdSink{tallystatsd.NewReporter(client, tallystatsd.Options{}), client}, nil
}

func (s *statsdSink) count(name string, labels []*dto.LabelPair, growth int64) {
	s.reporter.ReportCounter(statsdName(name, labels), nil, growth)
}

func (s *statsdSink) gauge(name string, labels []*dto.LabelPair, value float64) {
	s.reporter.ReportGauge(statsdName(name, labels), nil, value)
}

func (s *statsdSink) samples(name string, labels []*dto.LabelPair, bounds []float64, lower, upper float64, n int64) {
	s.reporter.ReportHistogramValueSamples(statsdName(name, labels), nil, tally.ValueBuckets(bounds), finite(lower),
		finite(upper), n)
}

func (s *statsdSink) close() { s.client.Close() }

// statsdName appends the values of labels to a name. It replaces characters that have a meaning for statsd or Graphite.
func statsdName(name string, labels []*dto.LabelPair) string {
	var b strings.Builder
	b.WriteString(strings.TrimPrefix(name, "whirlpool_"))
	for _, l := range labels {
		if l.GetValue() == "" {
			continue
		}
		b.WriteByte('.')
		b.WriteString(strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
				return r
			}
			return '_'
		}, l.GetValue()))
	}
	return b.String()
}

// m3Sink writes labels as tags.
type m3Sink struct{ reporter m3.Reporter }

func openM3(s *Settings) (sink, error) {
	reporter, err := m3.NewReporter(m3.Options{
		HostPorts: []string{s.M3}, Service: s.M3Service, Env: s.M3Env, IncludeHost: true, MaxPacketSizeBytes: maxPacket,
	})
	if err != nil {
		return nil, err
	}
	return &m3Sink{reporter}, nil
}

func (s *m3Sink) count(name string, labels []*dto.LabelPair, growth int64) {
	s.reporter.AllocateCounter(name, tags(labels)).ReportCount(growth)
}

func (s *m3Sink) gauge(name string, labels []*dto.LabelPair, value float64) {
	s.reporter.AllocateGauge(name, tags(labels)).ReportGauge(value)
}

func (s *m3Sink) samples(name string, labels []*dto.LabelPair, bounds []float64, lower, upper float64, n int64) {
	s.reporter.AllocateHistogram(name, tags(labels), tally.ValueBuckets(bounds)).
		ValueBucket(finite(lower), finite(upper)).ReportSamples(n)
}

func (s *m3Sink) close() { s.reporter.Close() }

func tags(labels []*dto.LabelPair) map[string]string {
	out := make(map[string]string, len(labels))
	for _, l := range labels {
		out[l.GetName()] = l.GetValue()
	}
	return out
}

// finite returns the bound or, if it is infinite, the number that stands for infinity in tally.
func finite(bound float64) float64 { return min(max(bound, -math.MaxFloat64), math.MaxFloat64) }
