// Package otlp exports the requests of clients as traces: a span for each request, with a child span for each
// attempt. It sends the traces to a collector with OTLP over HTTP in JSON (https://opentelemetry.io/docs/specs/otlp/,
// version 1).
package otlp

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/trace"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Settings are the settings of an Exporter.
type Settings struct {
	Endpoint string  // URL, such as http://127.0.0.1:4318/v1/traces; "" exports nothing
	Ratio    float64 // share of requests to export, 0 to 1; for requests whose client sends no trace
}

// CheckEndpoint returns an error unless endpoint can be Settings.Endpoint.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return errors.New("must be an http:// or https:// URL without user, such as http://127.0.0.1:4318/v1/traces")
	}
	return nil
}

// Limits and times of an Exporter.
const (
	maxPending     = 4096 // maximum number of spans that wait for the export; further spans are dropped
	exportInterval = 2 * time.Second
	exportTimeout  = 10 * time.Second // maximum time of one export
)

// Exporter sends spans to a collector in the background. A request never waits for the export.
type Exporter struct {
	settings atomic.Pointer[Settings]
	version  string
	log      *slog.Logger
	client   *http.Client
	stop     context.CancelFunc
	done     chan struct{}

	mu           sync.Mutex // guards the fields below
	pending      []span
	droppedCount int
}

// New returns an Exporter that exports nothing until Configure is called. The parameter version is the version of the
// gateway. The caller must call Close.
func New(version string, log *slog.Logger) *Exporter {
	ctx, stop := context.WithCancel(context.Background())
	e := &Exporter{version: version, log: log, stop: stop, done: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{}, Timeout: exportTimeout}}
	e.settings.Store(&Settings{})
	go e.run(ctx)
	return e
}

// Configure changes the settings.
func (e *Exporter) Configure(s Settings) { e.settings.Store(&s) }

// Ratio returns Settings.Ratio. It returns false if there is no endpoint: then nothing is exported.
func (e *Exporter) Ratio() (ratio float64, on bool) {
	s := e.settings.Load()
	return s.Ratio, s.Endpoint != ""
}

// Close exports the waiting spans, and ends the exporter.
func (e *Exporter) Close() {
	e.stop()
	<-e.done
}

func (e *Exporter) run(ctx context.Context) {
	defer close(e.done)
	tick := time.NewTicker(exportInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.export()
		case <-ctx.Done():
			e.export()
			return
		}
	}
}

// Write adds the spans of a request that has ended. It does not keep r.
func (e *Exporter) Write(r *accesslog.Record) {
	if _, on := e.Ratio(); !on || !r.Trace.Sampled {
		return
	}
	spans := spansOf(r)
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.pending)+len(spans) > maxPending {
		e.droppedCount += len(spans)
		return
	}
	e.pending = append(e.pending, spans...)
}

// export sends the waiting spans. If that fails, they are lost.
func (e *Exporter) export() {
	e.mu.Lock()
	spans, dropped := e.pending, e.droppedCount
	e.pending, e.droppedCount = nil, 0
	e.mu.Unlock()
	endpoint := e.settings.Load().Endpoint
	if len(spans) > 0 && endpoint != "" {
		if err := e.send(endpoint, spans); err != nil {
			dropped += len(spans)
			e.log.Warn("traces were not exported", slog.Any("error", err), slog.Int("spans", dropped))
			return
		}
	}
	if dropped > 0 {
		e.log.Warn("traces were not exported: there were too many", slog.Int("spans", dropped))
	}
}

func (e *Exporter) send(endpoint string, spans []span) error {
	body, err := json.Marshal(exportRequest{[]resourceSpans{{
		Resource: resource{[]attribute{textAttribute("service.name", "whirlpool"),
			textAttribute("service.version", e.version)}},
		Scopes: []scopeSpans{{Scope: scope{"whirlpool", e.version}, Spans: spans}},
	}}})
	if err != nil {
		return err
	}
	response, err := e.client.Post(endpoint, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		message, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return fmt.Errorf("the collector responds with status %d: %s", response.StatusCode, message)
	}
	return nil
}

// The types below have the JSON form of the protocol buffers of OTLP: ids are hexadecimal digits, and 64-bit numbers
// are texts.

type exportRequest struct {
	ResourceSpans []resourceSpans `json:"resourceSpans"`
}

type resourceSpans struct {
	Resource resource     `json:"resource"`
	Scopes   []scopeSpans `json:"scopeSpans"`
}

