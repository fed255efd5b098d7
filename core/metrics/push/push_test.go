package push

import (
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	m3thrift "github.com/uber-go/tally/v4/m3/thrift/v2"
	"github.com/uber-go/tally/v4/thirdparty/github.com/apache/thrift/lib/go/thrift"
)

// recorded is a sink that records a line for each call.
type recorded struct{ lines []string }

func (r *recorded) line(name string, labels []*dto.LabelPair, rest ...any) {
	for _, l := range labels {
		name += " " + l.GetValue()
	}
	r.lines = append(r.lines, strings.TrimSpace(fmt.Sprintln(append([]any{name}, rest...)...)))
}

func (r *recorded) count(name string, labels []*dto.LabelPair, growth int64) {
	r.line(name, labels, growth)
}

func (r *recorded) gauge(name string, labels []*dto.LabelPair, value float64) {
	r.line(name, labels, value)
}

func (r *recorded) samples(name string, labels []*dto.LabelPair, _ []float64, lower, upper float64, n int64) {
	r.line(name, labels, lower, upper, n)
}

func (r *recorded) close() {}

// source is a registry with one metric of each kind.
type source struct {
	*prometheus.Registry
	requests, attempts *prometheus.CounterVec
	waited             prometheus.Counter
	inFlight           prometheus.Gauge
	times              prometheus.Histogram
	calls              prometheus.Summary
}

func newSource() *source {
	s := &source{
		Registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "whirlpool_requests_total"},
			[]string{"listener", "outcome"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "whirlpool_proxy_attempts_total"},
			[]string{"proxy_id"}),
		waited:   prometheus.NewCounter(prometheus.CounterOpts{Name: "whirlpool_retry_wait_seconds_total"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "whirlpool_requests_in_flight"}),
		times: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "whirlpool_request_duration_seconds",
			Buckets: []float64{0.1, 1}}),
		calls: prometheus.NewSummary(prometheus.SummaryOpts{Name: "whirlpool_plugin_duration_seconds"}),
	}
	other := prometheus.NewGauge(prometheus.GaugeOpts{Name: "go_goroutines"})
	s.MustRegister(s.requests, s.attempts, s.waited, s.inFlight, s.times, s.calls, other)
	return s
}

// push returns the lines of one push.
func (s *source) push(r *run) []string {
	out := &recorded{}
	r.gather, r.log = s.Gather, slog.New(slog.DiscardHandler)
	r.push([]sink{out})
	return out.lines
}

// The growth of each counter since the last push is sent. The first push sends no growth.
func TestGrowth(t *testing.T) {
	s, r := newSource(), &run{}
	s.requests.WithLabelValues("http", "success").Add(5)
	s.times.Observe(0.05)
	require.Equal(t, []string{"whirlpool_requests_in_flight 0"}, s.push(r), "the counters are from before")
	s.requests.WithLabelValues("http", "success").Add(2)
	s.requests.WithLabelValues("http", "exhausted").Inc()
	s.waited.Add(1.75)
	s.inFlight.Set(3)
	s.times.Observe(0.05)
	s.times.Observe(0.5)
	s.times.Observe(0.5)
	s.times.Observe(7)
	s.calls.Observe(2)
	require.Equal(t, []string{
		"whirlpool_plugin_duration_seconds_count 1",
		"whirlpool_plugin_duration_seconds_sum 2",
		"whirlpool_request_duration_seconds -Inf 0.1 1",
		"whirlpool_request_duration_seconds 0.1 1 2",
		"whirlpool_request_duration_seconds 1 +Inf 1",
		"whirlpool_request_duration_seconds_sum 8",
		"whirlpool_requests_in_flight 3",
		"whirlpool_requests_total http exhausted 1",
		"whirlpool_requests_total http success 2",
		"whirlpool_retry_wait_seconds_total 1",
	}, s.push(r))
	s.waited.Add(0.5)
	require.Equal(t, []string{"whirlpool_requests_in_flight 3", "whirlpool_retry_wait_seconds_total 1"}, s.push(r),
		"0.75 s have waited for this push")
}

// The series of a proxy begin at 0 (see named-proxies.md), also if the proxy has had series before.
func TestSeriesThatComeAndGo(t *testing.T) {
	s, r := newSource(), &run{}
	s.push(r)
	s.attempts.WithLabelValues("p1").Add(3)
	require.Equal(t, []string{"whirlpool_proxy_attempts_total p1 3", "whirlpool_requests_in_flight 0"}, s.push(r))
	s.attempts.Reset()
	require.Equal(t, []string{"whirlpool_requests_in_flight 0"}, s.push(r))
	s.attempts.WithLabelValues("p1").Add(5)
	require.Equal(t, []string{"whirlpool_proxy_attempts_total p1 5", "whirlpool_requests_in_flight 0"}, s.push(r))
}

func TestACounterThatRestartsAtZero(t *testing.T) {
	s, r := newSource(), &run{}
	s.requests.WithLabelValues("http", "success").Add(5)
	s.push(r)
	s.requests.Reset()
	s.requests.WithLabelValues("http", "success").Add(4)
	require.Equal(t, []string{"whirlpool_requests_in_flight 0", "whirlpool_requests_total http success 4"}, s.push(r))
}

// listen returns the address of a UDP listener and its next packet.
func listen(t *testing.T) (address string, next func() []byte) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String(), func() []byte {
		packet := make([]byte, 64<<10)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		n, _, err := conn.ReadFrom(packet)
		require.NoError(t, err)
		return packet[:n]
	}
}

// pushOnce changes metrics while a Pusher is on. Then it closes the Pusher, which pushes once more.
func pushOnce(settings Settings) {
	s := newSource()
	p := New(s.Gather, slog.New(slog.DiscardHandler))
	settings.Interval = time.Hour
	p.Configure(settings)
	s.requests.WithLabelValues("http", "success").Add(2)
	s.attempts.WithLabelValues("h:1").Add(3)
	s.times.Observe(0.5)
	p.Close()
	p.Close()
}

// What a statsd server receives.
func TestStatsd(t *testing.T) {
	address, next := listen(t)
	pushOnce(Settings{Statsd: address, StatsdPrefix: "wp"})
	lines := strings.Split(strings.TrimSpace(string(next())), "\n")
	sort.Strings(lines)
	require.Equal(t, []string{"wp.proxy_attempts_total.h_1:3|c", "wp.request_duration_seconds.0.100000-1.000000:1|c",
		"wp.requests_in_flight:0|g", "wp.requests_total.http.success:2|c"}, lines)
}

// emitted receives the batches of an M3 collector.
type emitted struct{ m3thrift.MetricBatch }

func (e *emitted) EmitMetricBatchV2(b m3thrift.MetricBatch) error {
	e.MetricBatch = b
	return nil
}

// What an M3 collector receives.
func TestM3(t *testing.T) {
	address, next := listen(t)
	pushOnce(Settings{M3: address, M3Service: "gate", M3Env: "test"})
	transport := thrift.NewTMemoryBuffer()
	transport.Write(next())
	protocol := thrift.NewTCompactProtocol(transport)
	batch := &emitted{}
	_, err := m3thrift.NewM3Processor(batch).Process(protocol, protocol)
	require.NoError(t, err)
	require.Contains(t, batch.CommonTags, m3thrift.MetricTag{Name: "service", Value: "gate"})
	require.Contains(t, batch.CommonTags, m3thrift.MetricTag{Name: "env", Value: "test"})
	var lines []string
	for _, m := range batch.Metrics {
		line := m.Name
		slices.SortFunc(m.Tags, func(a, b m3thrift.MetricTag) int { return strings.Compare(a.Name, b.Name) })
		for _, tag := range m.Tags {
			line += " " + tag.Name + "=" + tag.Value
		}
		if m.Value.MetricType == m3thrift.MetricType_COUNTER {
			line += fmt.Sprint(" ", m.Value.Count)
		}
		lines = append(lines, line)
	}
	require.Equal(t, []string{
		"whirlpool_proxy_attempts_total proxy_id=h:1 3",
		"whirlpool_request_duration_seconds bucket=0.100000-1.000000 bucketid=0001 1",
		"whirlpool_requests_in_flight",
		"whirlpool_requests_total listener=http outcome=success 2",
	}, lines)
}

// A Pusher that is off has no goroutine and gathers nothing.
func TestOff(t *testing.T) {
	p := New(func() ([]*dto.MetricFamily, error) {
		t.Error("gathered")
		return nil, nil
	}, slog.New(slog.DiscardHandler))
	p.Configure(Settings{Interval: time.Second, StatsdPrefix: "x", M3Service: "x", M3Env: "x"})
	require.Nil(t, p.stop)
	p.Close()
}

func TestAddresses(t *testing.T) {
	require.NoError(t, CheckAddress("statsd.test:8125"))
	for _, bad := range []string{"", "h", "h:", "h:0", "h:99999", ":8125", "http://h:1/"} {
		require.Error(t, CheckAddress(bad), bad)
	}
	require.Equal(t, math.MaxFloat64, finite(math.Inf(1)))
}

// If a name cannot be resolved, the gateway logs a warning and continues.
func TestAServerThatIsNotFound(t *testing.T) {
	var log strings.Builder
	r := &run{settings: Settings{Statsd: "127.0.0.1:x", M3: "127.0.0.1:x", M3Service: "s", M3Env: "e"},
		log: slog.New(slog.NewTextHandler(&log, nil))}
	require.Empty(t, r.open())
	require.Contains(t, log.String(), "metrics are not sent to statsd")
	require.Contains(t, log.String(), "metrics are not sent to M3")
}