type resource struct {
	Attributes []attribute `json:"attributes"`
}

type scopeSpans struct {
	Scope scope  `json:"scope"`
	Spans []span `json:"spans"`
}

type scope struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type span struct {
	TraceID    string      `json:"traceId"`
	SpanID     string      `json:"spanId"`
	ParentID   string      `json:"parentSpanId,omitempty"`
	Name       string      `json:"name"`
	Kind       int         `json:"kind"`
	Start      string      `json:"startTimeUnixNano"`
	End        string      `json:"endTimeUnixNano"`
	Attributes []attribute `json:"attributes"`
	Status     status      `json:"status"`
}

// Values of span.Kind and status.Code.
const (
	kindServer = 2
	kindClient = 3
	codeError  = 2
)

type status struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

type attribute struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

func textAttribute(key, value string) attribute {
	return attribute{key, map[string]string{"stringValue": value}}
}

func numberAttribute(key string, n int64) attribute {
	return attribute{key, map[string]string{"intValue": strconv.FormatInt(n, 10)}}
}

// spansOf returns the span of a request and the spans of its attempts. If OpenTelemetry's semantic conventions for HTTP
// have a name for an attribute, the attribute has this name.
func spansOf(r *accesslog.Record) []span {
	traceID, requestSpan := hex.EncodeToString(r.Trace.ID[:]), spanID(trace.RequestSpan(r.ID))
	s := span{TraceID: traceID, SpanID: requestSpan, Name: r.Method, Kind: kindServer, Start: unixNanos(r.Started),
		End: unixNanos(r.Ended), Attributes: []attribute{
			textAttribute("http.request.method", r.Method), textAttribute("whirlpool.request_id", r.ID.String()),
			textAttribute("whirlpool.outcome", r.Outcome()), textAttribute("whirlpool.listener", r.Listener.String()),
			numberAttribute("whirlpool.attempts", int64(len(r.Attempts))),
			numberAttribute("http.request.body.size", r.Received),
		}}
	if r.ClientID != "" {
		s.Attributes = append(s.Attributes, textAttribute("whirlpool.client_request_id", r.ClientID))
	}
	if r.Trace.Parent != 0 {
		s.ParentID = spanID(r.Trace.Parent)
	}
	if host, port, err := net.SplitHostPort(r.Target); err == nil {
		s.Attributes = append(s.Attributes, textAttribute("server.address", host))
		if n, err := strconv.ParseInt(port, 10, 64); err == nil {
			s.Attributes = append(s.Attributes, numberAttribute("server.port", n))
		}
	}
	if r.Status != 0 {
		s.Attributes = append(s.Attributes, numberAttribute("http.response.status_code", int64(r.Status)))
	}
	if !r.Executed || r.ClientLeft || r.Final != core.FinalSuccess {
		s.Status = status{codeError, r.Outcome()}
	}
	spans := []span{s}
	for i := range r.Attempts {
		spans = append(spans, attemptSpan(&r.Attempts[i], traceID, requestSpan, trace.AttemptSpan(r.ID, i)))
	}
	return spans
}

func attemptSpan(e *core.AttemptEvent, traceID, parent string, id uint64) span {
	cause := verdict.CauseName(e.Outcome.Cause)
	s := span{TraceID: traceID, SpanID: spanID(id), ParentID: parent, Name: "attempt", Kind: kindClient,
		Start: unixNanos(e.Started), End: unixNanos(e.Ended), Attributes: []attribute{
			textAttribute("whirlpool.proxy_id", e.ProxyID), textAttribute("whirlpool.cause", cause),
			numberAttribute("http.request.resend_count", int64(e.Attempt)),
		}}
	if e.Outcome.Status != 0 {
		s.Attributes = append(s.Attributes, numberAttribute("http.response.status_code", int64(e.Outcome.Status)))
	}
	if e.Hedge {
		s.Attributes = append(s.Attributes, attribute{"whirlpool.hedge", map[string]bool{"boolValue": true}})
	}
	if e.Outcome.Result != core.ResultSuccess {
		s.Attributes = append(s.Attributes, textAttribute("error.type", cause))
		s.Status = status{Code: codeError}
		if e.Outcome.Err != nil {
			s.Status.Message = e.Outcome.Err.Error()
		}
	}
	return s
}

func spanID(n uint64) string { return fmt.Sprintf("%016x", n) }

func unixNanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
